"""Cutting in several rounds: measure, cut a share, measure again on what is left, until the target is reached.

    round k of n: groups measured on the model of round k - 1 -> plan for k/n of the target -> ...

For rates of layers k/n of the target means k/n of each layer's rate: bounds of rates shrink with it, or the least rate would
take in the first rounds what the others should.

Between rounds the model is masked, which is the function of the cut model (model/masking.py): the plan names groups of the
original model all along, and the cut itself is done once. The importance of layers stays as it was measured at first.
Imports no torch.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import PruningError
from ..settings import Settings
from ..words import counted
from .group_table import GroupTable
from .layer_importance import LayerImportance
from .plan import PruningPlan
from .planner import Planned, plan_from_settings

_GROW_BY_ROUND = ("pruning_ratio", "layer_min_pruning_rate", "layer_max_pruning_rate")


def plan_in_rounds(
    table: GroupTable,
    settings: Settings,
    layers: LayerImportance | None,
    measure_again: Callable[[PruningPlan, str], np.ndarray],
    say: Callable[[str], None],
) -> tuple[Planned, GroupTable]:
    """The plan after `iterative_steps` rounds, and a table with the importance by which each group went or stayed.

    `table` is what the whole model gave; `measure_again` gets a plan and the round in words, and gives the importance of
    the groups that the plan keeps, [groups] float64. Each round takes an equal share of the parameters.
    """
    rounds, target = settings.iterative_steps, settings.pruning_ratio
    gone: np.ndarray = np.zeros(0, dtype=np.int64)  # positions, in the order in which they went
    planned = None
    for number in range(1, rounds + 1):
        if planned is not None:
            importance = measure_again(planned.plan, f"round {number} of {rounds}")
            table = replace(table, importance=np.where(planned.plan.kept, importance, table.importance))
        share = replace(settings, **{name: getattr(settings, name) * number / rounds for name in _GROW_BY_ROUND})
        try:
            planned = plan_from_settings(_with_gone_first(table, gone), share, layers)
        except PruningError as error:
            if error.code not in ("nothing_to_cut", "nothing_left_to_cut") or number == rounds:
                raise
            continue  # the first shares may be smaller than a group
        removed = ~planned.plan.kept
        fresh = table.sorted(np.setdiff1d(np.flatnonzero(removed), gone))
        gone = np.concatenate([gone[removed[gone]], fresh])
        going = counted(len(fresh), "group goes", "groups go")
        say(f"    round {number} of {rounds}: {going}, {planned.plan.actual_ratio:.2%} so far")
    of_plan = planned.plan.settings | {"pruning_ratio": target, "iterative_steps": rounds}
    measured = replace(table, source=table.source | {"iterative_steps": rounds})
    return replace(planned, plan=replace(planned.plan, settings=of_plan)), measured


def _with_gone_first(table: GroupTable, gone: np.ndarray) -> GroupTable:
    """The table with the groups that went before all others, in the order in which they went.

    No importance is negative, so that these stay gone whatever the strategy; where whole attention groups make it take
    fewer channels than before, those that went last come back.
    """
    importance = table.importance.copy()
    importance[gone] = -table.groups.cost[gone] * np.arange(len(gone), 0, -1.0)
    return replace(table, importance=importance)
