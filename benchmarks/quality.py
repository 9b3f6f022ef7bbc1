"""Perplexity of the demo model after a cut, for each method, strategy, protection and ratio, beside cuts at random.

    importance of groups, of layers  ->  plans  ->  perplexity of the masked model  ->  results/quality.csv, quality.json
                                          '-> the same sizes per layer, groups drawn at random

`layer` takes `inverse` rates between 0 and 0.9 with `match_target`, so that its models are as small as those of the others.
Each distinct plan is evaluated once, and kept: `--resume` continues after a stop; without it all is measured again, except what
recoveries gave on the same basis. `--recovery` adds what repair, iterative
cutting and training win back (_recovery_ways.py) to the rows of global taylor with default protection, and measures nothing
else.
"""

import argparse
import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
import transformers

from pruning.errors import PruningError
from pruning.methods import IMPORTANCE_METHODS
from pruning.model.calibration import CALIBRATION, Corpus, draw_samples, load_corpus
from pruning.model.checkpoint import LoadedModel, load, open_checkpoint
from pruning.model.held_out import HeldOutText, perplexity
from pruning.model.importance import measure_groups
from pruning.model.layer_importance import measure_layers
from pruning.model.masking import masked
from pruning.planning.allocation import Floors
from pruning.planning.block_counts import plan_from_counts
from pruning.planning.group_table import GroupTable
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.plan import PruningPlan
from pruning.planning.planner import plan_from_settings
from pruning.settings import SETTINGS, resolve
from pruning.strategies import STRATEGIES

from . import _recovery_ways
from ._flags import add_names
from ._quality_rows import Results, Row
from ._recovery_ways import WAYS, Recoveries

DEFAULT, NONE = "default", "none"  # protection: of the first 3 and last 2 layers, or of no layer
_LAYER_METHOD = SETTINGS["layer_importance_method"].default
_MOST_LAYER_SAMPLES = 50
_SEED, _BATCH_SIZE = 0, 8
_RESULTS = Path(__file__).parent / "results"
_OF_STRATEGY = {
    "layer": {
        "pruning_strategy": "inverse",
        "layer_min_pruning_rate": 0.0,
        "layer_max_pruning_rate": 0.9,
        "match_target": True,
    },
}


@dataclass(frozen=True)
class _Planned:
    """A row that is still to be measured, its plan, and plans of the same sizes at random; no plans where it is refused."""

    row: Row
    plan: PruningPlan | None = None
    at_random: tuple[PruningPlan, ...] = ()

    @property
    def plans(self) -> tuple[PruningPlan, ...]:
        return (self.plan, *self.at_random) if self.plan else ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser, "--methods", IMPORTANCE_METHODS)
    add_names(parser, "--strategies", STRATEGIES)
    parser.add_argument("--ratios", type=_ratios, default=[0.1, 0.25, 0.4], help="default 0.1,0.25,0.4")
    parser.add_argument("--windows", type=int, default=256, help="held-out windows (default 256)")
    parser.add_argument("--seq_len", type=int, default=128, help="tokens of each window (default 128)")
    parser.add_argument("--seeds", type=int, default=5, help="cuts at random for each set of sizes (default 5)")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows (default 128; for layers at most 50)")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="folder of the files (default benchmarks/results)")
    parser.add_argument("--resume", action="store_true", help="keep what the files hold, measure what they lack")
    recovery = parser.add_argument_group("recovery")
    recovery.add_argument("--recovery", nargs="?", const=",".join(WAYS), help="only add these columns, joined by commas; all")
    recovery.add_argument("--recovery_ratios", type=_ratios, default=[0.25, 0.4], help="default 0.25,0.4")
    _recovery_ways.add_arguments(recovery)


