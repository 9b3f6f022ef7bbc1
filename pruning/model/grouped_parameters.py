"""The parameters that groups are made of: which of their rows or columns belong to which group. Knows no importance."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..planning.groups import GroupIndex
from ..planning.kept_indices import group_axis
from ..planning.shape import ModelShape


@dataclass(frozen=True)
class GroupedParameter:
    """A parameter of `module` cut along `dim`, `width` rows or columns per group; `positions` are those of GroupIndex."""

    module: nn.Module
    parameter: nn.Parameter
    positions: slice
    dim: int
    width: int

    @property
    def reads_groups(self) -> bool:
        """Whether its columns are cut: the weights of o_proj and down_proj, whose inputs are the outputs of groups."""
        return self.dim == 1

    def sum_per_group(self, values: torch.Tensor) -> np.ndarray:
        """Sums `values`, of the parameter's shape, over each group's rows or columns, [groups] float64."""
        per_index = values.flatten(1).sum(1 - self.dim, dtype=torch.float32) if values.dim() > 1 else values
        return per_index.double().view(-1, self.width).sum(1).cpu().numpy()


def grouped_parameters(
    model: PreTrainedModel, shape: ModelShape, layers: range | None = None, with_biases: bool = True
) -> list[GroupedParameter]:
    """Every parameter that is cut by groups, first layer to last; `layers` limits it to these (default: all)."""
    groups, found = GroupIndex(shape), []
    for layer_idx, layer in enumerate(model.model.layers):
        if layers is not None and layer_idx not in layers:
            continue
        for name, parameter in layer.named_parameters():
            axis = group_axis(name, shape.layers[layer_idx])
            if axis is not None and (with_biases or parameter.dim() > 1):
                group_type, dim, width = axis
                module = layer.get_submodule(name.rpartition(".")[0])
                found.append(GroupedParameter(module, parameter, groups.slice_of(layer_idx, group_type), dim, width))
    return found
