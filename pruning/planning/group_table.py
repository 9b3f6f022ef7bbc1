"""The scored table of prunable groups: importance, cost and score = importance / cost, sorted lowest score first.

Held as flat arrays over the groups (see groups.py); read from and written to `global_group_table.csv`. Knows nothing
about how importance was measured.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..errors import PruningError
from .groups import GroupIndex, block_of, type_names
from .shape import ATTENTION, GROUP_TYPES, MLP, ModelShape

FORMAT_VERSION = 1
COLUMNS = ["layer_idx", "group_type", "group_idx", "importance", "cost", "score"]


@dataclass(frozen=True)
class GroupTable:
    """`importance` is [groups] float64 over the positions of `groups`; NaN marks a group that was not measured.

    `source` says what the numbers come from: fingerprint, method, calibration (the sidecar of the CSV).
    """

    shape: ModelShape
    importance: np.ndarray
    source: dict

    def __post_init__(self):
        infinite = np.flatnonzero(np.isinf(self.importance))
        if len(infinite):
            at = int(infinite[0])
            groups = self.groups
            raise PruningError(
                "scores_not_finite",
                layer=int(groups.layer_idx[at]),
                group_type=str(type_names(groups.is_mlp[at])),
                group=int(groups.group_idx[at]),
            )

    @cached_property
    def groups(self) -> GroupIndex:
        return GroupIndex(self.shape)

    @cached_property
    def digest(self) -> str:
        """The same for tables with the same scores, 12 hexadecimal digits."""
        return hashlib.sha256(self.importance.tobytes()).hexdigest()[:12]

    @cached_property
    def score(self) -> np.ndarray:
        """Importance per parameter, [groups] float64."""
        return self.importance / self.groups.cost

    @cached_property
    def order(self) -> np.ndarray:
        """Positions of the measured groups, lowest score first; ties by layer, attention before MLP, index."""
        order = np.argsort(self.score, kind="stable")  # positions already run by layer, type, index; NaN sorts last
        return order[: np.count_nonzero(~np.isnan(self.importance))]

    @cached_property
    def rank_from_best(self) -> np.ndarray:
        """How many groups of the same block stay at least as long, [groups] int64: those later in `order`, and those that
        were not measured, since these are never cut.

        0 is a block's best group; the groups that make up a floor are those with a rank below it.
        """
        rank = np.zeros(self.groups.size, dtype=np.int64)
        by_block = self.order[np.argsort(self.groups.block[self.order], kind="stable")]
        measured = np.bincount(self.groups.block[self.order], minlength=len(self.groups.block_sizes))
        starts = np.cumsum(measured) - measured
        blocks = self.groups.block[by_block]
        rank[by_block] = self.groups.block_sizes[blocks] - 1 - (np.arange(len(by_block)) - starts[blocks])
        return rank

    @cached_property
    def measured_layers(self) -> range:
        """From the first to the last layer with a score; empty when there is none."""
        layers = self.groups.layer_idx[self.order]
        return range(int(layers.min()), int(layers.max()) + 1) if len(layers) else range(0)

    @cached_property
    def block_in_order(self) -> np.ndarray:
        """Block of each entry of `order`, int32. With `rank_in_order`, what a slider's change starts from."""
        return self.groups.block[self.order]

    @cached_property
    def rank_in_order(self) -> np.ndarray:
        """`rank_from_best` of each entry of `order`, int64."""
        return self.rank_from_best[self.order]

    @cached_property
    def block_importance(self) -> np.ndarray:
        """Summed importance, [layers, 2] float64: attention, MLP; 0 where nothing was measured."""
        weights = np.nan_to_num(self.importance, nan=0.0)
        sums = np.bincount(self.groups.block, weights=weights, minlength=len(self.groups.block_sizes))
        return sums.reshape(-1, 2)

    def sorted(self, positions: np.ndarray) -> np.ndarray:
        """The positions, lowest score first; those without a score last."""
        return positions[np.argsort(self.score[positions], kind="stable")]

    def frame(self, positions: np.ndarray | None = None) -> pd.DataFrame:
        """The rows at `positions` (default: all, in `order`) with the columns of the CSV."""
        at = self.order if positions is None else positions
        groups = self.groups
        return pd.DataFrame(
            {
                "layer_idx": groups.layer_idx[at],
                "group_type": type_names(groups.is_mlp[at]),
                "group_idx": groups.group_idx[at],
                "importance": self.importance[at],
                "cost": groups.cost[at],
                "score": self.score[at],
            }
        )

    def select(self, layers: list[int] | None = None, group_type: str | None = None) -> np.ndarray:
        """Positions of the groups of these layers and this type, lowest score first."""
        wanted = np.ones(len(self.order), dtype=bool)
        if layers is not None:
            wanted &= np.isin(self.groups.layer_idx[self.order], layers)
        if group_type is not None:
            wanted &= self.groups.is_mlp[self.order] == (group_type == MLP)
        return self.order[wanted]

    def restricted(self, layers: range) -> "GroupTable":
        """The table with only these layers measured."""
        outside = ~np.isin(self.groups.layer_idx, np.arange(layers.start, layers.stop))
        return replace(self, importance=np.where(outside, np.nan, self.importance))

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, shape: ModelShape, source: dict, path="the table") -> "GroupTable":
        """The table that a CSV holds, each row checked against the model; raises PruningError naming the row.

        The score ranks: where it is not importance / cost, as after an edit, importance is taken to be score x cost. Row
        numbers count as a spreadsheet does: the header is row 1.
        """
        positions = row_positions(frame, shape, path)
        groups = GroupIndex(shape)
        cost = groups.cost[positions]
        values = {column: _numbers(frame, column, path) for column in ("importance", "score")}
        for column, numbers in values.items():
            _refuse(path, frame, np.isinf(numbers), column, "is not a finite number")
        importance = np.full(groups.size, np.nan)
        importance[positions] = np.where(scores_agree(frame), values["importance"], values["score"] * cost)
        return cls(shape, importance, source)


