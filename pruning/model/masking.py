"""Tries a plan without cutting: what leaves a removed head or channel is zeroed before it reaches o_proj / down_proj.

    heads    -> [B, T, heads * d] * mask -> o_proj            channels -> [B, T, F] * mask -> down_proj

This is the function of the cut model. A layer that the plan deletes adds nothing either way, so it needs no mask of its
own.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from ..planning.kept_indices import input_columns
from ..planning.plan import PruningPlan
from ..planning.shape import ATTENTION, GROUP_TYPES


@contextmanager
def masked(model: PreTrainedModel, plan: PruningPlan) -> Iterator[PreTrainedModel]:
    """Within the `with` block `model` computes what the cut model would; its weights stay untouched."""
    with ExitStack() as hooks:
        for layer_idx, layer in enumerate(model.model.layers):
            for group_type in GROUP_TYPES:
                if len(plan.kept_groups(layer_idx, group_type)) < plan.shape.layers[layer_idx].group_count(group_type):
                    projection = layer.self_attn.o_proj if group_type == ATTENTION else layer.mlp.down_proj
                    kept = input_columns(plan, layer_idx, group_type)
                    handle = projection.register_forward_pre_hook(_multiply_input(projection, kept))
                    hooks.callback(handle.remove)
        yield model


def _multiply_input(projection: nn.Linear, kept_columns):
    mask = projection.weight.new_zeros(projection.in_features)  # 1 for each column that stays
    mask[torch.from_numpy(kept_columns)] = 1

    def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0] * mask,)

    return hook
