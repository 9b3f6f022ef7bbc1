"""Before and after of every matrix: predicted from the plan, read from files, and checks that notice a wrong cut."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from safetensors.numpy import save_file

from pruning.errors import PruningError
from pruning.planning.allocation import Floors, allocate_global, largest_ratio
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.kept_indices import tensor_cut
from pruning.planning.matrices import COLUMNS, REMOVED, actual_matrix_table, checks, layer_table, matrix_table, other_tensors
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import GROUP_TYPES, ModelShape
from tests.planning.examples import LLAMA_3_8B, plans, random_table, small_config, small_shape


def plan_without(shape: ModelShape, *removed: tuple[int, str, int], **fields) -> PruningPlan:
    """Everything stays but these (layer, kind, index)."""
    kept = PruningPlan.keep_all(shape).kept.copy()
    groups = PruningPlan.keep_all(shape).groups
    for layer, kind, index in removed:
        kept[groups.slice_of(layer, kind).start + index] = False
    return PruningPlan(shape, kept, **fields)


def row(table: pd.DataFrame, layer, module: str) -> dict:
    of_layer = table["layer_idx"].isna() if layer is None else table["layer_idx"] == layer
    (found,) = table[of_layer & (table["module"] == module)].to_dict("records")
    return found


def test_llama_3_8b_one_attention_group_and_one_channel():
    shape = ModelShape.from_config(LLAMA_3_8B)
    table = matrix_table(plan_without(shape, (5, "attention", 2), (5, "mlp", 100)), 2)
    assert list(table.columns) == COLUMNS
    assert len(table) == 32 * 9 + 3
    query = row(table, 5, "q_proj")
    assert (query["shape_before"], query["shape_after"]) == ("[4096, 4096]", "[3584, 4096]")
    assert row(table, 5, "k_proj")["shape_after"] == "[896, 4096]"
    assert row(table, 5, "o_proj")["shape_after"] == "[4096, 3584]"
    assert row(table, 5, "down_proj")["shape_after"] == "[4096, 14335]"
    assert query["sparsity"] == 0.125
    assert query["bytes_before"] - query["bytes_after"] == 2 * 512 * 4096
    removed = table["params_before"].sum() - table["params_after"].sum()
    assert removed == 5_242_880 + 12_288
    assert row(table, None, "lm_head")["params_before"] == 128256 * 4096


def test_biases_count_with_their_matrix():
    shape = small_shape(attention_bias=True, mlp_bias=True)
    table = matrix_table(plan_without(shape, (1, "attention", 0), (1, "mlp", 3)), 4)
    query = row(table, 1, "q_proj")
    assert (query["params_before"], query["params_after"]) == (8 * 8 + 8, 4 * 8 + 4)
    output = row(table, 1, "o_proj")
    assert (output["params_before"], output["params_after"]) == (8 * 8 + 8, 8 * 4 + 8)  # its bias stays


def test_a_block_that_is_gone_and_a_layer_that_is_deleted():
    shape = small_shape()
    whole = [(1, kind, i) for kind, n in (("attention", 2), ("mlp", 6)) for i in range(n)]
    table = matrix_table(plan_without(shape, *whole[2:]), 2)
    assert row(table, 1, "up_proj")["shape_after"] == REMOVED
    assert row(table, 1, "up_proj")["sparsity"] == 1
    assert row(table, 1, "q_proj")["retention"] == 1
    plan = plan_without(shape, *whole, remove_empty_layers=True)
    layers = layer_table(plan, matrix_table(plan, 2))
    assert layers["deleted"].tolist() == [False, True, False, False]
    assert layers.loc[1, ["params_after", "sparsity", "planned_sparsity"]].tolist() == [0, 1, 1]


@given(plan=plans())
@settings(max_examples=60)
def test_prediction_adds_up_to_the_shape_after(plan):
    table = matrix_table(plan, 2)
    assert table["params_before"].sum() == plan.shape.parameters
    assert table["params_after"].sum() == plan.shape_after.parameters
    assert table["bytes_after"].sum() == 2 * plan.shape_after.parameters
    assert not table["kind"].isna().any()
    assert all(check.passed for check in checks(plan, table))
    predicted, summed = layer_table(plan), layer_table(plan, table)
    pd.testing.assert_frame_equal(predicted, summed)
    of_layers = predicted["params_before"].sum() - predicted["params_after"].sum()
    assert of_layers == plan.shape.parameters - plan.shape_after.parameters


@given(plan=plans())
@settings(max_examples=60)
def test_layer_table_says_what_the_plan_removes(plan):
    table = layer_table(plan)
    for column, kind in enumerate(("attention_groups", "mlp_channels")):
        assert table[f"{kind}_kept"].tolist() == plan.kept_counts[:, column].tolist()
        assert (table[f"{kind}_before"] - table[f"{kind}_removed"] == table[f"{kind}_kept"]).all()
    assert table["query_heads_after"].tolist() == [layer.num_attention_heads for layer in plan.resized_layers]
    np.testing.assert_allclose(table["sparsity"], table["planned_sparsity"], atol=1e-12)


def test_a_global_plan_reaches_its_target_exactly_as_the_plan_says():
    table = random_table(small_shape())
    protection = Protection.resolve(4)
    plan = allocate_global(table, 0.9 * largest_ratio(table, protection, Floors()), protection)
    matrices = matrix_table(plan, 2)
    after, before = matrices["params_after"].sum(), matrices["params_before"].sum()
    assert 1 - after / before == pytest.approx(plan.actual_ratio, abs=1e-15)
    assert layer_table(plan, matrices)["sparsity"].tolist()[::3] == [0, 0]  # first and last are protected


# files ----------------------------------------------------------------------------------------------------------------


def write_model(folder, config: dict, tensors: dict[str, np.ndarray]) -> CheckpointHeader:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return CheckpointHeader.read(folder)


def cut_files(tmp_path, plan: PruningPlan, spoil=lambda tensors: None) -> tuple[CheckpointHeader, CheckpointHeader]:
    """The model of `plan` before and after the cut, as folders of float16 zeros; `spoil` changes the cut one."""
    before = {name: np.zeros(shape, np.float16) for name, shape in plan.shape.tensor_shapes().items()}
    after = {}
    for name, tensor in before.items():
        cut = tensor_cut(name, plan)
        if cut:
            after[cut.name] = tensor if cut.dim is None else np.take(tensor, cut.kept, axis=cut.dim)
    spoil(after)
    config = small_config()
    return write_model(tmp_path / "before", config, before), write_model(tmp_path / "after", config, after)


def some_plan() -> PruningPlan:
    """Groups gone from layer 1, the MLP from layer 2, layer 3 deleted."""
    gone = [(3, kind, i) for kind, n in zip(GROUP_TYPES, (2, 6), strict=True) for i in range(n)]
    mlp = [(2, "mlp", i) for i in range(6)]
    return plan_without(small_shape(), (1, "attention", 1), (1, "mlp", 0), *mlp, *gone, remove_empty_layers=True)


def test_actual_equals_predicted_where_the_cut_is_right(tmp_path):
    plan = some_plan()
    actual = actual_matrix_table(*cut_files(tmp_path, plan), plan)
    pd.testing.assert_frame_equal(actual, matrix_table(plan, 2))
    assert all(check.passed for check in checks(plan, actual))


def shorten(name: str, axis: int = 0):
    def spoil(tensors):
        tensors[name] = np.take(tensors[name], range(tensors[name].shape[axis] - 1), axis=axis)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "key", "layer"),
    [
        (shorten("model.layers.0.self_attn.q_proj.weight"), "check.whole", 0),
        (shorten("model.layers.0.mlp.up_proj.weight"), "check.whole", 0),
        (shorten("model.layers.1.self_attn.k_proj.weight"), "check.ratio", 1),
        (shorten("model.layers.1.self_attn.o_proj.weight", axis=1), "check.sides", 1),
        (shorten("model.layers.1.mlp.down_proj.weight", axis=1), "check.sides", 1),
        (shorten("model.layers.1.mlp.gate_proj.weight", axis=1), "check.sides", 1),
        (shorten("model.layers.1.mlp.gate_proj.weight"), "check.planned", 1),
        (lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"), "check.sides", 1),
        (shorten("model.embed_tokens.weight"), "check.total", None),
        (lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": np.zeros((6, 8), np.float16)}), "check.sides", 2),
    ],
)
def test_a_wrong_cut_is_noticed(tmp_path, spoil, key, layer):
    plan = some_plan()
    results = {check.key: check for check in checks(plan, actual_matrix_table(*cut_files(tmp_path, plan, spoil), plan))}
    assert not results[key].passed
    assert not results["check.total"].passed
    if layer is not None:
        assert results[key].layers == (layer,)
        assert results[key].sentence().endswith(f"; at fault: layer {layer}")


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "stray", "lm_head.bias"])
def test_a_tensor_too_many_is_noticed(tmp_path, name):
    plan = some_plan()
    before, after = cut_files(tmp_path, plan, lambda tensors: tensors.update({name: np.zeros((1000, 10), np.float16)}))
    others = other_tensors(after, plan)
    assert others == (name,)
    [check] = [c for c in checks(plan, actual_matrix_table(before, after, plan), others) if not c.passed]
    assert check.sentence() == f"Tensors beside those of the planned model: {name}"


def test_rotary_tables_and_a_stored_copy_of_a_tied_head_are_not_too_many(tmp_path):
    plan = plan_without(small_shape(tie_word_embeddings=True), (1, "mlp", 0))
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float16), "lm_head.weight": np.zeros(3, np.float16)}
    _, after = cut_files(tmp_path, plan, lambda tensors: tensors.update(more))
    assert other_tensors(after, plan) == ()


def test_a_folder_of_another_model_is_refused(tmp_path):
    before, after = cut_files(tmp_path, some_plan())
    with pytest.raises(PruningError, match=r"lack model.layers.4"):
        actual_matrix_table(before, after, PruningPlan.keep_all(small_shape(num_hidden_layers=5)))
