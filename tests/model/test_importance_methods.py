"""Every score against its formula computed the slow way: one sample at a time, activations written out, plain slicing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pruning.methods import IMPORTANCE_METHODS, LAYER_METHODS
from pruning.model.importance import measure_at_once, measure_groups, shared_passes
from pruning.planning.shape import ModelShape
from tests.tiny_models import FAMILIES, random_ids, tiny_model

QUERY_HEADS_PER_GROUP, GROUPS, CHANNELS = 2, 4, 24
SAMPLES, SEQ_LEN, BATCH_SIZE = 7, 12, 3
MODELS = [(family, {}) for family in FAMILIES] + [
    ("llama", {"bias": True}),
    ("qwen3", {"bias": True}),
    ("qwen2", {"head_dim": 12}),
]


def scores(method, model, samples, batch_size=BATCH_SIZE) -> np.ndarray:
    shape = ModelShape.from_config(model.config.to_dict())
    return measure_groups(method, model, shape, samples, batch_size)


def group_slices(layer):
    """For each group of a layer: (module, rows or columns, slice) of every matrix it owns."""
    attention, mlp, d = layer.self_attn, layer.mlp, layer.self_attn.head_dim
    for g in range(GROUPS):
        queries = slice(g * QUERY_HEADS_PER_GROUP * d, (g + 1) * QUERY_HEADS_PER_GROUP * d)
        keys = slice(g * d, (g + 1) * d)
        yield [
            (attention.q_proj, "rows", queries),
            (attention.k_proj, "rows", keys),
            (attention.v_proj, "rows", keys),
            (attention.o_proj, "columns", queries),
        ]
    for c in range(CHANNELS):
        at = slice(c, c + 1)
        yield [(mlp.gate_proj, "rows", at), (mlp.up_proj, "rows", at), (mlp.down_proj, "columns", at)]


def summed(model, of_weight, of_bias) -> np.ndarray:
    """For each group the sum of of_weight(module) over its part of every weight, and of of_bias(module) over its biases."""
    importance = []
    for layer in model.model.layers:
        for parts in group_slices(layer):
            total = 0.0
            for module, side, at in parts:
                values = of_weight(module)
                total += (values[at] if side == "rows" else values[:, at]).double().sum().item()
                if side == "rows" and module.bias is not None:
                    total += of_bias(module)[at].double().sum().item()
            importance.append(total)
    return np.array(importance)


def batch_gradients(model, batch) -> dict:
    """Gradient of the batch's mean loss, made one sample at a time."""
    model.zero_grad(set_to_none=True)
    for sample in batch:
        (model(input_ids=sample[None], labels=sample[None]).loss / len(batch)).backward()
    return {parameter: parameter.grad.clone() for parameter in model.parameters()}


def taylor_2nd_reference(model, samples) -> np.ndarray:
    batches = [samples[i : i + BATCH_SIZE] for i in range(0, SAMPLES, BATCH_SIZE)]
    mean = batch_gradients(model, samples)
    each = [batch_gradients(model, batch) for batch in batches]
    with torch.no_grad():

        def score(parameter):
            h = sum(gradients[parameter] ** 2 for gradients in each) / len(each)
            return (parameter * mean[parameter]).abs() + 0.5 * parameter**2 * h

        return summed(model, lambda module: score(module.weight), lambda module: score(module.bias))


@torch.no_grad()
def wanda_reference(model, samples) -> np.ndarray:
    inputs: dict = {}
    modules = {module for layer in model.model.layers for parts in group_slices(layer) for module, _, _ in parts}
    handles = [m.register_forward_pre_hook(lambda m, x: inputs.setdefault(m, []).append(x[0].flatten(0, 1))) for m in modules]
    for sample in samples:
        model(input_ids=sample[None])
    for handle in handles:
        handle.remove()
    rms = {module: torch.cat(x).double().square().mean(0).sqrt() for module, x in inputs.items()}
    return summed(model, lambda module: module.weight.abs() * rms[module], lambda module: torch.zeros_like(module.bias))


