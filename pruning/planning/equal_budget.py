"""Plans that remove the same number of parameters, so that nothing but the choice of groups differs between them.

Strategies stop at the first group that does not fit, and rates are rounded layer by layer; what is left of the budget goes to
the lowest-scored groups that still fit. Numpy only.
"""

from dataclasses import replace

import numpy as np

from .allocation import Floors, Protection, removable
from .group_table import GroupTable
from .plan import PruningPlan


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
