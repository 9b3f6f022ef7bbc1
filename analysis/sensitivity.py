"""The numbers that the Learn page fills into its sentences, each from files or sizes of the open experiment. No torch.

A `result` is what pruning/runs/sensitivity/results.py reads: `points`, `whole`, `perplexity`, `question.options`.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pruning.planning.allocation import Floors, allocate_global, largest_ratio, removable
from pruning.planning.group_table import GroupTable
from pruning.planning.kept_indices import group_axis
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP, LayerShape
from pruning.words import readable_size

HELPS, HURTS, UNCLEAR = "helps", "hurts", "unclear"
_ROOTS = 2  # of a layer: k_proj for attention, gate_proj for the MLP


# zeros or a smaller matrix --------------------------------------------------------------------------------------------


def matrix_numbers(result) -> dict:
    """What chapter 1 says of its matrix: sizes, bytes in words, milliseconds, and how many times as fast each is."""
    dense, zeros, smaller = (result.whole[name] for name in ("dense", "zeros", "smaller"))
    return {
        "layer": result.question.options["layer"],
        "share": 1 - smaller["shape"][0] / dense["shape"][0],
        "rows": dense["shape"][0],
        "rows_left": smaller["shape"][0],
        "columns": dense["shape"][1],
        "zeros": zeros["zeros"],
        "bytes": readable_size(dense["bytes"]),
        "bytes_per_weight": dense["bytes"] // (dense["shape"][0] * dense["shape"][1]),
        "bytes_zeros": readable_size(zeros["bytes"]),
        "bytes_smaller": readable_size(smaller["bytes"]),
        "tokens": result.whole["tokens"],
        "milliseconds": dense["milliseconds"],
        "milliseconds_zeros": zeros["milliseconds"],
        "milliseconds_smaller": smaller["milliseconds"],
        "faster_zeros": dense["milliseconds"] / zeros["milliseconds"],
        "faster_smaller": dense["milliseconds"] / smaller["milliseconds"],
    }


# one group ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A matrix of a layer on the drawing, one unit per row or column; `lit` (x, y, width, height) is what the group takes."""

    module: str
    x: float
    y: float
    rows: int
    columns: int
    lit: tuple[float, float, float, float] | None


def layer_boxes(layer: LayerShape, kind: str, group: int) -> list[Box]:
    """The seven matrices side by side to scale; of one attention group or MLP channel the rows or columns lit."""
    boxes, x = [], 0.0
    gap = max(0.3 * layer.hidden_size, 0.12 * max(layer.hidden_size, layer.intermediate_size))  # room for the names above
    for name, shape in layer.tensor_shapes().items():
        rule = group_axis(name, layer)
        if len(shape) != 2 or rule is None:
            continue
        (group_type, dim, width), (rows, columns) = rule, shape
        lit = None
        if group_type == kind:
            at = group * width
            lit = (x, at, columns, width) if dim == 0 else (x + at, 0.0, width, rows)
        boxes.append(Box(name.split(".")[1], x, 0.0, rows, columns, lit))
        x += columns + gap
    return boxes


def group_parts(layer: LayerShape, kind: str) -> pd.DataFrame:
    """What one group takes from each matrix: `module`, `what` (rows or columns), `count`, `parameters`; sums to its cost."""
    parts = []
    for name, shape in layer.tensor_shapes().items():
        rule = group_axis(name, layer)
        if rule is None or rule[0] != kind:
            continue
        _, dim, width = rule
        per_index = int(np.prod(shape)) // shape[dim]
        parts.append((name.split(".", 1)[1].removesuffix(".weight"), ("rows", "columns")[dim], width, width * per_index))
    return pd.DataFrame(parts, columns=["module", "what", "count", "parameters"])


def shade(before: float, after: float) -> int:
    """How much a token lost without the group, from 0 (nothing) to 4 (2 nats and more); -1 to -4 where it gained."""
    change = after - before
    steps = int(np.searchsorted((0.05, 0.25, 0.75, 2.0), abs(change), side="right"))
    return steps if change > 0 else -steps


# from rate to cut -----------------------------------------------------------------------------------------------------