def run(args: argparse.Namespace) -> None:
    """Measures row by row, writes both files after each, and prints the table."""
    loaded = load(open_checkpoint("demo"), resolve({"base_model": "demo", "device": "cpu"}))
    text = HeldOutText.load(loaded.tokenizer, "python-stdlib", args.seq_len, args.windows)
    calibration = load_corpus("python-stdlib", CALIBRATION)
    basis = _basis(loaded, text, calibration, args)
    if args.recovery:
        _add_recoveries(Results.resumed(args.output, basis), loaded, text, calibration, args)
        return
    results = Results.resumed(args.output, basis) if args.resume else Results.anew(args.output, basis)
    evaluation = _Evaluation(loaded, text, results.perplexities)
    whole = PruningPlan.keep_all(loaded.header.shape, fingerprint=loaded.header.fingerprint)
    basis["noted"]["perplexity, whole model"] = round(evaluation.perplexity_of(whole), 4)
    missing = [key for key in _keys(args) if key not in results.rows]
    if missing:
        planned = _planned_rows(missing, loaded, calibration, args)
        evaluation.expect(plan for one in planned for plan in one.plans)
        plans, minutes = len(evaluation.waiting), evaluation.minutes_left
        print(f"{len(missing)} rows, {plans} plans to evaluate: {minutes:.0f} min", flush=True)
        for place, one in enumerate(planned, start=1):
            row = _measured(one, evaluation.perplexity_of)
            results.add(row)
            name = f"{row.strategy}, {row.protection}, {row.ratio:.0%}, {row.method}"
            print(f"  {place:3d} {name:34s}{row.cell:38s}{evaluation.minutes_left:6.1f} min left", flush=True)
    results.print()


def _ratios(text: str) -> list[float]:
    return [float(ratio) for ratio in text.split(",")]


def _keys(args: argparse.Namespace) -> list[tuple[str, str, float, str]]:
    """(strategy, protection, ratio, method) of every row asked for."""
    return [
        (strategy, protection, ratio, method)
        for strategy in args.strategies
        for protection in ([DEFAULT, NONE] if STRATEGIES[strategy].protects else [NONE])
        for ratio in args.ratios
        for method in args.methods
    ]


def _basis(loaded: LoadedModel, text: HeldOutText, calibration: Corpus, args: argparse.Namespace) -> dict:
    """What the figures rest on: `compared` must be equal to continue from earlier ones, `noted` may differ."""
    layer_samples = min(_MOST_LAYER_SAMPLES, args.samples)
    compared = {
        "model": f"demo, {loaded.header.shape.parameters:,} parameters",
        "fingerprint": loaded.header.fingerprint,
        **text.basis,
        "calibration_sha256": calibration.sha256,
        "calibration_windows": f"{args.samples} for groups, {layer_samples} for layers, batches of {_BATCH_SIZE}, seed {_SEED}",
        "layer_importance_method": _LAYER_METHOD,
        "seeds at random": args.seeds,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    } | {strategy: _in_words(strategy) for strategy in STRATEGIES}
    noted = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return {"compared": compared, "noted": noted}


