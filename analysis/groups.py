"""Pages of the score-sorted group table: filter by layer, type and fate, cut out one page, give all as CSV."""

import math

import numpy as np
import pandas as pd

from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan


def matching(
    table: GroupTable,
    plan: PruningPlan | None,
    layers: list[int] | None = None,
    group_type: str | None = None,
    fate: str | None = None,
) -> np.ndarray:
    """Positions of the groups that match, lowest score first; `fate` is `cut`, `kept`, or None for both."""
    positions = table.select(layers, group_type)
    if plan is None or fate is None:
        return positions
    return positions[plan.kept[positions] == (fate == "kept")]


def pages_of(table: GroupTable, plan: PruningPlan | None, rows: int, **wanted) -> tuple[int, int]:
    """How many groups match, and on how many pages of so many rows they stand (at least one)."""
    count = len(matching(table, plan, **wanted))
    return count, max(1, math.ceil(count / rows))


def group_page(table: GroupTable, plan: PruningPlan | None, page: int, rows: int, **wanted) -> pd.DataFrame:
    """One page (from 1) of the matching groups, with a column `cut` when there is a plan."""
    positions = matching(table, plan, **wanted)[(page - 1) * rows : page * rows]
    return _with_fate(table.frame(positions), plan, positions)


def groups_csv(table: GroupTable, plan: PruningPlan | None, **wanted) -> str:
    """All matching groups as CSV, the columns and order of `global_group_table.csv`."""
    return table.frame(matching(table, plan, **wanted)).to_csv(index=False)


def _with_fate(frame: pd.DataFrame, plan: PruningPlan | None, positions: np.ndarray) -> pd.DataFrame:
    return frame if plan is None else frame.assign(cut=~plan.kept[positions])
