"""Rows that a person chose -> plan: exactly these groups go, whatever their scores. Knows nothing about files."""

import numpy as np
import pandas as pd

from ..errors import PruningError
from .allocation import Floors
from .group_table import row_positions
from .groups import GroupIndex
from .plan import PruningPlan
from .shape import GROUP_TYPES, ModelShape


def plan_from_rows(
    frame: pd.DataFrame, shape: ModelShape, floors: Floors, fingerprint: str | None = None, path="the table"
) -> PruningPlan:
    """The plan that cuts the groups of these rows; raises PruningError naming the row at fault (the header is row 1).

    A floor is broken by the first row, from the top, that leaves its block fewer groups than must stay.
    """
    positions = row_positions(frame, shape, path)
    kept = np.ones(GroupIndex(shape).size, dtype=bool)
    kept[positions] = False
    _refuse_broken_floor(positions, shape, floors, path)
    return PruningPlan(shape, kept, floors.remove_empty_layers, fingerprint)


def check_floors(plan: PruningPlan, floors: Floors, path="plan.json") -> None:
    """Raises PruningError naming the first layer of which a plan keeps less than must stay."""
    floor = floors.per_block(plan.shape)
    for layer, kind in zip(*np.nonzero(plan.kept_counts < floor), strict=True):
        kept, least = plan.kept_counts[layer, kind], floor[layer, kind]
        reason = f"{kept} groups of kind {GROUP_TYPES[kind]} would stay, at least {least} must"
        raise PruningError("plan_groups", path=path, layer=int(layer), reason=reason)


def _refuse_broken_floor(positions: np.ndarray, shape: ModelShape, floors: Floors, path) -> None:
    groups = GroupIndex(shape)
    may_go = groups.block_sizes - floors.per_block(shape).ravel()
    blocks = groups.block[positions]
    for block in np.flatnonzero(np.bincount(blocks, minlength=len(may_go)) > may_go):
        row = int(np.flatnonzero(blocks == block)[may_go[block]])
        layer, kind = divmod(int(block), 2)
        least = int(groups.block_sizes[block] - may_go[block])
        reason = f"cut too, layer {layer} keeps fewer than {least} groups of kind {GROUP_TYPES[kind]}, which must stay"
        raise PruningError("table_row", path=path, row=row + 2, reason=reason)
