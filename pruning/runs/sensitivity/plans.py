"""The plans that sensitivity measurements compare: the same number of parameters, another choice.

Every budget is filled up to less than one MLP channel (`filled_up`). Imports no torch.
"""

import time
from dataclasses import replace

import numpy as np

from ...errors import PruningError
from ...planning.allocation import Floors, largest_ratio, removable, unreachable
from ...planning.group_table import GroupTable
from ...planning.layer_importance import LayerImportance
from ...planning.plan import PruningPlan
from ...planning.planner import plan_from_settings
from ...planning.protection import Protection
from ...settings import Settings, defaults_of, merged
from ..trials import SPLITS

AUTO = "auto"
_FREE_RATES = {"layer_min_pruning_rate": 0.0, "layer_max_pruning_rate": 0.9}  # bounds would hide the difference


def protected_and_not(table: GroupTable, ratio: float, strategy: str, first: int, last: int) -> tuple[PruningPlan, PruningPlan]:
    """A cut of all layers, and one that spares the first and last: within one MLP channel as many parameters.

    Raises PruningError where one of them does not reach the ratio.
    """
    everywhere = with_first_and_last_protected(table, ratio, strategy, 0, 0)
    return everywhere, with_first_and_last_protected(table, ratio, strategy, first, last)


def with_first_and_last_protected(
    table: GroupTable, ratio: float, strategy: str, first: int, last: int, budget: int | None = None
) -> PruningPlan:
    """The plan of a strategy (`global`, or `layer` with equal rates) that spares so many layers at either end.

    `budget` parameters go (default: the ratio of all parameters).
    """
    layers = table.shape.num_layers
    settings = merged(defaults_of(strategy), _FREE_RATES | {"pruning_ratio": ratio, "pruning_strategy": "uniform"})
    settings = replace(settings, match_target=strategy == "layer", layer_start=first, layer_end=layers - last)
    return _filled(table, settings, budget)


def split_plans(table: GroupTable, ratio: float) -> list[tuple[str, PruningPlan | PruningError]]:
    """(split, plan) from 0:10 to 10:0 and the split that the scores choose; the reason where a split has no plan."""
    plans: list[tuple[str, PruningPlan | PruningError]] = []
    for split in (AUTO, *SPLITS):
        settings = replace(defaults_of("global"), pruning_ratio=ratio, pruning_distribution=split)
        try:
            plans.append((split, _filled(table, settings)))
        except PruningError as error:
            plans.append((split, error))
    return plans


def strategy_plans(table: GroupTable, ratio: float, layers: LayerImportance | None) -> list[tuple[str, PruningPlan, float]]:
    """(strategy, plan, seconds that planning took) of layer-wise and global at one budget, default protection.

    Rates follow the importance of layers where it was measured, else they are equal.
    """
    rates = {"pruning_strategy": "uniform" if layers is None else "inverse", "match_target": True} | _FREE_RATES
    found = []
    for strategy, changes in (("layer", rates), ("global", {})):
        began = time.perf_counter()
        plan = _filled(table, merged(defaults_of(strategy), changes | {"pruning_ratio": ratio}), None, layers)
        found.append((strategy, plan, time.perf_counter() - began))
    return found


def _filled(
    table: GroupTable, settings: Settings, budget: int | None = None, layers: LayerImportance | None = None
) -> PruningPlan:
    planned = plan_from_settings(table, settings, layers)
    if budget is None:
        budget = int(settings.pruning_ratio * table.shape.parameters)
    plan = filled_up(planned.plan, table, planned.protection, planned.floors, budget)
    if budget - int(plan.removed_parameters.sum()) >= table.groups.cost.min():  # all that may go is gone
        largest = largest_ratio(table, planned.protection, planned.floors)
        raise unreachable(budget / table.shape.parameters, "model", largest)
    return plan


def filled_up(plan: PruningPlan, table: GroupTable, protection: Protection, floors: Floors, budget: int) -> PruningPlan:
    """The plan with more groups removed, lowest score first, each that fits, until `budget` parameters are gone.

    Less than one group of the cheapest kind is missing then, unless all that may go is gone.
    """
    kept, cost = plan.kept.copy(), table.groups.cost
    left = budget - int(plan.removed_parameters.sum())
    going = removable(table, protection, floors)
    going = going[kept[going]]
    while len(going := going[cost[going] <= left]):
        fits = max(int(np.searchsorted(np.cumsum(cost[going]), left, side="right")), 1)
        kept[going[:fits]] = False
        left -= int(cost[going[:fits]].sum())
        going = going[fits:]
    return replace(plan, kept=kept)


def lowest_of_layer(table: GroupTable, layer_idx: int, kinds: tuple[str, ...], share: float) -> PruningPlan:
    """The plan that removes `share` of the groups of one layer's blocks, at least one of each, lowest score first.

    All other layers stay whole. Layer 0 keeps one attention group: a cache asks it for its length.
    """
    kept = np.ones(table.groups.size, dtype=bool)
    for kind in kinds:
        block = table.groups.slice_of(layer_idx, kind)
        size = block.stop - block.start
        gone = min(max(round(share * size), 1), size - (1 if layer_idx == 0 else 0))
        kept[block] = table.rank_from_best[block] < size - gone
    return PruningPlan(table.shape, kept, fingerprint=table.source.get("fingerprint"))
