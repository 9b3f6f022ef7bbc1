"""How fast the Plan page answers a slider at Llama-3-8B size: plan, numbers of all charts, figures.

Shape from the model's config, random scores: no weight is read, and time does not depend on what the scores are. Every
number printed was measured in this run. Knows nothing about streamlit: transfer to the browser and drawing there are extra.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import plotly

from analysis import charts, diff
from pruning.planning.allocation import Floors, Protection, allocate_global
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ModelShape

LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
_SMALLEST, _LARGEST = 0.02, 0.6  # the slider's way; 60 % is near the largest ratio under default protection
_TEXT_FOLDER = Path(__file__).parent.parent / "ui" / "text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--positions", type=int, default=50, help="slider positions (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random scores (default 0)")


def run(args: argparse.Namespace) -> None:
    """Prints median and worst milliseconds per slider change, and what the first one costs on top."""
    table = random_table(ModelShape.from_config(LLAMA_3_8B), args.seed)
    protection, texts = Protection.resolve(table.shape.num_layers), english_texts()
    first = _timed(lambda: (table.order, table.block_in_order, table.rank_in_order))[0]
    times = {"plan": [], "chart numbers": [], "figures, numbers included": [], "figures as JSON": []}
    _slider_change(table, protection, texts, _SMALLEST)  # imports inside plotly are not a slider's cost
    for ratio in np.linspace(_SMALLEST, _LARGEST, args.positions):
        for name, milliseconds in zip(times, _slider_change(table, protection, texts, float(ratio)), strict=True):
            times[name].append(milliseconds)
    _print_basis(table)
    print(f"first time only, sorting the table: {first:8.1f} ms")
    print(f"per slider change, {args.positions} positions from {_SMALLEST:.0%} to {_LARGEST:.0%} of all parameters:")
    plan, numbers, figures, as_json = times.values()
    rows = times | {
        "plan + chart numbers": np.add(plan, numbers),
        "plan + figures + JSON": np.add(np.add(plan, figures), as_json),
    }
    for name, milliseconds in rows.items():
        print(f"  {name:26s} median {np.median(milliseconds):7.1f} ms   worst {np.max(milliseconds):7.1f} ms")


def random_table(shape: ModelShape, seed: int) -> GroupTable:
    """Lognormal scores whose scale differs by layer and kind."""
    random, groups = np.random.default_rng(seed), GroupIndex(shape)
    block_scale = np.repeat(random.lognormal(0, 1, len(groups.block_sizes)), groups.block_sizes)
    return GroupTable(shape, random.lognormal(0, 1, groups.size) * groups.cost * block_scale, {"method": "random"})


def english_texts() -> dict[str, str]:
    """All English texts of the app, by key."""
    texts: dict[str, str] = {}
    for path in sorted(_TEXT_FOLDER.glob("*en.json")):
        texts |= json.loads(path.read_text(encoding="utf-8"))
    return texts


def _slider_change(table: GroupTable, protection: Protection, texts: dict, ratio: float) -> tuple[float, ...]:
    """Milliseconds of one slider change: plan, chart numbers, figures, their JSON."""
    floors = Floors()
    settings = {"pruning_ratio": ratio}
    plan_time, plan = _timed(lambda: allocate_global(table, ratio, protection, floors, settings=settings))
    numbers_time, _ = _timed(lambda: _chart_numbers(table, plan, protection, floors))
    fresh = PruningPlan(plan.shape, plan.kept, plan.remove_empty_layers, plan.fingerprint, plan.settings)  # nothing cached
    figures_time, figures = _timed(lambda: _figures(table, fresh, protection, floors, texts))
    json_time, _ = _timed(lambda: [figure.to_json() for figure in figures])
    return plan_time, numbers_time, figures_time, json_time


def _chart_numbers(table: GroupTable, plan: PruningPlan, protection: Protection, floors: Floors) -> tuple:
    return (
        charts.pruning_rates_data(plan, protection),
        charts.score_curve_data(table, plan, protection, floors),
        diff.layer_table(plan),
        plan.kept_counts,
    )


def _figures(table: GroupTable, plan: PruningPlan, protection: Protection, floors: Floors, texts: dict) -> tuple:
    def t(key: str, **values) -> str:
        return texts[key].format(**values)

    return (
        charts.pruning_rates(plan, protection, t),
        charts.score_curve(table, plan, protection, t, floors),
        charts.sparsity_bars(diff.layer_table(plan), plan, t),
        charts.groups_cut(plan, t),
    )


def _timed(work) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1000, result


def _print_basis(table: GroupTable) -> None:
    attention = int((~table.groups.is_mlp).sum())
    print(f"model: Llama-3-8B's shape, {table.shape.parameters:,} parameters, random scores")
    print(f"groups: {attention:,} attention groups, {table.groups.size - attention:,} MLP channels")
    print(f"machine: {_cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; this code runs on one thread")
    print(f"python {platform.python_version()}, numpy {np.__version__}, plotly {plotly.__version__}")


def _cpu_name() -> str:
    """The processor as Linux names it, elsewhere as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
