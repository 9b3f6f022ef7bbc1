"""Closed-form repair is the least-squares solution, layer by layer, and changes nothing it need not."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.recovery import measured
from pruning.errors import Cancelled, PruningError
from pruning.model import repair as least_squares
from pruning.model.repair import DAMPING, RepairedMatrix, repair
from pruning.model.surgery import cut
from pruning.planning.kept_indices import input_columns
from pruning.planning.shape import ATTENTION, MLP
from tests.tiny_models import FAMILIES, plan_without, random_ids, tiny_model

SIZES_DIFFER = {(0, ATTENTION): {1}, (1, ATTENTION): {0, 3}, (1, MLP): range(0, 24, 2), (3, MLP): range(9), (4, MLP): {0, 23}}
BLOCKS_GONE = {(1, ATTENTION): range(4), (1, MLP): range(12), (2, MLP): range(24), (2, ATTENTION): {0}}
BLOCKS_GONE |= {(3, ATTENTION): range(4), (3, MLP): range(24), (4, MLP): range(5)}
MODELS = [(family, {}) for family in FAMILIES] + [("llama", {"bias": True}), ("qwen3", {"bias": True})]
WINDOWS = random_ids(40, 16)


def repaired(model, plan, samples=WINDOWS, **options):
    pruned = cut(model, plan)
    return pruned, repair(model, pruned, plan, samples, batch_size=16, **options)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def inputs_of(model, projection, samples) -> np.ndarray:
    """All that enters a projection when the whole model runs, [tokens, inputs] float64."""
    seen = []
    hook = projection.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(samples)
    hook.remove()
    return seen[0].flatten(0, 1).double().numpy()


def dense_solution(x: np.ndarray, weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """argmin over W' of |X W' - X_K W'_K|^2 + lambda |W'_K - W_K|^2, as an ordinary least-squares problem."""
    damping = DAMPING * (x**2).sum(0).mean()
    ridge = np.sqrt(damping) * np.eye(len(kept))
    inputs = np.vstack([x[:, kept], ridge])
    outputs = np.vstack([x @ weight.T, ridge @ weight[:, kept].T])
    return np.linalg.lstsq(inputs, outputs, rcond=None)[0].T


@pytest.mark.parametrize(("family", "options"), MODELS)
@pytest.mark.parametrize("removed", [SIZES_DIFFER, BLOCKS_GONE], ids=["sizes differ", "blocks gone"])
def test_it_equals_a_dense_least_squares_solution(family, options, removed):
    """The reference runs whole models: cut and repaired up to a block, from that block on as the source."""
    source = tiny_model(family, **options)
    plan = plan_without(source, removed, remove_empty_layers=True)
    pruned, report = repaired(source, plan)
    mixed = tiny_model(family, **options)  # becomes the cut, repaired model with zeros in the removed columns
    for layer_idx in range(plan.shape.num_layers):
        layer = mixed.model.layers[layer_idx]
        for group_type, projection in ((ATTENTION, layer.self_attn.o_proj), (MLP, layer.mlp.down_proj)):
            kept = input_columns(plan, layer_idx, group_type)
            if len(kept) == projection.in_features:
                continue
            weight = projection.weight.detach().double().numpy()
            expected = dense_solution(inputs_of(mixed, projection, WINDOWS), weight, kept)
            with torch.no_grad():
                projection.weight.zero_()
                projection.weight[:, kept] = torch.from_numpy(expected).float()
            if len(kept):
                name = f"model.layers.{plan.kept_layers.index(layer_idx)}."
                name += "self_attn.o_proj.weight" if group_type == ATTENTION else "mlp.down_proj.weight"
                found = pruned.get_parameter(name).detach().numpy()
                np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [r.layer_idx for r in report] == sorted(r.layer_idx for r in report)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_cut_changes_no_weight(family):
    model = tiny_model(family)
    before = weights_of(model)
    pruned, report = repaired(model, plan_without(model, {}))
    assert report == []
    for name, weight in weights_of(pruned).items():
        torch.testing.assert_close(weight, before[name], atol=1e-5, rtol=0)


def test_columns_that_nothing_enters_are_repaired_by_changing_nothing():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:5] = 0
    plan = plan_without(model, {(1, MLP): range(5)})
    whole = model.model.layers[1].mlp.down_proj.weight.detach()[:, 5:]
    pruned, (one,) = repaired(model, plan)
    torch.testing.assert_close(pruned.model.layers[1].mlp.down_proj.weight.detach(), whole, atol=1e-5, rtol=0)
    assert one.error_before == one.error_after == 0


@pytest.mark.parametrize(("family", "options"), MODELS)
def test_only_weights_that_lost_columns_change_and_their_output_comes_nearer(family, options):
    model = tiny_model(family, **options)
    plan = plan_without(model, SIZES_DIFFER)
    source, unrepaired = weights_of(model), weights_of(cut(model, plan))
    pruned, report = repaired(model, plan)
    changed = {name for name, weight in weights_of(pruned).items() if not torch.equal(weight, unrepaired[name])}
    blocks = {"o_proj": "self_attn", "down_proj": "mlp"}
    assert changed == {f"model.layers.{r.layer_idx}.{blocks[r.matrix]}.{r.matrix}.weight" for r in report}
    assert len(report) == len(SIZES_DIFFER)
    assert all(0 < r.error_after < r.error_before for r in report)
    assert all(torch.equal(weight, source[name]) for name, weight in weights_of(model).items())


def test_the_errors_are_those_of_the_outputs():
    model = tiny_model("llama")
    plan = plan_without(model, {(2, MLP): range(10)})
    pruned, (one,) = repaired(model, plan)
    projection, kept = model.model.layers[2].mlp.down_proj, input_columns(plan, 2, MLP)
    x, weight = inputs_of(model, projection, WINDOWS), projection.weight.detach().double().numpy()

    def error(kept_weight) -> float:
        return np.linalg.norm(x @ weight.T - x[:, kept] @ kept_weight.T) / np.linalg.norm(x @ weight.T)

    assert one.error_before == pytest.approx(error(weight[:, kept]), rel=1e-4)
    assert one.error_after == pytest.approx(
        error(pruned.model.layers[2].mlp.down_proj.weight.detach().double().numpy()), rel=1e-3
    )


@pytest.mark.parametrize("layers_done", [1, 3])
def test_cancelled_it_leaves_both_models_as_they_were(layers_done):
    model = tiny_model("qwen3", bias=True)
    plan = plan_without(model, SIZES_DIFFER)
    pruned = cut(model, plan)
    before = weights_of(model), weights_of(pruned)
    seen: list[RepairedMatrix] = []

    def stop(done: int, total: int) -> None:
        assert total == 5
        if done == layers_done:
            raise Cancelled()

    with pytest.raises(Cancelled):
        repair(model, pruned, plan, WINDOWS, on_progress=stop, on_repaired=seen.append)
    assert seen
    for one, was in zip((model, pruned), before, strict=True):
        assert all(torch.equal(weight, was[name]) for name, weight in weights_of(one).items())
        assert not any(module._forward_pre_hooks for module in one.modules())


@pytest.mark.parametrize("removed", [SIZES_DIFFER, {}, {(4, MLP): range(4)}], ids=["many", "nothing", "the last layer"])
def test_its_time_is_known_before_and_both_models_stay_as_they_were(removed, monkeypatch):
    model = tiny_model("llama")
    plan = plan_without(model, removed)
    pruned = cut(model, plan)
    before = weights_of(model), weights_of(pruned)
    ran = []
    monkeypatch.setattr(least_squares.time, "perf_counter", lambda: float(len(ran)))  # time goes by with the layers that run
    for layer in (*model.model.layers, *pruned.model.layers):
        layer.self_attn.register_forward_hook(lambda *_: ran.append(1))
    estimate = least_squares.seconds_to_repair(model, pruned, plan, WINDOWS, batch_size=2)
    for one, was in zip((model, pruned), before, strict=True):
        assert all(torch.equal(weight, was[name]) for name, weight in weights_of(one).items())
    at_first, seen = len(ran), []
    repair(model, pruned, plan, WINDOWS, 2, on_progress=lambda *_: seen.append(len(ran)))
    assert at_first < len(ran) - at_first or not removed
    assert estimate == pytest.approx(seen[-1] - seen[0] if removed else 0, rel=0.5)


def test_a_matrix_that_is_not_positive_gets_more_damping():
    gram = torch.tensor([[1.0, 3.0], [3.0, 1.0]])  # eigenvalues 4 and -2
    solution, damping = least_squares._solve(gram, torch.ones(2, 1), 1.0)
    assert damping == pytest.approx(10)
    torch.testing.assert_close(solution, torch.full((2, 1), 1 / 14))


def test_inputs_that_are_not_finite_are_refused_by_name():
    model = tiny_model("llama")
    plan = plan_without(model, {(3, MLP): range(4)})
    pruned = cut(model, plan)
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(PruningError, match="down_proj of layer 3"):
        repair(model, pruned, plan, WINDOWS)


def test_half_precision_weights_stay_so():
    model = tiny_model("llama").to(torch.bfloat16)
    pruned, report = repaired(model, plan_without(model, SIZES_DIFFER))
    assert all(weight.dtype == torch.bfloat16 for weight in pruned.parameters())
    assert all(r.error_after < r.error_before for r in report)


def test_memory_is_one_gram_matrix_and_its_solution_or_one_batch_however_many_tokens():
    for one in measured([1024, 4096], inputs=[1024, 2048]):
        assert one.peak_bytes <= one.bound_bytes


def test_without_room_for_the_hidden_states_nothing_begins(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(PruningError, match="not enough space"):
        repaired(model, plan_without(model, SIZES_DIFFER))
