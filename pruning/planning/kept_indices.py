"""The one rule that maps a checkpoint tensor and a plan to the rows or columns that stay.

    attention group g, r query heads of size d           MLP channel c
      q_proj   rows    g*r*d .. (g+1)*r*d                  gate_proj, up_proj   row c
      k, v     rows    g*d   .. (g+1)*d                    down_proj            column c
      o_proj   columns g*r*d .. (g+1)*r*d

Biases of q, k, v, gate and up go with their rows; all else stays whole. Cutting in memory, cutting as a stream and the
predicted before/after table all use this rule.
"""

import re
from dataclasses import dataclass

import numpy as np

from .plan import PruningPlan
from .shape import ATTENTION, MLP, LayerShape

_LAYER_TENSOR = re.compile(r"^(model\.layers\.)(\d+)\.(.+)$")
_ROWS, _COLUMNS = 0, 1


@dataclass(frozen=True)
class TensorCut:
    """What becomes of one tensor: its name in the cut model, and along `dim` the indices that stay (None: all)."""

    name: str
    dim: int | None = None
    kept: np.ndarray | None = None


def tensor_cut(name: str, plan: PruningPlan) -> TensorCut | None:
    """How the plan changes the tensor `name`; None when nothing of it remains in the cut model."""
    match = _LAYER_TENSOR.match(name)
    if not match:
        return TensorCut(name)
    prefix, layer_idx, inner = match[1], int(match[2]), match[3]
    if layer_idx not in plan.kept_layers:
        return None
    new_name = f"{prefix}{plan.kept_layers.index(layer_idx)}.{inner}"
    rule = group_axis(inner, plan.shape.layers[layer_idx])
    if rule is None:
        return TensorCut(new_name)
    group_type, dim, width = rule
    groups = plan.kept_groups(layer_idx, group_type)
    if not len(groups):
        return None
    if len(groups) == plan.shape.layers[layer_idx].group_count(group_type):
        return TensorCut(new_name)
    return TensorCut(new_name, dim, _spread(groups, width))


def input_columns(plan: PruningPlan, layer_idx: int, group_type: str) -> np.ndarray:
    """Columns of `o_proj` (attention) or `down_proj` (MLP) that stay, ascending int64."""
    layer = plan.shape.layers[layer_idx]
    width = layer.num_key_value_groups * layer.head_dim if group_type == ATTENTION else 1
    return _spread(plan.kept_groups(layer_idx, group_type), width)


def group_axis(inner_name: str, layer: LayerShape) -> tuple[str, int, int] | None:
    """(group type, dimension along which groups lie, rows or columns per group) of a tensor, named within its layer
    (`self_attn.q_proj.weight`); None for a tensor that stays whole.
    """
    block, module, parameter = [*inner_name.split("."), "", ""][:3]
    d, r = layer.head_dim, layer.num_key_value_groups
    if block == "self_attn" and module in ("q_proj", "k_proj", "v_proj"):
        return ATTENTION, _ROWS, r * d if module == "q_proj" else d
    if block == "mlp" and module in ("gate_proj", "up_proj"):
        return MLP, _ROWS, 1
    if parameter == "weight" and (block, module) == ("self_attn", "o_proj"):
        return ATTENTION, _COLUMNS, r * d
    if parameter == "weight" and (block, module) == ("mlp", "down_proj"):
        return MLP, _COLUMNS, 1
    return None


def _spread(groups: np.ndarray, width: int) -> np.ndarray:
    """Indices of the rows or columns of each group, `width` of them per group."""
    return (groups[:, None] * width + np.arange(width)).ravel()
