"""Ranks, correlations and overlaps are those of small examples worked out by hand."""

import numpy as np
import pytest

from pruning.planning.comparison import compare, overlap
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import GROUP_TYPES, ModelShape


def small_shape(**values) -> ModelShape:
    """Two layers of 2 attention groups (cost 8 x 2 x 6 = 96) and 3 MLP channels (cost 24)."""
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 3, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
    return ModelShape.from_config({"model_type": "llama"} | sizes | heads | values)


def table_of(scores: list[float], method: str = "a") -> GroupTable:
    empty = GroupTable(small_shape(), np.zeros(10), {"method": method})
    return GroupTable(empty.shape, np.array(scores) * empty.groups.cost, {"method": method})


def test_the_same_order_correlates_fully_whatever_the_scale():
    scores = [3, 9, 1, 4, 7, 2, 8, 6, 5, 10]
    found = compare(table_of(scores, "a"), table_of([score**3 for score in scores], "b"))
    assert found.spearman == pytest.approx({"all": 1, "attention": 1, "mlp": 1})
    assert found.methods == ("a", "b")
    np.testing.assert_array_equal(found.first_rank, scores)
    reverse = compare(table_of(scores), table_of([11 - score for score in scores]))
    assert reverse.spearman == pytest.approx({"all": -1, "attention": -1, "mlp": -1})


def test_spearman_of_a_known_example():
    """1 - 6 * sum of squared differences / (n (n^2 - 1)): differences 1 and -1 twice, n = 10."""
    first, second = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [2, 1, 3, 4, 5, 6, 7, 8, 10, 9]
    assert compare(table_of(first), table_of(second)).spearman["all"] == pytest.approx(1 - 6 * 4 / 990)


def test_kinds_are_correlated_each_for_itself():
    """Attention is at 0, 1, 5, 6; the channels in the same order, attention in the reverse one."""
    first, second = [1, 2, 10, 20, 30, 3, 4, 40, 50, 60], [4, 3, 10, 20, 30, 2, 1, 40, 50, 60]
    found = compare(table_of(first), table_of(second)).spearman
    assert (found["attention"], found["mlp"]) == (pytest.approx(-1), pytest.approx(1))
    assert 0 < found["all"] < 1


def test_ties_share_their_mean_rank():
    found = compare(table_of([5, 5, 1, 2, 5, 6, 7, 8, 9, 10]), table_of(list(range(10))))
    np.testing.assert_array_equal(found.first_rank, [4, 4, 1, 2, 4, 6, 7, 8, 9, 10])


def test_only_groups_that_both_measured_are_ranked():
    nan = float("nan")
    found = compare(table_of([nan, 2, 3, 4, 5, 6, 7, 8, 9, 10]), table_of([1, 2, 3, 4, 5, 6, 7, 8, 9, nan]))
    np.testing.assert_array_equal(found.positions, range(1, 9))
    np.testing.assert_array_equal(found.first_rank, range(1, 9))


def test_scores_that_do_not_vary_have_no_correlation():
    assert np.isnan(compare(table_of([1] * 10), table_of(list(range(10)))).spearman["all"])
    nothing = compare(table_of([float("nan")] * 10), table_of(list(range(10))))
    assert np.isnan(list(nothing.spearman.values())).all()


def plan_without(*positions: int) -> PruningPlan:
    kept = np.ones(10, dtype=bool)
    kept[list(positions)] = False
    return PruningPlan(small_shape(), kept)


def test_overlap_counts_groups_and_parameters():
    found = overlap(plan_without(0, 2, 3, 9), plan_without(0, 3, 4, 6))
    np.testing.assert_array_equal(found.both, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(found.first_only, [[0, 1], [0, 1]])
    np.testing.assert_array_equal(found.second_only, [[0, 1], [1, 0]])
    assert found.share == 2 / 6
    assert found.parameter_share == (96 + 24) / (2 * 96 + 4 * 24)
    assert [found.share_of(kind) for kind in GROUP_TYPES] == [1 / 2, 1 / 4]


def test_a_plan_overlaps_itself_wholly_and_its_opposite_not_at_all():
    assert overlap(plan_without(0, 2), plan_without(0, 2)).share == 1
    assert overlap(plan_without(0, 2), plan_without(1, 3)).parameter_share == 0
    assert overlap(plan_without(), plan_without()).share == 1


def test_two_models_cannot_be_compared():
    other = small_shape(num_hidden_layers=3)
    with pytest.raises(ValueError, match="two models"):
        compare(table_of([1] * 10), GroupTable(other, np.zeros(15), {}))
    with pytest.raises(ValueError, match="one has 2 layers"):
        overlap(plan_without(), PruningPlan.keep_all(other))
