"""How fast the Plan page answers any change at Llama-3-8B size: plan, the five figures with their numbers, their JSON.

    settings -> plan_from_settings -> five figures (their numbers included) -> JSON, as it goes to the browser

Shape from the model's config, random scores: no weight is read, and time does not depend on what the scores are. Every
strategy answers changes of mixed settings: ratio, protection, split, rates, floors, multiples, groups kept by hand. Knows
nothing about streamlit: transfer to the browser and drawing there are extra.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly

from analysis import charts
from pruning.errors import PruningError
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.planner import plan_from_settings
from pruning.planning.shape import ModelShape
from pruning.settings import Settings, resolve
from pruning.words import FORMATTER

LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
STRATEGIES = {
    "global, auto": {"strategy": "global"},
    "global, fixed split": {"strategy": "global", "pruning_distribution": ("1:9", "2:8", "3:7")},
    "layer, inverse": {"strategy": "layer", "pruning_strategy": "inverse"},
    "layer, match_target": {"strategy": "layer", "pruning_strategy": "inverse", "match_target": True},
    "uniform": {"strategy": "uniform"},
}
_RATIOS = (0.02, 0.45)  # the slider's way
_OFTEN_DEFAULT = 0.6  # a change touches few settings: each of the others keeps its default this often
_SCATTERED = ",".join(f"15m{channel}" for channel in range(0, 5000, 10))  # as a person gets who picks them in a chart
_EVERY_STRATEGY = {"mlp_multiple": (64, 128, 256), "keep_groups": ("3a1,5m20-29", "12m0-999,17a7", _SCATTERED)}
_PROTECTED = {"protected_layers": ("7", "10-12,20", "none"), "freeze_top_n_layers": (1, 3, 6)}
_LAYERWISE = {
    "importance_weight": (0.3, 1.5, 3.0),
    "layer_min_pruning_rate": (0.0, 0.05, 0.25),
    "layer_max_pruning_rate": (0.6, 0.8, 0.95),
}
_SPLIT = {"pruning_distribution": ("0:10", "1:9", "5:5")}
_MIXED = {
    "global": _EVERY_STRATEGY | _PROTECTED,
    "layer": _EVERY_STRATEGY | _PROTECTED | _LAYERWISE | _SPLIT,
    "uniform": _EVERY_STRATEGY | _SPLIT,
}
_MEDIAN_BOUND, _WORST_BOUND = 100, 150  # milliseconds
_TEXT_FOLDER = Path(__file__).parent.parent / "analysis" / "text"


@dataclass(frozen=True)
class Change:
    """Milliseconds of one answer."""

    plan: float
    figures: float
    json: float

    @property
    def total(self) -> float:
        return self.plan + self.figures + self.json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--changes", type=int, default=50, help="changes for each strategy (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of scores and changes (default 0)")


def run(args: argparse.Namespace) -> None:
    """Prints median and worst milliseconds per change for each strategy, and what the first one costs on top."""
    table, layers = random_table(ModelShape.from_config(LLAMA_3_8B), args.seed), random_layers(args.seed)
    texts = english_texts()
    attention = int((~table.groups.is_mlp).sum())
    print(f"model: Llama-3-8B's shape, {table.shape.parameters:,} parameters, random scores")
    print(f"groups: {attention:,} attention groups, {table.groups.size - attention:,} MLP channels")
    print(f"machine: {_cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; this code runs on one thread")
    print(f"python {platform.python_version()}, numpy {np.__version__}, plotly {plotly.__version__}")
    first = _timed(lambda: (table.order, table.block_in_order, table.rank_in_order))[0]
    print(f"first time only, sorting the table: {first:.1f} ms")
    _answer(table, layers, texts, resolve({}))  # imports inside plotly are not a change's cost
    print(f"\n{args.changes} changes of mixed settings for each strategy, milliseconds, median (worst):")
    columns = "".join(f"{part:>18s}" for part in ("plan", "figures", "JSON", "whole change"))
    print(f"  {'':22s}{columns}   < {_MEDIAN_BOUND} ({_WORST_BOUND})")
    for name in STRATEGIES:
        changes, slowest = _measure(name, table, layers, texts, args)
        parts = ([getattr(change, part) for change in changes] for part in ("plan", "figures", "json", "total"))
        cells = "".join(f"{f'{np.median(times):.1f} ({max(times):.1f})':>18s}" for times in parts)
        whole = [change.total for change in changes]
        holds = np.median(whole) < _MEDIAN_BOUND and max(whole) < _WORST_BOUND
        print(f"  {name:22s}{cells}   {'pass' if holds else f'MISS, slowest: {str(slowest)[:200]}'}")


def random_table(shape: ModelShape, seed: int) -> GroupTable:
    """Lognormal scores whose scale differs by layer and kind."""
    random, groups = np.random.default_rng(seed), GroupIndex(shape)
    block_scale = np.repeat(random.lognormal(0, 1, len(groups.block_sizes)), groups.block_sizes)
    return GroupTable(shape, random.lognormal(0, 1, groups.size) * groups.cost * block_scale, {"method": "random"})


def random_layers(seed: int) -> LayerImportance:
    importance = np.random.default_rng(seed).lognormal(0, 1, LLAMA_3_8B["num_hidden_layers"])
    return LayerImportance("random", importance, None, {})


def english_texts() -> dict[str, str]:
    """All English texts of the app, by key."""
    texts: dict[str, str] = {}
    for path in sorted(_TEXT_FOLDER.glob("*en.json")):
        texts |= json.loads(path.read_text(encoding="utf-8"))
    return texts


def _measure(name: str, table: GroupTable, layers: LayerImportance, texts: dict, args) -> tuple[list[Change], dict]:
    """The changes of one strategy, and the settings of the slowest."""
    random = np.random.default_rng(args.seed)
    changes: list[Change] = []
    given_for: list[dict] = []
    while len(changes) < args.changes:
        given = _mixed(STRATEGIES[name], random)
        strategy = given.pop("strategy")
        try:
            changes.append(_answer(table, layers, texts, resolve(given, strategy)))
        except PruningError:  # such a mix has no plan: the page says so instead of drawing
            continue
        given_for.append(given)
    slowest = max(range(len(changes)), key=lambda i: changes[i].total)
    return changes, given_for[slowest]


def _mixed(fixed: dict, random: np.random.Generator) -> dict:
    """Settings as a person might mix them: a ratio, and now and then each of the others."""
    given = {"pruning_ratio": round(float(random.uniform(*_RATIOS)), 4)}
    for setting, values in _MIXED[fixed["strategy"]].items():
        if random.random() > _OFTEN_DEFAULT:
            given[setting] = values[random.integers(len(values))]
    for setting, value in fixed.items():
        given[setting] = value[random.integers(len(value))] if isinstance(value, tuple) else value
    return given


def _answer(table: GroupTable, layers: LayerImportance, texts: dict, settings: Settings) -> Change:
    """One change on the page; the plan is a new one each time, so nothing of it is cached."""

    def t(key: str, **values) -> str:
        return FORMATTER.format(texts[key], **values)

    plan_time, planned = _timed(lambda: plan_from_settings(table, settings, layers))
    plan, protection = planned.plan, planned.protection
    figures_time, figures = _timed(
        lambda: (
            charts.pruning_rates(plan, protection, t, planned.rates),
            charts.score_curve(table, plan, protection, t, planned.floors),
            charts.groups_cut(plan, t),
            charts.removed_parameters(plan, t),
            charts.balance(plan, t),
        )
    )
    json_time, _ = _timed(lambda: [figure.to_json() for figure in figures])
    return Change(plan_time, figures_time, json_time)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1000, result


def _cpu_name() -> str:
    """The processor as Linux names it, elsewhere as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
