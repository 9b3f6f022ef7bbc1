"""Importance of whole layers against passes written out one by one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pruning.errors import PruningError
from pruning.methods import LAYER_METHODS
from pruning.model.layer_importance import measure_layers
from tests.tiny_models import FAMILIES, random_ids, tiny_model


def importance(method, model, samples, batch_size=3):
    return measure_layers(method, model, samples, batch_size)


class Bypass(torch.nn.Module):
    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states


@torch.no_grad()
def mean_loss(model, samples) -> float:
    return np.mean([model(input_ids=s[None], labels=s[None]).loss.double().item() for s in samples])


@pytest.mark.parametrize("family", FAMILIES)
def test_removal_is_the_loss_without_the_layer_minus_the_loss_with_it(family):
    model, samples = tiny_model(family), random_ids(7, 12)
    whole, expected = mean_loss(model, samples), []
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = Bypass()
        expected.append(mean_loss(model, samples) - whole)
        model.model.layers[index] = layer
    found = importance("removal", model, samples)
    np.testing.assert_allclose(found.importance, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.perplexity_ratio, np.exp(expected), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_activation_and_block_influence_compare_what_goes_in_with_what_comes_out(family):
    model, samples = tiny_model(family), random_ids(5, 12)
    seen = {index: [] for index in range(len(model.model.layers))}
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda module, args, output, index=index: seen[index].append((args[0], output)))
    for sample in samples:
        model(input_ids=sample[None])
    pairs = [(torch.cat([i for i, _ in seen[k]]), torch.cat([o for _, o in seen[k]])) for k in sorted(seen)]
    change = [((o - i).norm(dim=-1) / i.norm(dim=-1)).double().mean().item() for i, o in pairs]
    turn = [1 - F.cosine_similarity(i, o, dim=-1).double().mean().item() for i, o in pairs]
    model = tiny_model(family)
    np.testing.assert_allclose(importance("activation", model, samples).importance, change, rtol=1e-5)
    np.testing.assert_allclose(importance("block_influence", model, samples).importance, turn, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_batch_size_does_not_matter_and_no_hook_stays(method):
    model, samples = tiny_model("qwen2"), random_ids(7, 12)
    one_by_one = importance(method, model, samples, 1).importance
    np.testing.assert_allclose(importance(method, model, samples, 7).importance, one_by_one, rtol=1e-4, atol=1e-6)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_removal_costs_about_half_of_the_full_passes():
    """Layer calls are counted, not timed: L for the whole model, then L-1, L-2, ... 0."""
    model, samples = tiny_model("llama"), random_ids(2, 8)
    calls = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    importance("removal", model, samples, 2)
    layers = len(model.model.layers)
    assert len(calls) == layers + layers * (layers - 1) // 2


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(PruningError, match="use one of: removal, activation, block_influence"):
        importance("magic", tiny_model("llama"), random_ids(2, 8))
