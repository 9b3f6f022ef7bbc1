"""Verdicts and drawings of the experiments, whichever way they fall."""

import math

import numpy as np
import pytest

from analysis import charts, sensitivity
from pruning.model.sensitivity import Rise
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP, ModelShape
from pruning.runs.sensitivity.results import GRID, KINDS, LAYERS, PROTECTION, SPLIT, TRAINED, Question, SensitivityResult
from tests.tiny_models import tiny_config
from ui.translation import t

SHAPE = ModelShape.from_config(tiny_config("qwen2").to_dict())


def protection(*differences: tuple[float, bool], ratio: float = 0.2) -> SensitivityResult:
    """One ratio, a seed for each (difference of the loss, is clear)."""
    points = [
        {
            "seed": seed,
            "ratio": ratio,
            "all": {"perplexity": 20.0 + seed},
            "protected": {"perplexity": 19.0 + seed},
            "difference": {"mean": mean, "error": abs(mean) / (3 if clear else 1), "is_clear": clear},
        }
        for seed, (mean, clear) in enumerate(differences)
    ]
    options = {"strategy": "layer", "ratios": [ratio], "seeds": list(range(len(points))), "first": 1, "last": 1}
    return SensitivityResult(Question(PROTECTION, options, {}), perplexity=18.0, points=points)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([(-0.1, True), (-0.2, True)], "helps"),
        ([(0.1, True), (0.2, True)], "hurts"),
        ([(-0.1, True), (0.2, True)], "unclear"),
        ([(-0.1, True), (-0.2, False)], "unclear"),
    ],
)
def test_a_verdict_needs_every_seed_to_agree_clearly(differences, verdict):
    found = protection(*differences)
    [row] = sensitivity.protection_verdicts(found)
    assert row["verdict"] == verdict == sensitivity.protection_in_all(found)
    assert row["difference"] == pytest.approx(np.mean([mean for mean, _ in differences]))
    assert t(f"learn.protection.{verdict}", first=1, last=1)


def test_with_no_ratio_that_can_be_reached_nothing_is_claimed():
    found = protection()
    assert sensitivity.protection_in_all(found) == "none" and sensitivity.protection_verdicts(found) == []
    assert charts.protection_curves(found, t).data[0].x is not None


def test_curves_show_means_and_the_spread_of_the_seeds():
    figure = charts.protection_curves(protection((-0.1, True), (-0.1, True), (-0.1, True)), t)
    everywhere, protected = figure.data
    assert everywhere.y == (21.0,) and protected.y == (20.0,)
    assert everywhere.error_y.array[0] == everywhere.error_y.arrayminus[0] == 1.0


def test_what_follows_from_a_root_is_what_a_group_takes_from_each_matrix():
    layer = SHAPE.layers[0]
    found = sensitivity.consequences(layer)
    heads, width = layer.num_key_value_groups * layer.head_dim, layer.head_dim
    assert [(one.module, one.what, one.count) for one in found] == [
        *(("k_proj", "rows", width), ("q_proj", "rows", heads), ("v_proj", "rows", width), ("o_proj", "columns", heads)),
        *(("gate_proj", "rows", 1), ("up_proj", "rows", 1), ("down_proj", "columns", 1)),
    ]
    figure = charts.propagation(found, t)
    assert len(figure.data[0].text) == len(found) and len(figure.layout.annotations) == len(found) - 2


@pytest.mark.parametrize(
    ("mean", "is_clear", "verdict"), [(-0.1, True, "helps"), (0.1, True, "hurts"), (0.1, False, "unclear")]
)
def test_after_the_same_training_the_verdict_is_that_of_the_trained_models(mean, is_clear, verdict):
    def both(cut: float, trained: float) -> dict:
        return {"cut": {"perplexity": cut}, "trained": {"perplexity": trained}}

    difference = {"mean": mean, "error": 0.01, "is_clear": is_clear}
    point = {"ratio": 0.2, "all": both(25.0, 22.0), "protected": both(24.0, 21.5), "difference": difference}
    unreached = {"ratio": 0.9, "reason": "too much"}
    found = SensitivityResult(Question(TRAINED, {"first": 3, "last": 2}, {}), perplexity=20.0, points=[point, unreached])
    [row] = sensitivity.trained_verdicts(found)
    assert (row["verdict"], row["all"], row["protected"], row["difference"]) == (verdict, 22.0, 21.5, mean)
    shown = [(trace.meta["kind"], trace.y[0]) for trace in charts.protection_trained(found, t).data]
    assert shown == [("all-cut", 25.0), ("all-trained", 22.0), ("protected-cut", 24.0), ("protected-trained", 21.5)]
    assert row.pop("verdict") and t(f"learn.trained.ratio.{verdict}", **row)


