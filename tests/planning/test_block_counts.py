"""Counts per block: the arithmetic of the split by hand, floors, uniform sizes, and multiples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.planning.allocation import Floors
from pruning.planning.block_counts import layerwise_counts, plan_from_counts, rounded_up, uniform_counts
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.layer_rates import LayerRates
from pruning.planning.protection import Protection
from pruning.planning.shape import ModelShape
from tests.planning.examples import LLAMA_3_8B, random_table, small_shape

# Of every layer: 4 KV groups of 8 * 2 * 6 = 96 parameters, 40 channels of 24. 384 + 960 = 1344 can go.
SHAPE = small_shape(num_attention_heads=8, num_key_value_heads=4, intermediate_size=40, num_hidden_layers=3)
FREE = Protection.none(3)


def rates(*applied: float) -> LayerRates:
    return LayerRates(np.array(applied), np.array(applied), 1.0, True)


def removed(budget: float, split: str, floors: Floors = Floors()) -> list[int]:
    """(attention groups, channels) that go from a layer when `budget` parameters may."""
    counts = layerwise_counts(SHAPE, rates(0, budget / 1344, 0), split, FREE, floors)
    assert counts[[0, 2]].tolist() == [[4, 40]] * 2
    return [4 - counts[1, 0], 40 - counts[1, 1]]


@pytest.mark.parametrize(
    ("budget", "split", "gone"),
    [
        (480, "2:8", [1, 16]),  # 96 : 384, to the last parameter
        (480, "5:5", [2, 12]),  # 240 are 2.5 groups: 2 (even); 480 - 192 = 288 left
        (240, "5:5", [1, 6]),  # 120 are 1.25 groups
        (336, "5:5", [2, 6]),  # 168 are 1.75 groups: rounded up, so the MLP pays: 336 - 192
        (100, "2:8", [0, 4]),  # 20 are 0.2 of a group: all goes to the MLP; 100 are 4.17 channels
        (480, "0:10", [0, 20]),  # MLP only
        (300, "10:0", [3, 0]),  # attention only; 3.1 groups
        (960, "10:0", [3, 0]),  # the floor keeps one group, and the rest is not for the MLP
        (960, "9:1", [3, 28]),  # 9 groups, 3 may go; 960 - 288 = 672 are left for the MLP
        (1344, "0:10", [0, 39]),  # the floor keeps one channel
        (96, "1:0", [1, 0]),
        (23, "0:10", [0, 0]),
    ],
)
def test_a_budget_is_split_as_counted_by_hand(budget, split, gone):
    assert removed(budget, split) == gone


def test_floors_hold_and_what_they_leave_over_goes_to_the_mlp():
    assert removed(960, "9:1", Floors(min_kv_groups=3)) == [1, 36]
    assert removed(1344, "5:5", Floors(min_kv_groups=2, min_mlp_channels=30)) == [2, 10]
    assert removed(1344, "2:8", Floors(remove_empty_layers=True)) == [3, 40]  # 268.8 are 2.8 groups


def test_floors_above_what_a_layer_has_keep_it_whole():
    assert removed(1344, "5:5", Floors(min_kv_groups=9, min_mlp_channels=99)) == [0, 0]


def test_layer_0_keeps_an_attention_group_even_where_layers_may_be_emptied():
    counts = layerwise_counts(SHAPE, rates(1, 1, 1), "10:0", FREE, Floors(remove_empty_layers=True))
    assert counts.tolist() == [[1, 40], [0, 40], [0, 40]]


def test_a_protected_block_stays_whole_and_its_budget_goes_to_the_mlp():
    attention_protected = Protection(range(1, 2), range(0, 3))
    counts = layerwise_counts(SHAPE, rates(0.5, 0.5, 0), "5:5", attention_protected, Floors())
    # 672 for each: layer 0 spends all of it on channels, layer 1 336 are 3.5 groups of which 3 (floor) may go
    assert counts.tolist() == [[4, 40 - 28], [1, 40 - 16], [4, 40]]
    mlp_protected = Protection(range(0, 3), range(1, 2))
    assert layerwise_counts(SHAPE, rates(0.5, 0, 0), "5:5", mlp_protected, Floors())[0].tolist() == [4 - 3, 40]


@given(budget=st.floats(0, 1344), attention=st.integers(0, 10))
def test_never_above_the_budget_by_more_than_rounding_attention(budget, attention):
    groups, channels = removed(budget, f"{attention}:{10 - attention}")
    over = groups * 96 + channels * 24 - budget
    assert over <= 48 + 1e-6  # half a group
    if attention < 10 and channels < 39:
        assert over > -24


def test_a_budget_of_just_n_channels_loses_none_to_rounding():
    for channels in range(40):
        assert removed(channels * 24, "0:10") == [0, min(channels, 39)]


def test_a_split_left_to_the_scores_is_refused():
    for call in (
        lambda: layerwise_counts(SHAPE, rates(0.1, 0.1, 0.1), "auto", FREE, Floors()),
        lambda: uniform_counts(SHAPE, 0.2, "auto", Floors()),
    ):
        with pytest.raises(PruningError, match="`pruning_distribution` is auto, which only `global` knows"):
            call()


# uniform --------------------------------------------------------------------------------------------------------------


def test_uniform_counts_of_llama_3_8b():
    shape = ModelShape.from_config(LLAMA_3_8B)
    counts = uniform_counts(shape, 0.25, "2:8", Floors())
    # 8,030,261,248 / 4 / 32 = 62,736,416 per layer; a fifth are 2.39 groups; 52,250,656 left are 4252.2 channels
    assert counts.tolist() == [[6, 14336 - 4252]] * 32


def test_uniform_leaves_one_size_per_matrix():
    table = random_table(SHAPE)
    plan = plan_from_counts(table, uniform_counts(SHAPE, 0.3, "3:7", Floors()), Floors())
    assert plan.shape_after.is_uniform
    assert 0.3 - 3 * 24 / SHAPE.parameters < plan.actual_ratio <= 0.3


def test_an_unreachable_uniform_ratio_names_the_largest():
    largest = 3 * (3 * 96 + 39 * 24) / SHAPE.parameters
    with pytest.raises(PruningError) as caught:
        uniform_counts(SHAPE, 0.99, "2:8", Floors())
    assert caught.value.code == "ratio_unreachable"
    named = caught.value.values["largest"]
    assert largest - 1e-4 < named <= largest and f"at most {named:.4f} can" in str(caught.value)
    assert uniform_counts(SHAPE, named, "3:9", Floors()).tolist()  # what the sentence promises works


def test_a_uniform_split_that_cannot_spend_its_budget_cuts_to_the_floors():
    assert uniform_counts(SHAPE, 0.5, "10:0", Floors()).tolist() == [[1, 40]] * 3


def test_layers_that_differ_already_cannot_be_uniform():
    config = {"per_layer_config": {"1": {"intermediate_size": 5}}}
    with pytest.raises(PruningError, match="The layers of this model differ in size"):
        uniform_counts(small_shape(**config), 0.2, "2:8", Floors())


def test_uniform_keeps_one_group_in_every_layer_since_layer_0_needs_it():
    assert uniform_counts(SHAPE, 0.6, "9:1", Floors(remove_empty_layers=True))[:, 0].tolist() == [1, 1, 1]


# multiples ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "multiple", "rounded"), [(1, 8, 8), (8, 8, 8), (9, 8, 16), (33, 16, 40), (40, 16, 40), (0, 8, 0), (7, 1, 7)]
)
def test_widths_are_rounded_up_to_a_multiple_but_never_above_what_there_was(width, multiple, rounded):
    counts = np.array([[3, width], [4, 40], [1, 40]])
    assert rounded_up(counts, SHAPE, multiple).tolist() == [[3, rounded], [4, 40], [1, 40]]


# which groups ---------------------------------------------------------------------------------------------------------


def test_the_lowest_scores_of_each_block_go():
    groups = GroupIndex(SHAPE)
    table = GroupTable(SHAPE, np.arange(groups.size, dtype=float)[::-1].copy(), {})
    plan = plan_from_counts(table, np.array([[4, 40], [2, 10], [4, 40]]), Floors())
    assert plan.kept_groups(1, "attention").tolist() == [0, 1]
    assert plan.kept_groups(1, "mlp").tolist() == list(range(10))
    assert plan.kept_counts.tolist() == [[4, 40], [2, 10], [4, 40]]


def test_of_equal_scores_the_first_go():
    table = GroupTable(SHAPE, np.ones(GroupIndex(SHAPE).size), {})
    plan = plan_from_counts(table, np.array([[4, 40], [3, 38], [4, 40]]), Floors())
    assert plan.kept_groups(1, "attention").tolist() == [1, 2, 3]
    assert plan.kept_groups(1, "mlp").tolist() == list(range(2, 40))


def test_groups_that_were_not_measured_stay_in_place_of_measured_ones():
    importance = np.ones(GroupIndex(SHAPE).size)
    first = GroupIndex(SHAPE).slice_of(1, "mlp").start
    importance[first : first + 5] = np.nan
    plan = plan_from_counts(GroupTable(SHAPE, importance, {}), np.array([[4, 40], [4, 3], [4, 40]]), Floors())
    assert plan.kept_groups(1, "mlp").tolist() == [0, 1, 2, 3, 4]
