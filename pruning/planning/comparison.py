"""Two methods, or two plans, side by side: do they rank groups alike, do they cut the same ones?

Knows nothing about how the scores were measured; numpy and pandas only.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..planning.group_table import GroupTable
from ..planning.groups import GroupIndex
from ..planning.plan import PruningPlan
from ..planning.shape import GROUP_TYPES, MLP, ModelShape
from ..words import counted


@dataclass(frozen=True)
class MethodComparison:
    """Ranks by score of the groups that both methods measured; 1 would go first, ties share their mean rank.

    `spearman` is the correlation of these ranks over all groups ("all") and within each kind: 1 the same order, -1 the
    reverse, NaN where there are fewer than two different ranks.
    """

    groups: GroupIndex
    methods: tuple[str, str]
    positions: np.ndarray  # [measured] int64, ascending
    first_rank: np.ndarray  # [measured] float64
    second_rank: np.ndarray  # [measured] float64
    spearman: dict[str, float]  # "all", "attention", "mlp"


def compare(first: GroupTable, second: GroupTable) -> MethodComparison:
    """How two methods rank the groups of one model; raises ValueError for tables of two models."""
    _same_model(first.shape, second.shape)
    positions = np.flatnonzero(~np.isnan(first.importance) & ~np.isnan(second.importance))
    ranks = [_average_rank(table.score[positions]) for table in (first, second)]
    is_mlp = first.groups.is_mlp[positions]
    correlations = {"all": _correlation(*ranks)}
    for kind in GROUP_TYPES:
        of_kind = is_mlp == (kind == MLP)
        correlations[kind] = spearman(*(rank[of_kind] for rank in ranks))
    methods = (str(first.source.get("method", "?")), str(second.source.get("method", "?")))
    first_rank, second_rank = ranks
    return MethodComparison(first.groups, methods, positions, first_rank, second_rank, correlations)


@dataclass(frozen=True)
class Overlap:
    """Groups that two plans cut: both of them, or only one; [layers, 2] int64 each: attention, MLP."""

    both: np.ndarray
    first_only: np.ndarray
    second_only: np.ndarray
    group_cost: np.ndarray  # [layers, 2] int64, parameters of one group

    @property
    def share(self) -> float:
        """Groups cut by both / groups cut by either (the Jaccard index); 1 if neither cuts any."""
        return _share(self.both, self.first_only, self.second_only)

    @property
    def parameter_share(self) -> float:
        """Parameters cut by both / parameters cut by either; 1 if neither cuts any."""
        return _share(*(counts * self.group_cost for counts in (self.both, self.first_only, self.second_only)))

    def share_of(self, kind: str) -> float:
        """`share` among the groups of one kind."""
        column = GROUP_TYPES.index(kind)
        return _share(*(counts[:, column] for counts in (self.both, self.first_only, self.second_only)))


def overlap(first: PruningPlan, second: PruningPlan) -> Overlap:
    """What two plans cut alike; raises ValueError for plans of two models."""
    _same_model(first.shape, second.shape)
    groups = first.groups
    cut_first, cut_second = ~first.kept, ~second.kept

    def per_block(mask: np.ndarray) -> np.ndarray:
        return np.bincount(groups.block[mask], minlength=len(groups.block_sizes)).reshape(-1, 2)

    return Overlap(
        per_block(cut_first & cut_second),
        per_block(cut_first & ~cut_second),
        per_block(cut_second & ~cut_first),
        groups.block_costs.reshape(-1, 2),
    )


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two series: Pearson's of their ranks, ties sharing the mean rank; NaN if one does not vary."""
    return _correlation(_average_rank(first), _average_rank(second))


def _same_model(first: ModelShape, second: ModelShape) -> None:
    if first != second:
        layers = counted(first.num_layers, "layer")
        raise ValueError(
            f"These belong to two models: one has {layers} and {first.parameters:,} parameters, the other {second.num_layers} "
            f"and {second.parameters:,}. Choose two experiments of one model."
        )


def _average_rank(values: np.ndarray) -> np.ndarray:
    return pd.Series(values).rank(method="average").to_numpy()


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation; of ranks it is Spearman's. NaN where one side does not vary."""
    first, second = first - first.mean() if len(first) else first, second - second.mean() if len(second) else second
    spread = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / spread) if spread else float("nan")


def _share(both: np.ndarray, first_only: np.ndarray, second_only: np.ndarray) -> float:
    union = int(both.sum() + first_only.sum() + second_only.sum())
    return int(both.sum()) / union if union else 1.0