def cut_numbers(plan: PruningPlan, rates, protection: Protection, layer_idx: int, bytes_per_parameter: int) -> dict:
    """What chapter 3 says of one layer and of the whole: rates, groups, sizes and bytes before and after."""
    layer, after = plan.shape.layers[layer_idx], plan.resized_layers[layer_idx]
    layers = plan.shape.num_layers
    touched = np.flatnonzero(protection.cuttable(layers).any(axis=1))
    prunable = layer.attention_parameters + layer.mlp_parameters
    return {
        "layer": layer_idx,
        "layers": layers,
        "last_layer": layers - 1,
        "computed": float(rates.computed[layer_idx]),
        "applied": float(rates.applied[layer_idx]),
        "prunable": prunable,
        "budget": int(rates.applied[layer_idx] * prunable),
        "split": plan.settings["pruning_distribution"],
        "may_be_cut": layer_idx in touched,
        "attention_cost": layer.attention_group_cost,
        "mlp_cost": layer.mlp_channel_cost,
        "attention_gone": layer.num_key_value_heads - after.num_key_value_heads,
        "mlp_gone": layer.intermediate_size - after.intermediate_size,
        "parameters_before": layer.parameters,
        "parameters_after": after.parameters,
        "bytes_before": readable_size(layer.parameters * bytes_per_parameter),
        "bytes_after": readable_size(after.parameters * bytes_per_parameter),
        "cut_layers": len(touched),
        "first_cut": int(touched[0]),
        "last_cut": int(touched[-1]),
        "roots": _ROOTS * len(touched),
        "target": plan.settings["pruning_ratio"],
        "actual": plan.actual_ratio,
    }


def layer_before_after(plan: PruningPlan, layer_idx: int, bytes_per_parameter: int) -> pd.DataFrame:
    """Every matrix of one layer: `module`, `shape_before`, `shape_after` in words, parameters and bytes before and after."""
    before, after = (shape.tensor_shapes() for shape in (plan.shape.layers[layer_idx], plan.resized_layers[layer_idx]))
    rows = [
        (name.removesuffix(".weight"), _times(shape), _times(after.get(name, ())), int(np.prod(shape)), _count(after.get(name)))
        for name, shape in before.items()
        if len(shape) == 2
    ]
    frame = pd.DataFrame(rows, columns=["module", "shape_before", "shape_after", "params_before", "params_after"])
    for side in ("before", "after"):
        frame[f"bytes_{side}"] = frame[f"params_{side}"] * bytes_per_parameter
    return frame


@dataclass(frozen=True)
class Consequence:
    """What goes from one matrix when one index of a root goes: so many rows or columns. `root` names that matrix."""

    module: str
    what: str
    count: int
    root: str


def consequences(layer: LayerShape) -> list[Consequence]:
    """What follows from one KV head of `k_proj` and from one row of `gate_proj`, the roots among them first."""
    found = []
    for kind, root in ((ATTENTION, "k_proj"), (MLP, "gate_proj")):
        parts = group_parts(layer, kind).itertuples()
        rows = [Consequence(row.module, row.what, row.count, root) for row in parts if not row.module.endswith(".bias")]
        found += sorted(rows, key=lambda one: one.module != root)
    return found


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{size:,}" for size in shape) or "-"


def _count(shape: tuple[int, ...] | None) -> int:
    return int(np.prod(shape)) if shape else 0


# two strategies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StrategyRow:
    """What one strategy's plan does: shares of all parameters, of what goes and of the layer that loses most."""

    strategy: str
    target: float
    actual: float
    attention: float
    layers_cut: int
    layers: int
    most: float
    plan_seconds: float
    perplexity: float | None

    @property
    def balance(self) -> str:
        """Attention : MLP of what goes, in percent."""
        return f"{100 * self.attention:.0f} : {100 * (1 - self.attention):.0f}"


def strategy_rows(result, plans: list[PruningPlan]) -> list[StrategyRow]:
    """One row per strategy; `plans` are those that the result's points were measured by."""
    rows = []
    for point, plan in zip(result.points, plans, strict=True):
        gone = plan.removed_parameters.sum(axis=1)
        prunable = np.array([layer.attention_parameters + layer.mlp_parameters for layer in plan.shape.layers])
        rows.append(
            StrategyRow(
                point["strategy"],
                result.question.options["ratio"],
                point["actual_ratio"],
                point["attention"] / point["removed"],
                int((gone > 0).sum()),
                plan.shape.num_layers,
                float((gone / np.maximum(prunable, 1)).max()),
                point["plan_seconds"],
                point["perplexity"],
            )
        )
    return rows


def strategy_verdict(result) -> str:
    """`layer` or `global`, the one that is better beyond chance on these windows; `unclear`."""
    difference = result.whole["difference"]
    if not difference["is_clear"]:
        return UNCLEAR
    return "layer" if difference["mean"] > 0 else "global"