def test_bars_of_layers_begin_at_the_whole_model_and_end_at_the_perplexity_of_the_cut():
    points = [
        {"layer": layer, "kind": kind, "perplexity": 10.0 + layer + number, "rise": layer + number, "error": 0.1, "removed": 5}
        for layer in range(3)
        for number, kind in enumerate(KINDS)
    ]
    foreseen = {"l1": {kind: [1.0, 2.0, 3.0] for kind in KINDS}}
    foreseen["l2"] = {kind: [3.0, 2.0, 1.0] for kind in KINDS}
    correlations = {"l1": dict.fromkeys(KINDS, 1.0), "l2": dict.fromkeys(KINDS, -1.0)}
    found = SensitivityResult(
        Question(LAYERS, {}, {}), perplexity=9.0, points=points, whole={"foreseen": foreseen, "spearman": correlations}
    )
    attention, mlp, _ = charts.layer_sensitivity(found, t).data
    assert attention.base == mlp.base == (9.0,) * 3
    assert [y + 9.0 for y in mlp.y] == [11.0, 12.0, 13.0]
    ranks = sensitivity.foresight_ranks(found, MLP)
    assert [row.method for row in ranks] == [None, "l1", "l2"]
    assert ranks[0].ranks.tolist() == ranks[1].ranks.tolist() == [3, 2, 1] and ranks[2].ranks.tolist() == [1, 2, 3]
    assert "l1" in charts.foresight(found, MLP, t).layout.title.text


def test_the_grid_leaves_gaps_where_there_is_no_plan():
    point = {"first": 0, "last": 1, "perplexity": 5.0, "rise": 0.1, "difference": {"mean": -0.2, "error": 0.1}}
    options = {"ratio": 0.2, "firsts": [0, 1], "lasts": [0, 1]}
    found = SensitivityResult(
        Question(GRID, options, {}), perplexity=4.0, points=[point, {"first": 1, "last": 1, "reason": "too much"}]
    )
    values = np.array(charts.protection_grid(found, t).data[0].z, dtype=float)
    assert values[0, 1] == -0.2 and np.isnan(values).sum() == 3
    assert sensitivity.best_of_grid(found) == point


def test_splits_are_sorted_by_what_attention_gave_and_the_scores_own_is_starred():
    points = [
        {
            "ratio": 0.1,
            "split": split,
            "attention": share,
            "removed": 10,
            "perplexity": 9.0 + share,
            "rise": share,
            "actual_ratio": 0.1,
        }
        for split, share in (("5:5", 5), ("auto", 1), ("0:10", 0))
    ]
    found = SensitivityResult(Question(SPLIT, {"ratios": [0.1]}, {}), perplexity=8.0, points=points)
    line, star = charts.split_curves(found, t).data
    assert line.x == (0.0, 0.5) and star.x == (0.1,)
    assert sensitivity.best_splits(found) == [{"ratio": 0.1, "best": points[2], "own": points[1]}]


@pytest.mark.parametrize("kind", GROUP_TYPES)
def test_what_is_lit_in_the_drawing_holds_the_parameters_of_the_group(kind):
    layer = SHAPE.layers[0]
    last = layer.group_count(kind) - 1
    boxes = sensitivity.layer_boxes(layer, kind, last)
    assert len(boxes) == 7
    weights = sensitivity.group_parts(layer, kind)
    assert weights["parameters"].sum() == layer.group_cost(kind)
    lit = sum(box.lit[2] * box.lit[3] for box in boxes if box.lit is not None)
    assert lit == weights[~weights["module"].str.endswith("bias")]["parameters"].sum()
    assert all(box.lit is None or box.lit[0] + box.lit[2] <= box.x + box.columns for box in boxes)
    assert (kind == ATTENTION) == (boxes[0].lit is not None)


def test_a_rise_is_paired():
    before, after = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.1, 3.1])
    rise = Rise.between(before, after)
    assert rise.mean == pytest.approx(0.1) and rise.error == pytest.approx(0, abs=1e-12) and rise.is_clear
    assert math.isnan(Rise.between(before[:1], after[:1]).error)


@pytest.mark.parametrize(("change", "level"), [(0.0, 0), (0.04, 0), (0.3, 2), (5.0, 4), (-0.3, -2)])
def test_tokens_are_shaded_by_what_they_lost(change, level):
    assert sensitivity.shade(1.0, 1.0 + change) == level
