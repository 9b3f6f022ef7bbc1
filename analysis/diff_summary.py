"""What a table of matrices before and after says as a whole: by kind, by module, shared retention, Chinese columns.

    matrix table (matrices.py)  ->  totals, kinds, modules, retention that cut layers share or not

Also the plan that two sets of shapes imply when no plan.json says it. Knows nothing about files or the screen.
"""

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pruning.errors import PruningError
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.matrices import REMOVED
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import GROUP_TYPES, ModelShape
from pruning.words import counted

CHINESE_COLUMNS = {
    "layer_idx": "层编号",
    "module": "模块名称",
    "shape_before": "原始维度",
    "shape_after": "剪枝后维度",
    "params_before": "原始参数量",
    "params_after": "剪枝后参数量",
    "retention": "保留率",
    "sparsity": "稀疏度",
}
_COUNTS = ["params_before", "params_after", "bytes_before", "bytes_after"]
_SAME = 1e-9  # retentions closer than this are one


@dataclass(frozen=True)
class SharedRetention:
    """Retention of one kind in the layers that lost something of it: the one most of them have, and those that differ."""

    kind: str
    layers: tuple[int, ...]  # that were cut
    retention: float | None  # None: nothing was cut, or no two layers agree
    outliers: dict[int, float]  # layer -> retention

    @property
    def is_shared(self) -> bool:
        return bool(self.layers) and not self.outliers


def total(matrices: pd.DataFrame) -> dict:
    """Parameters, bytes, retention and sparsity of the whole model."""
    return with_retention(matrices[_COUNTS].sum().to_frame().T).iloc[0].to_dict()


def by_kind(matrices: pd.DataFrame) -> pd.DataFrame:
    """One row per kind: attention, mlp, embedding, norm."""
    return with_retention(matrices.groupby("kind", sort=False)[_COUNTS].sum().reset_index())


def by_module(matrices: pd.DataFrame) -> pd.DataFrame:
    """One row per module (`q_proj`, `up_proj`, ...), all layers together."""
    return with_retention(matrices.groupby(["module", "kind"], sort=False)[_COUNTS].sum().reset_index())


def with_retention(counts: pd.DataFrame) -> pd.DataFrame:
    retention = counts["params_after"] / counts["params_before"]
    return counts.assign(retention=retention, sparsity=1 - retention)


def shared_retention(matrices: pd.DataFrame) -> list[SharedRetention]:
    """For attention and MLP: whether all layers that were cut kept the same share, and which did not."""
    return [_shared(kind, matrices[matrices["kind"] == kind]) for kind in GROUP_TYPES]


def _shared(kind: str, matrices: pd.DataFrame) -> SharedRetention:
    sums = matrices.groupby("layer_idx")[["params_before", "params_after"]].sum()
    retention = (sums["params_after"] / sums["params_before"]).to_dict()
    cut = {int(layer): float(value) for layer, value in retention.items() if value < 1}
    if not cut:
        return SharedRetention(kind, (), None, {})
    (most_common, count), *_ = Counter(round(value / _SAME) for value in cut.values()).most_common(1)
    common = next(value for value in cut.values() if round(value / _SAME) == most_common)
    if count == 1 and len(cut) > 1:
        return SharedRetention(kind, tuple(cut), None, cut)
    outliers = {layer: value for layer, value in cut.items() if abs(value - common) > 2 * _SAME}
    return SharedRetention(kind, tuple(cut), common, outliers)


def in_chinese(matrices: pd.DataFrame) -> pd.DataFrame:
    """The columns that notebooks of the old tools read; shapes as `4096 × 4096`, retention and sparsity as numbers."""
    table = matrices[list(CHINESE_COLUMNS)].copy()
    for column in ("shape_before", "shape_after"):
        table[column] = table[column].map(lambda shape: shape if shape == REMOVED else " × ".join(map(str, json.loads(shape))))
    return table.rename(columns=CHINESE_COLUMNS)


def plan_implied_by(shape: ModelShape, after: CheckpointHeader, name: str) -> PruningPlan:
    """A plan with the sizes that the shapes of a cut model have; it says how many groups went, not which.

    Raises PruningError when the cut model has another number of layers, or more than the model before.
    """
    kept = np.zeros(PruningPlan.keep_all(shape).groups.size, dtype=bool)
    groups = PruningPlan.keep_all(shape).groups
    layers = {int(tensor.split(".")[2]) for tensor in after.tensors if tensor.startswith("model.layers.")}
    if layers != set(range(shape.num_layers)):
        raise PruningError("analysis_no_plan", model=name)
    for index, layer in enumerate(shape.layers):
        rows = {kind: _rows(after, f"model.layers.{index}.{inner}.weight") for kind, inner in _ROW_MATRICES}
        counts = (max(rows["attention"] // layer.head_dim, index == 0), rows["mlp"])
        for kind, count in zip(GROUP_TYPES, counts, strict=True):
            if count > layer.group_count(kind):
                reason = (
                    f"layer {index} has {counted(count, 'group')} of kind {kind}, the model before {layer.group_count(kind)}"
                )
                raise PruningError("analysis_other_model", pruned=name, original="this model", reason=reason)
            start = groups.slice_of(index, kind).start
            kept[start : start + count] = True
    return PruningPlan(shape, kept)


_ROW_MATRICES = (("attention", "self_attn.k_proj"), ("mlp", "mlp.gate_proj"))


def _rows(header: CheckpointHeader, name: str) -> int:
    return header.tensors[name].shape[0] if name in header.tensors else 0
