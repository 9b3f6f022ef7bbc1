"""Taylor scores are what the formula says, group by group, and measuring leaves the model as it was."""

import numpy as np
import pytest
import torch

from pruning.errors import Cancelled, PruningError
from pruning.model.importance import measure_groups, taylor
from pruning.model.loss import Calibration
from pruning.planning.shape import ModelShape
from tests.tiny_models import FAMILIES, random_ids, tiny_model

QUERY_HEADS_PER_GROUP, GROUPS, CHANNELS = 2, 4, 24
MODELS = [(family, {"tied": tied}) for family in FAMILIES for tied in (False, True)]
MODELS += [("llama", {"bias": True}), ("qwen3", {"bias": True}), ("qwen2", {"head_dim": 12})]


def shape_of(model) -> ModelShape:
    return ModelShape.from_config(model.config.to_dict())


def scores(model, samples=None, batch_size=3, **options) -> np.ndarray:
    samples = random_ids(7, 12) if samples is None else samples
    return taylor(model, shape_of(model), Calibration(samples, batch_size, **options))


def reference(model, samples) -> np.ndarray:
    """sum abs(theta * g_bar), g_bar the mean of each sample's own gradient, group by group as docs/methods.md lists them."""
    for parameter in model.parameters():
        parameter.grad = None
    for sample in samples:
        (model(input_ids=sample[None], labels=sample[None]).loss / len(samples)).backward()

    def product(module, name):
        parameter = getattr(module, name)
        return 0 if parameter is None else (parameter * parameter.grad).abs().double().detach()

    def total(module, at, columns=False) -> float:
        if columns:
            return product(module, "weight")[:, at].sum().item()
        bias = module.bias is not None and product(module, "bias")[at].sum().item()
        return product(module, "weight")[at].sum().item() + bias

    importance = []
    for layer in model.model.layers:
        attention, mlp, d = layer.self_attn, layer.mlp, layer.self_attn.head_dim
        for g in range(GROUPS):
            queries = slice(g * QUERY_HEADS_PER_GROUP * d, (g + 1) * QUERY_HEADS_PER_GROUP * d)
            keys = slice(g * d, (g + 1) * d)
            importance.append(
                total(attention.q_proj, queries)
                + total(attention.k_proj, keys)
                + total(attention.v_proj, keys)
                + total(attention.o_proj, queries, columns=True)
            )
        for c in range(CHANNELS):
            channel = slice(c, c + 1)
            ins = total(mlp.gate_proj, channel) + total(mlp.up_proj, channel)
            importance.append(ins + total(mlp.down_proj, channel, columns=True))
    return np.array(importance)


@pytest.mark.parametrize(("family", "options"), MODELS)
def test_taylor_is_the_sum_of_parameter_times_mean_gradient(family, options):
    samples = random_ids(7, 12)
    expected = reference(tiny_model(family, **options), samples)
    np.testing.assert_allclose(scores(tiny_model(family, **options), samples), expected, rtol=1e-4)


def test_scores_do_not_depend_on_the_batch_size():
    model = tiny_model("qwen2")
    one_by_one = scores(model, batch_size=1)
    for batch_size in (2, 7, 50):
        np.testing.assert_allclose(scores(model, batch_size=batch_size), one_by_one, rtol=1e-4)


def test_scores_do_not_depend_on_which_weights_are_being_trained_and_leave_that_as_it_was():
    model = tiny_model("llama")
    expected = scores(model)
    flags = {name: "mlp" in name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    np.testing.assert_array_equal(scores(model), expected)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags


def test_gradients_that_were_there_before_do_not_count():
    model = tiny_model("llama")
    expected = scores(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    np.testing.assert_array_equal(scores(model), expected)


def test_measuring_changes_no_weight_and_leaves_no_gradient():
    model = tiny_model("mistral")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cancelling_leaves_no_gradient_and_the_same_weights_in_training():
    model = tiny_model("llama")
    model.lm_head.requires_grad_(False)
    told = []

    def stop_after_two(done, total):
        told.append((done, total))
        if done >= 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        scores(model, on_progress=stop_after_two)
    assert told == [(3, 7), (6, 7)]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]


def test_an_unknown_method_is_refused_with_the_known_ones():
    model = tiny_model("llama")
    with pytest.raises(PruningError, match=r"no importance method 'magic'; use one of: taylor"):
        measure_groups("magic", model, shape_of(model), random_ids(2, 8), 1)