def scores_agree(frame: pd.DataFrame) -> np.ndarray:
    """Whether each row's score is its importance / cost, [rows] bool; a person edits one or the other."""
    importance, cost, score = (pd.to_numeric(frame[c], errors="coerce") for c in ("importance", "cost", "score"))
    return np.isclose(score, importance / cost, rtol=1e-9, atol=0)


def row_positions(frame: pd.DataFrame, shape: ModelShape, path) -> np.ndarray:
    """Position of the group that each row names, [rows] int64; raises PruningError for a missing column, a group that the
    model does not have, one that is listed twice, and a cost that is not the group's.
    """
    for column in COLUMNS:
        if column not in frame.columns:
            raise PruningError("table_columns", path=path, column=column, columns=", ".join(COLUMNS))
    if frame.empty:
        raise PruningError("table_empty", path=path)
    groups = GroupIndex(shape)
    layer, index, cost = (_numbers(frame, column, path) for column in ("layer_idx", "group_idx", "cost"))
    positions = _positions(frame, layer, index, groups, path)
    _refuse(path, frame, cost != groups.cost[positions], "cost", "is not the cost of this group")
    return positions


def _numbers(frame: pd.DataFrame, column: str, path) -> np.ndarray:
    """A column as float64; it may hold numbers written as text."""
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    _refuse(path, frame, np.isnan(numbers), column, "is not a number")
    return numbers


def _positions(frame: pd.DataFrame, layer: np.ndarray, index: np.ndarray, groups: GroupIndex, path) -> np.ndarray:
    _refuse(path, frame, ~frame["group_type"].isin(GROUP_TYPES).to_numpy(), "group_type", "must be attention or mlp")
    unknown_layer = (layer < 0) | (layer >= groups.shape.num_layers) | (layer != np.floor(layer))
    _refuse(path, frame, unknown_layer, "layer_idx", "is not a layer of this model")
    is_mlp = (frame["group_type"] == MLP).to_numpy()
    block = np.where(is_mlp, block_of(layer, MLP), block_of(layer, ATTENTION)).astype(np.int64)
    unknown_group = (index < 0) | (index >= groups.block_sizes[block]) | (index != np.floor(index))
    _refuse(path, frame, unknown_group, "group_idx", "is not a group of this layer")
    positions = groups.block_starts[block] + index.astype(np.int64)
    _refuse(path, frame, pd.Series(positions).duplicated().to_numpy(), "group_idx", "is in the table twice")
    return positions


def _refuse(path, frame: pd.DataFrame, faulty: np.ndarray, column: str, what: str) -> None:
    if faulty.any():
        at = int(np.argmax(faulty))
        value = frame[column].iloc[at]
        shown = value.item() if isinstance(value, np.generic) else value  # 9, not np.int64(9)
        raise PruningError("table_row", path=path, row=at + 2, reason=f"{column} {shown!r} {what}")
