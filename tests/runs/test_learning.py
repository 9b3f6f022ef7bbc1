"""The experiments of the Learn page against slow, independent references; what they keep, and how they go on."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from pruning.errors import Cancelled, PruningError
from pruning.experiment import Experiment
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.surgery import cut
from pruning.planning.shape import ATTENTION, MLP
from pruning.runs import steps
from pruning.runs.context import load_held_out, warm_model
from pruning.runs.sensitivity import results
from pruning.runs.sensitivity import run as sensitivity
from pruning.runs.sensitivity.plans import protected_and_not, split_plans
from pruning.runs.sensitivity.results import GRID, INSIDE, LAYERS, MATRIX, PROTECTION, SPLIT, STRATEGIES, TRAINED
from pruning.runs.status import read_status, request_cancel
from tests.requests import ask_to_learn

OPTIONS = {
    LAYERS: {"share": 0.25, "samples": 2, "kinds": ["attention", "mlp", "both"]},
    PROTECTION: {"ratios": [0.01, 0.03], "seeds": [0, 1]},
    TRAINED: {"ratios": [0.02, 0.9], "samples": 8},
    GRID: {"ratio": 0.03, "firsts": [0, 1], "lasts": [0, 1]},
    SPLIT: {"ratios": [0.02]},
    STRATEGIES: {"ratio": 0.03},
    INSIDE: {"layer": 2},
    MATRIX: {"layer": 2, "share": 0.25},
}
WINDOWS = 5


@pytest.fixture
def experiment(measured) -> Experiment:
    """A measured one without findings."""
    return measured.branch()


def asked(experiment: Experiment, kind: str, **options) -> results.Question:
    return results.question(experiment, experiment.read_table(), kind, WINDOWS, **OPTIONS[kind] | options)


def answer(experiment: Experiment, kind: str, **options) -> results.SensitivityResult:
    wanted = asked(experiment, kind, **options)
    ask_to_learn(experiment, wanted)
    steps.run("learn", experiment)
    return results.read_result(experiment, wanted)


@pytest.fixture
def loaded(measured):
    return load(open_checkpoint(measured.settings.base_model), measured.settings)


@pytest.fixture
def windows(measured, loaded) -> torch.Tensor:
    return load_held_out(replace(measured.settings, eval_windows=WINDOWS), loaded).windows


@torch.no_grad()
def losses_by_hand(model, windows) -> np.ndarray:
    """Mean loss of each window, token by token."""
    means = []
    for window in windows:
        log_probabilities = F.log_softmax(model(window[None]).logits[0, :-1].double(), dim=-1)
        means.append(-log_probabilities.gather(1, window[1:, None]).mean().item())
    return np.array(means)


@torch.no_grad()
def zero_columns(model, layer_idx: int, kind: str, groups: Iterable[int]) -> None:
    layer = model.model.layers[layer_idx]
    if kind == MLP:
        layer.mlp.down_proj.weight[:, list(groups)] = 0
        return
    width = 2 * layer.self_attn.head_dim  # two query heads per group
    for group in groups:
        layer.self_attn.o_proj.weight[:, group * width : (group + 1) * width] = 0


def lowest(experiment: Experiment, layer_idx: int, kind: str, count: int) -> list[int]:
    frame = experiment.read_table().frame()
    rows = frame[(frame["layer_idx"] == layer_idx) & (frame["group_type"] == kind)]
    return rows.sort_values("score")["group_idx"].head(count).tolist()


@pytest.mark.parametrize(
    ("layer_idx", "kind", "cuts"), [(0, "mlp", (MLP,)), (3, "both", (ATTENTION, MLP)), (4, "attention", (ATTENTION,))]
)
def test_one_layer_cut_alone_is_its_columns_zeroed(experiment, loaded, windows, layer_idx, kind, cuts):
    found = answer(experiment, LAYERS)
    whole = losses_by_hand(loaded.model, windows)
    for one in cuts:
        zero_columns(loaded.model, layer_idx, one, lowest(experiment, layer_idx, one, {ATTENTION: 1, MLP: 6}[one]))
    after = losses_by_hand(loaded.model, windows)
    point = found.point(layer=layer_idx, kind=kind)
    assert found.perplexity == pytest.approx(math.exp(whole.mean()), rel=1e-5)
    assert point["perplexity"] == pytest.approx(math.exp(after.mean()), rel=1e-5)
    assert point["rise"] == pytest.approx((after - whole).mean(), abs=1e-5)
    assert point["error"] == pytest.approx((after - whole).std(ddof=1) / math.sqrt(WINDOWS), abs=1e-5)
    shape = experiment.shape().layers[layer_idx]
    assert point["removed"] == sum(
        {ATTENTION: shape.attention_group_cost, MLP: 6 * shape.mlp_channel_cost}[one] for one in cuts
    )


def test_every_layer_and_kind_has_a_point_and_every_method_a_correlation(experiment):
    found = answer(experiment, LAYERS)
    assert {(p["layer"], p["kind"]) for p in found.points} == {(i, k) for i in range(5) for k in ("attention", "mlp", "both")}
    assert len(found.points) == 15 and found.finished and found.seconds > 0
    methods = {"taylor", "taylor_2nd", "wanda", "l1", "l2", "gate", "fisher", "removal", "activation", "block_influence"}
    assert set(found.whole["foreseen"]) == set(found.whole["spearman"]) == methods
    rises = [found.point(layer=i, kind="mlp")["rise"] for i in range(5)]
    for method, of_kind in found.whole["foreseen"].items():
        expected = pd.Series(of_kind["mlp"]).rank().corr(pd.Series(rises).rank())
        assert found.whole["spearman"][method]["mlp"] == pytest.approx(expected)


def test_foresight_is_the_sum_of_a_method_over_the_groups_that_went(experiment, loaded):
    found = answer(experiment, LAYERS)
    weights = loaded.model.model.layers[3].mlp
    channels = lowest(experiment, 3, MLP, 6)
    by_hand = sum(
        w.abs().sum().item()
        for w in (weights.gate_proj.weight[channels], weights.up_proj.weight[channels], weights.down_proj.weight[:, channels])
    )
    assert found.whole["foreseen"]["l1"]["mlp"][3] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("strategy", ["layer", "global"])
@pytest.mark.parametrize("ratio", [0.01, 0.02])
def test_both_scenarios_remove_as_many_parameters(experiment, strategy, ratio):
    table = experiment.read_table()
    plans = protected_and_not(table, ratio, strategy, 1, 2)
    removed = [int(plan.removed_parameters.sum()) for plan in plans]
    assert abs(removed[0] - removed[1]) < table.shape.layers[0].mlp_channel_cost
    assert ratio * table.shape.parameters - removed[1] < table.shape.layers[0].mlp_channel_cost
    assert (plans[1].removed_parameters[[0, 3, 4]] == 0).all()
    if strategy == "layer":
        assert (plans[0].removed_parameters.sum(axis=1) > 0).all()


@pytest.mark.parametrize("strategy", ["layer", "global"])
def test_a_ratio_that_protection_cannot_reach_is_refused_not_lowered(experiment, strategy):
    table = experiment.read_table()
    within = sum(layer.parameters for layer in table.shape.layers[1:3]) / table.shape.parameters
    with pytest.raises(PruningError, match="cannot be removed"):
        protected_and_not(table, within, strategy, 1, 2)


def test_protect_or_not_is_the_loss_of_the_models_that_would_be_cut(experiment, loaded, windows):
    found = answer(experiment, PROTECTION)
    assert [(p["seed"], p["ratio"]) for p in found.points] == [(0, 0.01), (0, 0.03), (1, 0.01), (1, 0.03)]
    options = found.question.options
    plans = protected_and_not(experiment.read_table(), 0.03, "layer", options["first"], options["last"])
    losses = [losses_by_hand(cut(loaded.model, plan), windows) for plan in plans]
    point = found.point(seed=0, ratio=0.03)
    for name, expected in zip(("all", "protected"), losses, strict=True):
        assert point[name]["perplexity"] == pytest.approx(math.exp(expected.mean()), rel=1e-4)
    assert point["difference"]["mean"] == pytest.approx((losses[1] - losses[0]).mean(), abs=1e-4)
    assert point["all"] != found.point(seed=1, ratio=0.03)["all"]  # another calibration, another choice


def test_after_training_both_scenarios_are_the_trained_models_that_were_cut(experiment, loaded, windows):
    found = answer(experiment, TRAINED)
    point, unreached = found.points
    options = found.question.options
    plans = protected_and_not(experiment.read_table(), 0.02, "layer", options["first"], options["last"])
    for name, plan in zip(("all", "protected"), plans, strict=True):
        by_hand = losses_by_hand(cut(loaded.model, plan), windows)
        assert point[name]["cut"]["perplexity"] == pytest.approx(math.exp(by_hand.mean()), rel=1e-4)
        assert point[name]["trained"]["perplexity"] != pytest.approx(point[name]["cut"]["perplexity"], rel=1e-6)
    difference = point["protected"]["trained"]["rise"] - point["all"]["trained"]["rise"]
    assert point["difference"]["mean"] == pytest.approx(difference)
    assert unreached["ratio"] == 0.9 and "cannot be removed" in unreached["reason"]["message"]


def test_what_is_trained_leaves_the_loaded_model_as_it_was(experiment, loaded):
    answer(experiment, TRAINED)
    warm = warm_model(open_checkpoint(experiment.settings.base_model), experiment.settings).model
    for (name, ours), theirs in zip(warm.named_parameters(), loaded.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0, msg=name)


def test_the_grid_without_protection_differs_by_nothing(experiment):
    found = answer(experiment, GRID)
    assert {(p["first"], p["last"]) for p in found.points} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert found.point(first=0, last=0)["difference"]["mean"] == pytest.approx(0, abs=1e-9)
    cost = experiment.shape().layers[0].mlp_channel_cost
    removed = [p["removed"] for p in found.points]
    assert max(removed) - min(removed) < cost


def test_splits_remove_one_number_of_parameters_and_the_impossible_says_why(experiment):
    found = answer(experiment, SPLIT)
    cost = experiment.shape().layers[0].mlp_channel_cost
    reached = [p for p in found.points if "removed" in p]
    assert len(found.points) == 12 and {p["split"] for p in reached} >= {"auto", "0:10", "5:5"}
    assert max(p["removed"] for p in reached) - min(p["removed"] for p in reached) < cost
    plan = dict(split_plans(experiment.read_table(), 0.02))["auto"]
    assert found.point(split="auto")["attention"] == plan.removed_parameters[:, 0].sum()
    far = answer(experiment, SPLIT, ratios=[0.3])
    assert any("reason" in p for p in far.points)


def test_the_other_experiments_end(experiment, loaded, windows):
    strategies = answer(experiment, STRATEGIES)
    assert [p["strategy"] for p in strategies.points] == ["layer", "global"] and "difference" in strategies.whole
    inside = answer(experiment, INSIDE)
    attention = [p for p in inside.points if p["kind"] == ATTENTION]
    assert [p["rank"] for p in attention] == ["lowest", "highest"]
    assert len(attention[0]["tokens"]) == len(attention[0]["after"]) + 1 == windows.shape[1]
    channel = next(p for p in inside.points if p["kind"] == MLP)
    model = loaded.model
    with torch.no_grad():
        column = model.model.layers[2].mlp.down_proj.weight[:, channel["group"]]
        expected = (model.lm_head.weight @ (model.model.norm.weight * column)).max().item()
    assert channel["raised"][0] == pytest.approx(expected, rel=1e-5)
    matrix = answer(experiment, MATRIX).whole
    assert matrix["smaller"]["shape"] == [18, 32] and matrix["dense"]["shape"] == [24, 32]
    assert matrix["zeros"]["zeros"] == 6 * 32 and matrix["zeros"]["bytes"] == matrix["dense"]["bytes"]


@pytest.mark.parametrize("kind", [LAYERS, PROTECTION])
def test_one_that_is_cancelled_keeps_its_points_and_goes_on_where_it_was(measured, experiment, monkeypatch, kind):
    keep = sensitivity._Study.keep

    def cancel_after_some(run, *points, **changes):
        keep(run, *points, **changes)
        if len(run.result.points) in (2, 6):
            request_cancel(experiment)

    with monkeypatch.context() as patched:
        patched.setattr(sensitivity._Study, "keep", cancel_after_some)
        with pytest.raises(Cancelled):
            answer(experiment, kind)
    wanted = asked(experiment, kind)
    stopped = results.read_result(experiment, wanted)
    assert read_status(experiment).state == "cancelled" and not stopped.finished and 0 < len(stopped.points) < 15
    found = answer(experiment, kind)
    assert found.finished and found.points[: len(stopped.points)] == stopped.points
    straight = answer(measured.branch(), kind)
    names = ("layer", "kind", "seed", "ratio", "perplexity")
    assert [{n: p.get(n) for n in names} for p in found.points] == [{n: p.get(n) for n in names} for p in straight.points]


def test_what_was_found_is_not_measured_again(experiment, monkeypatch):
    first = answer(experiment, SPLIT)
    monkeypatch.setattr(sensitivity, "window_losses", None)
    assert answer(experiment, SPLIT) == first
    assert answer(experiment.branch(), SPLIT) == first


def test_another_text_or_table_is_another_question(experiment):
    table = experiment.read_table()
    first = results.question(experiment, table, LAYERS)
    assert first.file == results.question(experiment, table, LAYERS).file
    assert first.file != results.question(experiment, table, LAYERS, windows=8).file
    assert first.file != results.question(experiment, table, LAYERS, share=0.5).file
    experiment.write_settings(replace(experiment.settings, eval_seq_len=32))
    assert first.file != results.question(experiment, table, LAYERS).file


def test_a_table_of_some_layers_is_refused(experiment):
    table = experiment.read_table()
    experiment.write_table(table.restricted(range(1, 3)))
    with pytest.raises(PruningError, match="measure all of them"):
        answer(experiment, LAYERS)
