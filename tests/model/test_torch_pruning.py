"""`l2` is torch-pruning's group magnitude on the same groups; that one leaves the square root out (`sum of squares`).

MLP groups come from its own dependency graph. That finds no end on attention with several query heads per KV head, so those
groups are put together here from its parts: one dependency for each matrix, indices in the order of ours.
"""

import warnings

import numpy as np
import pytest
import torch_pruning
from torch_pruning.dependency import Dependency, Group

from pruning.model.importance import l1, l2
from pruning.model.loss import Calibration
from pruning.planning.groups import GroupIndex
from pruning.planning.shape import ATTENTION, MLP, ModelShape
from tests.tiny_models import FAMILIES, random_ids, tiny_model

ROWS = torch_pruning.prune_linear_out_channels
COLUMNS = torch_pruning.prune_linear_in_channels


class Node:
    """What torch-pruning asks of a node of its graph here."""

    def __init__(self, module):
        self.module, self.name, self.type = module, "", None


def group_of(parts) -> Group:
    """A torch-pruning group of (linear layer, rows or columns, for each index the group it belongs to)."""
    group = Group()
    for module, pruning, belongs_to in parts:
        group.add_dep(Dependency(pruning, pruning, Node(module), Node(module)), list(range(len(belongs_to))))
        group[-1].root_idxs = belongs_to.tolist()
    return group


def channels_of(layer) -> Group:
    each = np.arange(24)
    return group_of([(layer.mlp.gate_proj, ROWS, each), (layer.mlp.up_proj, ROWS, each), (layer.mlp.down_proj, COLUMNS, each)])


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_are_those_that_torch_pruning_finds_and_scores(family):
    model = tiny_model(family, layers=1)
    with warnings.catch_warnings(action="ignore"):  # norms that it does not know
        graph = torch_pruning.DependencyGraph().build_dependency(
            model, random_ids(1, 5), forward_fn=lambda model, ids: model(input_ids=ids, use_cache=False).logits
        )
    mlp, shape = model.model.layers[0].mlp, ModelShape.from_config(model.config.to_dict())
    group = graph.get_pruning_group(mlp.up_proj, ROWS, idxs=list(range(24)))
    cut_too = {item.dep.target.module for item in group} & set(model.modules())
    assert cut_too == {mlp.gate_proj, mlp.up_proj, mlp.down_proj}
    magnitude = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None, group_reduction="sum")
    found = l2(model, shape, Calibration(random_ids(1, 8), 1))[GroupIndex(shape).slice_of(0, MLP)]
    np.testing.assert_allclose(found, magnitude(group).sqrt().numpy(), rtol=1e-4)


def heads_of(layer) -> Group:
    attention, d = layer.self_attn, layer.self_attn.head_dim
    keys, queries = np.repeat(np.arange(4), d), np.repeat(np.arange(4), 2 * d)  # two query heads for each KV head
    inputs = [(attention.q_proj, ROWS, queries), (attention.k_proj, ROWS, keys), (attention.v_proj, ROWS, keys)]
    return group_of([(attention.o_proj, COLUMNS, queries), *inputs])


@pytest.mark.parametrize(("method", "power"), [(l1, 1), (l2, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_magnitudes_are_those_of_torch_pruning(family, method, power):
    model = tiny_model(family, bias=True)
    shape = ModelShape.from_config(model.config.to_dict())
    groups, found = GroupIndex(shape), method(model, shape, Calibration(random_ids(1, 8), 1))
    magnitude = torch_pruning.importance.GroupMagnitudeImportance(p=power, normalizer=None, group_reduction="sum", bias=True)
    for i, layer in enumerate(model.model.layers):
        for kind, group in ((ATTENTION, heads_of(layer)), (MLP, channels_of(layer))):
            expected = magnitude(group).numpy()[: len(found[groups.slice_of(i, kind)])] ** (1 / power)
            np.testing.assert_allclose(found[groups.slice_of(i, kind)], expected, rtol=1e-4)