# the knapsack ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gone:
    """Groups of one kind that went, of so many that may, and their parameters; `layers_emptied` lost all of these."""

    groups: int
    of: int
    parameters: int
    layers_emptied: int


@dataclass(frozen=True)
class Budget:
    """A knapsack filled lowest score first. `largest` is the most that can go, `cut_score` the highest score that went."""

    budget: int
    largest: int
    attention: Gone
    mlp: Gone
    cut_score: float
    plan: PruningPlan

    @property
    def filled(self) -> float:
        """Share of the budget that is spent."""
        return (self.attention.parameters + self.mlp.parameters) / self.budget


def largest_budget(table: GroupTable, protection: Protection) -> float:
    """The largest share of all parameters that can go, in whole percent."""
    return math.floor(100 * largest_ratio(table, protection, Floors())) / 100


def fill_budget(table: GroupTable, ratio: float, protection: Protection, floors: Floors = Floors()) -> Budget:
    """What a global plan takes at this ratio of all parameters; raises PruningError where there is no such plan."""
    plan = allocate_global(table, ratio, protection, floors, settings={"pruning_ratio": ratio, "strategy": "global"})
    groups, may_go = table.groups, removable(table, protection, floors)
    blocks = np.bincount(groups.block[may_go], minlength=len(groups.block_sizes)).reshape(-1, 2)
    gone = groups.block_sizes.reshape(-1, 2) - plan.kept_counts
    kinds = [
        Gone(
            int(gone[:, column].sum()),
            int(blocks[:, column].sum()),
            int(plan.removed_parameters[:, column].sum()),
            int(((gone[:, column] == blocks[:, column]) & (blocks[:, column] > 0)).sum()),
        )
        for column in range(len(GROUP_TYPES))
    ]
    attention, mlp = kinds
    highest = float(table.score[~plan.kept].max())
    return Budget(int(ratio * table.shape.parameters), int(groups.cost[may_go].sum()), attention, mlp, highest, plan)


# which score foresaw it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankedLayers:
    """Ranks that a method gives the layers, 1 for the largest rise, [layers]; `method` None: as measured."""

    method: str | None
    ranks: np.ndarray
    spearman: float | None

    @property
    def shown(self) -> str:
        return "-" if self.spearman is None else f"{self.spearman:+.2f}"


def foresight_ranks(result, kind: str) -> list[RankedLayers]:
    """The measured ranks, then those of each method, best Spearman correlation with them first."""
    measured = [point["rise"] for point in sorted(result.points, key=lambda p: p["layer"]) if point["kind"] == kind]
    methods = [
        RankedLayers(method, _rank(of_kind[kind]), result.whole["spearman"][method][kind])
        for method, of_kind in result.whole["foreseen"].items()
    ]
    methods.sort(key=lambda row: -2.0 if row.spearman is None else -row.spearman)
    return [RankedLayers(None, _rank(measured), None), *methods]


def _rank(values: list[float]) -> np.ndarray:
    return pd.Series(values).rank(ascending=False, method="average").to_numpy()


def layer_numbers(result) -> dict:
    """What chapter 6 says: the layers that matter most and least when cut alone, and the scores that foresaw it."""
    numbers = {"perplexity": result.perplexity, "share": result.question.options["share"]}
    numbers["samples"] = result.question.options["samples"]
    for kind in GROUP_TYPES:
        of_kind = sorted((p for p in result.points if p["kind"] == kind), key=lambda p: -p["rise"])
        ranked = foresight_ranks(result, kind)[1:]
        numbers |= {
            f"{kind}_most": of_kind[0]["layer"],
            f"{kind}_most_perplexity": of_kind[0]["perplexity"] or float("inf"),
            f"{kind}_least": of_kind[-1]["layer"],
            f"{kind}_least_perplexity": of_kind[-1]["perplexity"] or float("inf"),
            f"{kind}_best": ranked[0].method,
            f"{kind}_best_spearman": ranked[0].shown,
            f"{kind}_worst": ranked[-1].method,
            f"{kind}_worst_spearman": ranked[-1].shown,
        }
    return numbers


# protect or not -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OverSeeds:
    """Perplexity at one ratio over the calibration seeds."""

    ratio: float
    mean: float
    lowest: float
    highest: float