@torch.no_grad()
def magnitude_reference(model, power) -> np.ndarray:
    sums = summed(model, lambda module: module.weight.abs() ** power, lambda module: module.bias.abs() ** power)
    return sums ** (1 / power)


def sample_products(model, samples) -> np.ndarray:
    """a_s for every sample and group, [samples, groups]: sum over tokens of <x_t, dL_s/dx_t>."""
    rows = []
    for sample in samples:
        kept: dict = {}

        def keep(module, x, kept=kept):
            x[0].retain_grad()
            kept[module] = x[0]

        outputs = [p for layer in model.model.layers for p in (layer.self_attn.o_proj, layer.mlp.down_proj)]
        handles = [module.register_forward_pre_hook(keep) for module in outputs]
        model(input_ids=sample[None], labels=sample[None]).loss.backward()
        for handle in handles:
            handle.remove()
        row = []
        for layer in model.model.layers:
            for parts in group_slices(layer):
                module, _, at = parts[-1]  # o_proj or down_proj with the group's input columns
                x = kept[module]
                row.append((x * x.grad)[..., at].double().sum().item())
        rows.append(row)
    return np.array(rows)


REFERENCES = {
    "taylor_2nd": taylor_2nd_reference,
    "wanda": wanda_reference,
    "l1": lambda model, samples: magnitude_reference(model, 1),
    "l2": lambda model, samples: magnitude_reference(model, 2),
    "gate": lambda model, samples: np.abs(sample_products(model, samples)).mean(0),
    "fisher": lambda model, samples: (sample_products(model, samples) ** 2).mean(0) / 2,
}


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize(("family", "options"), MODELS)
def test_scores_are_what_the_formula_says(method, family, options):
    samples = random_ids(SAMPLES, SEQ_LEN)
    expected = REFERENCES[method](tiny_model(family, **options), samples)
    found = scores(method, tiny_model(family, **options), samples)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9 * expected.max())


def test_every_method_has_a_reference():
    assert set(IMPORTANCE_METHODS) == set(REFERENCES) | {"taylor"}


@pytest.mark.parametrize("method", ["taylor", "wanda", "gate", "fisher"])
def test_scores_do_not_depend_on_the_batch_size(method):
    model, samples = tiny_model("qwen3"), random_ids(SAMPLES, SEQ_LEN)
    one_by_one = scores(method, model, samples, 1)
    for batch_size in (2, SAMPLES):
        np.testing.assert_allclose(scores(method, model, samples, batch_size), one_by_one, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("method", IMPORTANCE_METHODS)
def test_measuring_leaves_the_model_as_it_was(method):
    model = tiny_model("llama")
    flags = {name: "mlp" in name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores(method, model, random_ids(SAMPLES, SEQ_LEN))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("both", [("taylor", "taylor_2nd"), ("gate", "fisher")])
def test_what_one_pass_gives_both_of_is_what_each_gives_alone(both):
    model, samples = tiny_model("llama"), random_ids(5, 12)
    shape = ModelShape.from_config(model.config.to_dict())
    assert both in shared_passes(IMPORTANCE_METHODS)
    together = measure_at_once(both, model, shape, samples, 2)
    for method, importance in zip(both, together, strict=True):
        np.testing.assert_allclose(importance, measure_groups(method, model, shape, samples, 2), rtol=1e-6)


@pytest.mark.parametrize("method", [*IMPORTANCE_METHODS.values(), *LAYER_METHODS.values()], ids=lambda method: method.name)
def test_the_documentation_gives_the_formula_and_the_source_of_every_record(method):
    [row] = [line for line in Path("docs/methods.md").read_text().splitlines() if line.startswith(f"| `{method.name}`")]
    assert f"`{method.formula}`" in row and method.source in row


def test_all_methods_of_one_pass_have_the_same_needs():
    for at_once in shared_passes(tuple(IMPORTANCE_METHODS)):
        assert len({IMPORTANCE_METHODS[method].passes for method in at_once}) == 1
