"""A masked model computes without the removed groups, and is itself again afterwards."""

import pytest
import torch

from pruning.model.masking import masked
from pruning.model.surgery import cut
from pruning.planning.shape import ATTENTION, MLP
from tests.tiny_models import FAMILIES, plan_without, random_ids, tiny_model

REMOVED = {(0, ATTENTION): {1, 2}, (1, MLP): range(10), (3, ATTENTION): range(4), (4, MLP): range(24)}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(random_ids(2, 9)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_is_zeroing_input_columns_of_the_output_projections(family):
    model, reference = tiny_model(family, bias=True), tiny_model(family, bias=True)
    width = 2 * reference.model.layers[0].self_attn.head_dim  # two query heads per group
    with torch.no_grad():
        for (layer_idx, group_type), groups in REMOVED.items():
            layer = reference.model.layers[layer_idx]
            for group in groups:
                if group_type == ATTENTION:
                    layer.self_attn.o_proj.weight[:, group * width : (group + 1) * width] = 0
                else:
                    layer.mlp.down_proj.weight[:, group] = 0
    with masked(model, plan_without(model, REMOVED)):
        torch.testing.assert_close(logits(model), logits(reference), atol=1e-5, rtol=0)


def test_the_model_is_itself_again_after_the_block_and_after_an_error_in_it():
    model = tiny_model("llama")
    before, plan = logits(model), plan_without(model, REMOVED)
    with masked(model, plan):
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)
    with pytest.raises(RuntimeError, match="interrupted"), masked(model, plan):
        raise RuntimeError("interrupted")
    assert torch.equal(logits(model), before)


def test_weights_are_not_touched():
    model = tiny_model("llama")
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with masked(model, plan_without(model, REMOVED)):
        logits(model)
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_a_model_in_bfloat16_stays_in_bfloat16():
    model = tiny_model("qwen2").to(torch.bfloat16)
    with masked(model, plan_without(model, REMOVED)):
        assert logits(model).dtype == torch.bfloat16


def test_a_plan_for_a_pruned_model_masks_what_that_model_has():
    model = tiny_model("qwen3")
    pruned = cut(model, plan_without(model, REMOVED))
    further = {(0, ATTENTION): {0}, (2, MLP): {3, 4}}
    with masked(pruned, plan_without(pruned, further)):
        twice = logits(pruned)
    # Group 0 of what is left in layer 0 is group 0 of the source; groups 1 and 2 went before.
    with masked(model, plan_without(model, REMOVED | {(0, ATTENTION): {0, 1, 2}, (2, MLP): {3, 4}})):
        torch.testing.assert_close(twice, logits(model), atol=1e-4, rtol=0)


def test_masking_nothing_changes_nothing():
    model = tiny_model("mistral")
    before = logits(model)
    with masked(model, plan_without(model, {})):
        assert torch.equal(logits(model), before)