def mean_by_ratio(result, scenario: str) -> list[OverSeeds]:
    """Perplexity of `all` or `protected` at each ratio, over the seeds that have one, lowest ratio first."""
    found = []
    for ratio in result.question.options["ratios"]:
        values = [
            point[scenario]["perplexity"]
            for point in result.points
            if point["ratio"] == ratio and scenario in point and point[scenario]["perplexity"] is not None
        ]
        if values:
            found.append(OverSeeds(ratio, float(np.mean(values)), min(values), max(values)))
    return found


def protection_verdicts(result) -> list[dict]:
    """For each ratio what protection does: `verdict`, both mean perplexities, and the difference in loss over the seeds.

    It `helps` (or `hurts`) where the difference has that sign at every seed, each time by more than two standard errors.
    """
    rows = []
    for ratio in result.question.options["ratios"]:
        differences = [p["difference"] for p in result.points if p["ratio"] == ratio and "difference" in p]
        if not differences:
            continue
        clear = {HURTS if d["mean"] > 0 else HELPS for d in differences if d["is_clear"]}
        agreed = len(clear) == 1 and all(d["is_clear"] for d in differences)
        means = {name: {m.ratio: m.mean for m in mean_by_ratio(result, name)} for name in ("all", "protected")}
        rows.append(
            {
                "ratio": ratio,
                "verdict": clear.pop() if agreed else UNCLEAR,
                "all": means["all"].get(ratio, np.inf),
                "protected": means["protected"].get(ratio, np.inf),
                "difference": float(np.mean([d["mean"] for d in differences])),
                "seeds": len(differences),
            }
        )
    return rows


def trained_verdicts(result) -> list[dict]:
    """For each ratio what protection does after the same training: `verdict`, perplexities of both cuts alone and trained,
    and the difference in loss of the trained ones with its standard error.
    """
    return [
        {
            "ratio": point["ratio"],
            "verdict": _verdict(point["difference"]),
            "all": _perplexity(point["all"]["trained"]),
            "protected": _perplexity(point["protected"]["trained"]),
            "all_cut": _perplexity(point["all"]["cut"]),
            "protected_cut": _perplexity(point["protected"]["cut"]),
            "difference": point["difference"]["mean"],
            "error": point["difference"]["error"] or 0.0,
        }
        for point in result.points
        if "difference" in point
    ]


def _verdict(difference: dict) -> str:
    if not difference["is_clear"]:
        return UNCLEAR
    return HURTS if difference["mean"] > 0 else HELPS


def _perplexity(figures: dict) -> float:
    return np.inf if figures["perplexity"] is None else figures["perplexity"]


def protection_in_all(result) -> str:
    """One word for all ratios: `helps`, `hurts`, `unclear` where all agree, `none` where there is none, else `mixed`."""
    verdicts = {row["verdict"] for row in protection_verdicts(result)} or {"none"}
    return verdicts.pop() if len(verdicts) == 1 else "mixed"


def unreached(result) -> list[dict]:
    """The points that have no plan, each with its `reason`."""
    return [point for point in result.points if "reason" in point]


def best_of_grid(result) -> dict | None:
    """The point of the grid with the lowest loss: `first`, `last`, `perplexity`, `difference` to no protection."""
    reached = [point for point in result.points if "rise" in point]
    return min(reached, key=lambda point: point["rise"]) if reached else None


def best_splits(result) -> list[dict]:
    """For each ratio the best split that was tried and what the scores chose: `ratio`, `best`, `own` (points)."""
    rows = []
    for ratio in result.question.options["ratios"]:
        reached = [p for p in result.points if p["ratio"] == ratio and "rise" in p]
        fixed, own = [p for p in reached if p["split"] != "auto"], [p for p in reached if p["split"] == "auto"]
        if fixed and own:
            rows.append({"ratio": ratio, "best": min(fixed, key=lambda p: p["rise"]), "own": own[0]})
    return rows


def attention_query_heads(layer: LayerShape) -> dict:
    """What chapter 2 says of a model's layer."""
    return {
        "heads": layer.num_attention_heads,
        "kv_heads": layer.num_key_value_heads,
        "ratio": layer.num_key_value_groups,
        "head_dim": layer.head_dim,
        "half": layer.head_dim // 2,
        "width": layer.intermediate_size,
        "attention_cost": layer.group_cost(ATTENTION),
        "mlp_cost": layer.mlp_channel_cost,
        "times": layer.attention_group_cost / layer.mlp_channel_cost,
    }
