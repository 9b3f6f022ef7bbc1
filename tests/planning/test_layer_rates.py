"""Rates of layers: the figures of docs/methods.md at Llama-3-8B size, and what holds for any model, weights and bounds."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.planning.allocation import Floors
from pruning.planning.block_counts import layerwise_counts, plan_from_counts
from pruning.planning.layer_rates import layer_rates, layer_weights
from pruning.planning.protection import Protection
from pruning.planning.shape import ModelShape
from tests.planning.examples import LLAMA_3_8B, random_table, shapes

LLAMA = ModelShape.from_config(LLAMA_3_8B)
ALL_PARAMETERS = 8_030_261_248
PRUNABLE = 32 * (41_943_040 + 176_160_768)
ENDS_PROTECTED = Protection(range(3, 30), range(3, 30))  # layers 0-2 and 30-31 stay whole
NOTHING_PROTECTED = Protection.none(32)
EQUAL = np.ones(32)


def share_removed(rates) -> float:
    """Of all parameters, when every layer loses just its rate."""
    return rates.applied.sum() * PRUNABLE / 32 / ALL_PARAMETERS


# the figures of docs/methods.md --------------------------------------------------------------------------------------------


def test_equal_rates_with_both_ends_protected_remove_18_3_percent_of_llama_3_8b():
    rates = layer_rates(LLAMA, EQUAL, 0.25, ENDS_PROTECTED, 0.15, 0.5)
    assert rates.computed == pytest.approx(0.25)
    assert rates.applied[[0, 1, 2, 30, 31]].tolist() == [0] * 5
    assert f"{share_removed(rates):.1%}" == "18.3%"


def test_nothing_protected_it_is_21_7_percent():
    rates = layer_rates(LLAMA, EQUAL, 0.25, NOTHING_PROTECTED, 0.15, 0.5)
    assert f"{share_removed(rates):.1%}" == "21.7%"


def test_matching_the_target_raises_rates_to_34_1_percent():
    rates = layer_rates(LLAMA, EQUAL, 0.25, ENDS_PROTECTED, 0.15, 0.5, basis="model")
    assert {f"{rate:.1%}" for rate in rates.applied[3:30]} == {"34.1%"}
    assert share_removed(rates) == pytest.approx(0.25, rel=1e-12)
    assert rates.target_met


def test_unequal_rates_give_at_most_19_7_percent():
    """The most goes when the protected layers have the least rate: then 27 layers share what is left of the target."""
    importance = np.where(ENDS_PROTECTED.cuttable(32).any(axis=1), 1.0, 1000.0)
    rates = layer_rates(LLAMA, layer_weights(importance, "inverse", 1.0), 0.25, ENDS_PROTECTED, 0.15, 0.5)
    assert rates.computed[[0, 1, 2, 30, 31]].tolist() == [0.15] * 5
    assert f"{share_removed(rates):.1%}" == "19.7%"


@given(importance=st.lists(st.floats(1e-6, 1e6), min_size=32, max_size=32), weight=st.floats(0, 4))
@settings(max_examples=60)
def test_no_importance_gives_more(importance, weight):
    rates = layer_rates(LLAMA, layer_weights(np.array(importance), "inverse", weight), 0.25, ENDS_PROTECTED, 0.15, 0.5)
    assert share_removed(rates) < 0.19692  # 7.25 of 32 layers


def test_whole_groups_come_as_near_as_rounding_allows():
    """The 18.3 % are no theory: with whole groups and channels a plan removes that much."""
    table = random_table(LLAMA)
    rates = layer_rates(LLAMA, EQUAL, 0.25, ENDS_PROTECTED, 0.15, 0.5)
    counts = layerwise_counts(LLAMA, rates, "2:8", ENDS_PROTECTED, Floors())
    plan = plan_from_counts(table, counts, Floors())
    assert f"{plan.actual_ratio:.1%}" == "18.3%"
    # 25 % of 218,103,808 are 54,525,952: 2.08 -> 2 attention groups; the rest is 3584 channels
    assert plan.kept_counts[10].tolist() == [8 - 2, 14336 - 3584]
    assert plan.kept_counts[2].tolist() == [8, 14336]


# what holds for any model ---------------------------------------------------------------------------------------------


@st.composite
def rate_tasks(draw) -> dict:
    shape = draw(shapes())
    layers = shape.num_layers
    start = draw(st.integers(0, layers - 1))
    cut_range = range(start, draw(st.integers(start + 1, layers)))
    minimum = draw(st.floats(0, 0.6))
    return {
        "shape": shape,
        "weights": np.array(draw(st.lists(st.floats(1e-3, 1e3), min_size=layers, max_size=layers))),
        "pruning_ratio": draw(st.floats(0.01, 0.99)),
        "protection": Protection(cut_range, cut_range),
        "minimum": minimum,
        "maximum": draw(st.floats(minimum, 1)),
        "basis": draw(st.sampled_from(["prunable", "model", "selected"])),
    }


def prunable_of(shape) -> np.ndarray:
    return np.array([layer.parameters - layer.fixed_parameters for layer in shape.layers], dtype=float)


def asked_and_given(task, rates) -> tuple[float, float, float, float]:
    """Parameters that the ratio asks for, that the rates remove, and the least and most that the bounds allow."""
    shape, inside = task["shape"], slice(task["protection"].mlp.start, task["protection"].mlp.stop)
    counted = slice(None) if task["basis"] == "prunable" else inside
    sizes = prunable_of(shape)[counted]
    of = {
        "prunable": prunable_of(shape).sum(),
        "model": shape.parameters,
        "selected": sum(layer.parameters for layer in shape.layers[inside]),
    }
    removed = float(rates.computed[counted] @ sizes)
    return task["pruning_ratio"] * of[task["basis"]], removed, task["minimum"] * sizes.sum(), task["maximum"] * sizes.sum()


@given(task=rate_tasks())
@settings(max_examples=200)
def test_rates_give_the_target_or_the_nearest_that_the_bounds_allow(task):
    rates = layer_rates(**task)
    asked, removed, least, most = asked_and_given(task, rates)
    assert removed == pytest.approx(min(max(asked, least), most), rel=1e-9)
    assert rates.target_met == (removed == pytest.approx(asked, rel=1e-9))


@given(task=rate_tasks())
@settings(max_examples=200)
def test_bounds_win_and_rates_follow_the_weights_between_them(task):
    rates = layer_rates(**task)
    assert ((task["minimum"] <= rates.computed) & (rates.computed <= task["maximum"])).all()
    between = (rates.computed > task["minimum"]) & (rates.computed < task["maximum"])
    assert rates.computed[between] == pytest.approx(rates.scale * task["weights"][between])
    by_weight = rates.computed[np.argsort(task["weights"])]
    assert (np.diff(by_weight) >= 0).all()


@given(task=rate_tasks())
def test_protected_layers_are_applied_0_and_the_others_their_rate(task):
    rates = layer_rates(**task)
    cut_range = task["protection"].mlp
    inside = np.isin(np.arange(task["shape"].num_layers), np.array(cut_range))
    assert (rates.applied[~inside] == 0).all()
    assert (rates.applied[inside] == rates.computed[inside]).all()


@given(task=rate_tasks(), more=st.floats(1, 3))
def test_a_larger_ratio_lowers_no_rate(task, more):
    assume(task["pruning_ratio"] * more < 1)
    less, larger = layer_rates(**task), layer_rates(**task | {"pruning_ratio": task["pruning_ratio"] * more})
    assert (larger.computed >= less.computed - 1e-12).all()


def test_a_layer_with_one_protected_block_has_a_rate():
    rates = layer_rates(LLAMA, EQUAL, 0.25, Protection(range(10, 20), range(3, 30)), 0.0, 1.0)
    assert np.flatnonzero(rates.applied).tolist() == list(range(3, 30))


@pytest.mark.parametrize(("minimum", "maximum", "rate"), [(0.3, 0.5, 0.3), (0.0, 0.2, 0.2)])
def test_bounds_that_the_target_does_not_fit_are_said_not_to(minimum, maximum, rate):
    rates = layer_rates(LLAMA, EQUAL, 0.25, NOTHING_PROTECTED, minimum, maximum)
    assert rates.computed.tolist() == [rate] * 32
    assert not rates.target_met


# weights --------------------------------------------------------------------------------------------------------------


def test_weights_follow_importance():
    importance = np.array([1.0, 2.0, 3.0])  # mean 2
    assert layer_weights(importance, "uniform", 5.0).tolist() == [1, 1, 1]
    assert layer_weights(importance, "inverse", 1.0) == pytest.approx([2, 1, 2 / 3])
    assert layer_weights(importance, "proportional", 2.0) == pytest.approx([0.25, 1, 2.25])
    assert layer_weights(importance, "inverse", 0.0) == pytest.approx([1, 1, 1])


def test_a_layer_measured_as_worthless_counts_as_one_percent_of_the_median_of_the_positive_ones():
    weights = layer_weights(np.array([-5.0, 0.0, 1.0, 3.0, 8.0]), "proportional", 1.0)
    assert weights / weights[2] == pytest.approx([0.03, 0.03, 1, 3, 8])


@pytest.mark.parametrize("strategy", ["inverse", "proportional"])
def test_layers_without_any_importance_give_no_weights(strategy):
    with pytest.raises(PruningError, match="No layer has an importance above 0, so rates cannot follow it"):
        layer_weights(np.array([0.0, -1.0]), strategy, 1.0)
    assert layer_weights(np.array([0.0, -1.0]), "uniform", 1.0).tolist() == [1, 1]
