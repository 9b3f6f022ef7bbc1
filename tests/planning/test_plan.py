"""Plans: the JSON round trip, and what a person is told about a faulty one."""

import json

import numpy as np
import pytest
from hypothesis import given

from pruning.errors import PruningError
from pruning.planning.kept_indices import input_columns, tensor_cut
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ATTENTION, GROUP_TYPES
from tests.planning.examples import plans, small_shape


@given(plan=plans())
def test_json_round_trip(plan):
    content = json.loads(json.dumps(plan.to_json()))
    read = PruningPlan.from_json(content, plan.shape, "abc")
    np.testing.assert_array_equal(read.kept, plan.kept)
    assert (read.remove_empty_layers, read.fingerprint, read.settings) == (plan.remove_empty_layers, "abc", plan.settings)
    assert read.shape_after == plan.shape_after
    assert content["parameters"] == {"before": plan.shape.parameters, "after": plan.shape_after.parameters}


@given(plan=plans())
def test_the_tensor_rule_gives_the_shape_after(plan):
    after = {}
    for name, shape in plan.shape.tensor_shapes().items():
        cut = tensor_cut(name, plan)
        if cut:
            sizes = list(shape)
            if cut.dim is not None:
                assert (np.diff(cut.kept) > 0).all()
                assert 0 <= cut.kept[0] <= cut.kept[-1] < shape[cut.dim]
                sizes[cut.dim] = len(cut.kept)
            after[cut.name] = tuple(sizes)
    assert after == plan.shape_after.tensor_shapes()


@given(plan=plans())
def test_ratio_and_head_dim_stay(plan):
    for before, after in zip(plan.shape.layers, plan.resized_layers, strict=True):
        assert after.num_attention_heads == after.num_key_value_heads * before.num_key_value_groups
        assert after.head_dim == before.head_dim


def test_rows_and_columns_of_a_group():
    plan = PruningPlan.keep_all(small_shape())  # two query heads of size 2 per KV head
    kept = plan.kept.copy()
    kept[0] = False  # layer 0, attention group 0
    kept[2 + 4] = False  # layer 0, channel 4
    cut = PruningPlan(plan.shape, kept)
    indices = {
        module: tensor_cut(f"model.layers.0.{module}.weight", cut)
        for module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    }
    assert {module: (c.dim, c.kept.tolist()) for module, c in indices.items()} == {
        "self_attn.q_proj": (0, [4, 5, 6, 7]),
        "self_attn.k_proj": (0, [2, 3]),
        "self_attn.o_proj": (1, [4, 5, 6, 7]),
        "mlp.up_proj": (0, [0, 1, 2, 3, 5]),
        "mlp.down_proj": (1, [0, 1, 2, 3, 5]),
    }
    assert input_columns(cut, 0, ATTENTION).tolist() == [4, 5, 6, 7]
    assert tensor_cut("model.layers.1.self_attn.q_proj.weight", cut).dim is None


def test_deleted_layers_are_counted_past():
    shape = small_shape()
    plan = PruningPlan.keep_all(shape)
    kept = plan.kept.copy()
    for kind in GROUP_TYPES:
        kept[plan.groups.slice_of(1, kind)] = False
    deleted = PruningPlan(shape, kept, remove_empty_layers=True)
    assert deleted.kept_layers == (0, 2, 3)
    assert tensor_cut("model.layers.2.mlp.up_proj.weight", deleted).name == "model.layers.1.mlp.up_proj.weight"
    assert tensor_cut("model.layers.1.input_layernorm.weight", deleted) is None
    emptied = PruningPlan(shape, kept)
    assert emptied.kept_layers == (0, 1, 2, 3)
    assert emptied.shape_after.parameters - deleted.shape_after.parameters == 16  # two norms of size 8


def test_a_layer_with_output_biases_is_not_deletable():
    shape = small_shape(attention_bias=True)
    kept = PruningPlan.keep_all(shape).kept.copy()
    for kind in GROUP_TYPES:
        kept[PruningPlan.keep_all(shape).groups.slice_of(1, kind)] = False
    assert PruningPlan(shape, kept, remove_empty_layers=True).kept_layers == (0, 1, 2, 3)


def test_layer_0_keeps_attention():
    kept = PruningPlan.keep_all(small_shape()).kept.copy()
    kept[:2] = False
    with pytest.raises(PruningError, match="Layer 0 must keep one attention group"):
        PruningPlan(small_shape(), kept)


def faulty(change) -> dict:
    content = PruningPlan.keep_all(small_shape(), fingerprint="f" * 64).to_json()
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.update(format_version=99), "plan.json has format version 99; this version reads 1"),
        (lambda c: c.pop("format_version"), "has format version None"),
        (lambda c: c.update(fingerprint="0" * 64), r"made for another model \(fingerprint 000000000000, this model has ff"),
        (
            lambda c: c.update(fingerprint=None, parameters={"before": 1}),
            r"made for another model \(1 parameters; this model has ",
        ),
        (lambda c: c.pop("layers"), "layer 0 to 3: one entry per layer is needed"),
        (lambda c: c.update(layers={}), "one entry per layer is needed"),
        (lambda c: c.update(layers=[1, 2, 3, 4]), "one entry per layer is needed"),
        (lambda c: c["layers"].pop(), "one entry per layer is needed"),
        (lambda c: c["layers"].reverse(), "one entry per layer is needed"),
        (lambda c: c["layers"][2].pop("mlp"), "layer 2: mlp must be a list of whole numbers from 0 to 5"),
        (lambda c: c["layers"][2].update(attention=[0, 2]), "layer 2: attention must be a list of whole numbers from 0 to 1"),
        (lambda c: c["layers"][2].update(attention=[-1]), "layer 2: attention must be"),
        (lambda c: c["layers"][2].update(attention=[True]), "layer 2: attention must be"),
        (lambda c: c["layers"][2].update(mlp=[0.5]), "layer 2: mlp must be"),
        (lambda c: c["layers"][2].update(mlp="0,1"), "layer 2: mlp must be"),
        (lambda c: c["layers"][3].update(mlp=[1, 1]), "layer 3: mlp names a group twice"),
        (lambda c: c["layers"][0].update(attention=[]), "Layer 0 must keep one attention group"),
    ],
)
def test_a_faulty_plan_is_explained(change, sentence):
    with pytest.raises(PruningError, match=sentence):
        PruningPlan.from_json(faulty(change), small_shape(), "f" * 64)
