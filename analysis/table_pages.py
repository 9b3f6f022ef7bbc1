"""Pages of the score-sorted group table: filter by layer, type and fate, cut out one page, give all as CSV."""

import math

import numpy as np
import pandas as pd

from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import GROUP_TYPES, MLP


def matching(
    table: GroupTable,
    plan: PruningPlan | None,
    layers: list[int] | None = None,
    group_type: str | None = None,
    fate: str | None = None,
) -> np.ndarray:
    """Positions of the groups that match, lowest score first.

    `fate` is `cut`, `kept`, `by_hand` (kept or cut by a person), or None for all.
    """
    positions = table.select(layers, group_type)
    if plan is None or fate is None:
        return positions
    if fate == "by_hand":
        return positions[np.isin(positions, plan.by_hand)]
    return positions[plan.kept[positions] == (fate == "kept")]


def pages_of(table: GroupTable, plan: PruningPlan | None, rows: int, **wanted) -> tuple[int, int]:
    """How many groups match, and how many pages of so many rows they fill (at least one)."""
    count = len(matching(table, plan, **wanted))
    return count, max(1, math.ceil(count / rows))


def group_page(
    table: GroupTable, plan: PruningPlan | None, protection: Protection | None, page: int, rows: int, **wanted
) -> pd.DataFrame:
    """One page (from 1) of the matching groups; columns `cut` and `by_hand` with a plan, `protected` with a protection."""
    positions = matching(table, plan, **wanted)[(page - 1) * rows : page * rows]
    frame = table.frame(positions)
    if plan is not None:
        frame = frame.assign(cut=~plan.kept[positions], by_hand=np.isin(positions, plan.by_hand))
    if protection is None:
        return frame
    may_be_cut = protection.cuttable(table.shape.num_layers)
    groups = table.groups
    return frame.assign(protected=~may_be_cut[groups.layer_idx[positions], groups.is_mlp[positions].astype(int)])


def groups_csv(table: GroupTable, plan: PruningPlan | None, **wanted) -> str:
    """All matching groups as CSV, the columns and order of `global_group_table.csv`."""
    return table.frame(matching(table, plan, **wanted)).to_csv(index=False)


def groups_in_brief(table: GroupTable) -> dict[str, float]:
    """Attention's share of importance and of parameters, and the median score of each kind, over the measured layers."""
    is_mlp = table.groups.is_mlp[table.order]
    importance, cost = table.importance[table.order], table.groups.cost[table.order]
    total = importance.sum()
    score = {kind: table.score[table.order][is_mlp == (kind == MLP)] for kind in GROUP_TYPES}
    return {
        "share_of_importance": importance[~is_mlp].sum() / total if total else 0.0,
        "share_of_parameters": cost[~is_mlp].sum() / cost.sum(),
    } | {f"median_{kind}": float(np.median(of)) if len(of) else 0.0 for kind, of in score.items()}