def _in_words(strategy: str) -> str:
    """The settings of a strategy that are not the same for all."""
    settings = {"pruning_distribution": resolve({}, strategy).pruning_distribution} | _OF_STRATEGY.get(strategy, {})
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _add_recoveries(
    results: Results, loaded: LoadedModel, text: HeldOutText, calibration: Corpus, args: argparse.Namespace
) -> None:
    """Fills the recovery columns that are asked for, and leaves everything else in the files as it is."""
    ways = args.recovery.split(",")
    if unknown := set(ways) - set(WAYS):
        raise SystemExit(f"There is no way of recovery {', '.join(sorted(unknown))}; use some of: {', '.join(WAYS)}.")
    results.keep_notes()
    samples = draw_samples(calibration, loaded.tokenizer, args.samples, args.seq_len, _SEED)
    table = _table("taylor", loaded, samples)
    recoveries = Recoveries(loaded, table, text, calibration, args)
    results.recovery_basis = recoveries.basis | {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds")}
    for ratio in args.recovery_ratios:
        settings = resolve({"pruning_ratio": ratio})
        plan = plan_from_settings(table, settings).plan
        key = ("global", DEFAULT, ratio, "taylor")
        row = results.rows.get(key) or Row(*key, plan.actual_ratio, plan.digest)
        if row.perplexity is None:
            with masked(loaded.model, plan) as model:
                row = replace(row, perplexity=perplexity(model, text.windows))
        for way in ways:
            start = time.perf_counter()
            value = recoveries.perplexity_after(way, plan, settings)
            row = replace(row, **{way: value})
            results.add(row)
            print(f"  {ratio:.0%} {way:24s}{value:10.3f}{time.perf_counter() - start:10.1f} s", flush=True)
    results.print_recoveries(WAYS)


# plans ----------------------------------------------------------------------------------------------------------------


def _planned_rows(keys: list[tuple], loaded: LoadedModel, calibration: Corpus, args: argparse.Namespace) -> list[_Planned]:
    """Measures the importance that these rows need, and plans them."""

    def windows(count: int) -> torch.Tensor:
        return draw_samples(calibration, loaded.tokenizer, count, args.seq_len, _SEED)

    samples = windows(args.samples)
    tables = {method: _table(method, loaded, samples) for method in dict.fromkeys(method for *_, method in keys)}
    layers = None
    if any(STRATEGIES[strategy].has_layer_rates for strategy, *_ in keys):
        start = time.perf_counter()
        layers = measure_layers(_LAYER_METHOD, loaded.model, windows(min(_MOST_LAYER_SAMPLES, args.samples)), _BATCH_SIZE)
        print(f"importance of layers by {_LAYER_METHOD}: {time.perf_counter() - start:.1f} s", flush=True)
    return [_plan(key, tables[key[-1]], layers, args.seeds) for key in keys]


def _table(method: str, loaded: LoadedModel, samples: torch.Tensor) -> GroupTable:
    start, header = time.perf_counter(), loaded.header
    importance = measure_groups(method, loaded.model, header.shape, samples, _BATCH_SIZE)
    print(f"importance of groups by {method}: {time.perf_counter() - start:.1f} s", flush=True)
    return GroupTable(header.shape, importance, {"fingerprint": header.fingerprint})


def _plan(key: tuple, table: GroupTable, layers: LayerImportance | None, seeds: int) -> _Planned:
    strategy, protection, ratio, method = key
    given = {"pruning_ratio": ratio} | _OF_STRATEGY.get(strategy, {})
    if STRATEGIES[strategy].protects and protection == NONE:
        given["protected_layers"] = "none"
    try:
        plan = plan_from_settings(table, resolve(given, strategy), layers).plan
    except PruningError as error:
        return _Planned(Row(strategy, protection, ratio, method, refused=str(error)))
    return _Planned(
        Row(strategy, protection, ratio, method, plan.actual_ratio, plan.digest),
        plan,
        tuple(_at_random(plan, seed) for seed in range(seeds)),
    )


def _at_random(plan: PruningPlan, seed: int) -> PruningPlan:
    """As many groups of each block as `plan` keeps, drawn at random."""
    importance = np.random.default_rng(seed).random(plan.groups.size)
    table = GroupTable(plan.shape, importance, {"fingerprint": plan.fingerprint})
    return plan_from_counts(table, plan.kept_counts, Floors())


# perplexities ---------------------------------------------------------------------------------------------------------


class _Evaluation:
    """Perplexity of plans, each distinct one measured once, and how long the rest will take."""

    def __init__(self, loaded: LoadedModel, text: HeldOutText, known: dict[str, float]):
        self.loaded, self.text, self.known = loaded, text, known
        self.waiting: set[str] = set()
        self.seconds: list[float] = []

    def expect(self, plans: Iterable[PruningPlan]) -> None:
        self.waiting = {plan.digest for plan in plans} - set(self.known)

    def perplexity_of(self, plan: PruningPlan) -> float:
        if plan.digest not in self.known:
            start = time.perf_counter()
            with masked(self.loaded.model, plan) as model:
                self.known[plan.digest] = perplexity(model, self.text.windows)
            self.seconds.append(time.perf_counter() - start)
            self.waiting.discard(plan.digest)
        return self.known[plan.digest]

    @property
    def minutes_left(self) -> float:
        return len(self.waiting) * mean(self.seconds or [0]) / 60


def _measured(planned: _Planned, perplexity_of: Callable[[PruningPlan], float]) -> Row:
    if planned.plan is None:
        return planned.row
    at_random = [perplexity_of(plan) for plan in planned.at_random]
    return replace(
        planned.row,
        perplexity=perplexity_of(planned.plan),
        random_mean=mean(at_random),
        random_std=stdev(at_random) if len(at_random) > 1 and all(map(math.isfinite, at_random)) else math.nan,
        random_min=min(at_random),
        random_max=max(at_random),
    )
