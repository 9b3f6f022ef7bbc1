"""Rows that a person chose: exactly these go, and the first row that breaks a floor is named."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from pruning.errors import PruningError
from pruning.plan_from_file import check_floors, plan_from_rows
from pruning.planning.allocation import Floors
from pruning.planning.plan import PruningPlan
from tests.planning.examples import plans, random_table, small_shape

ATTENTION_COST, MLP_COST = 96, 24


def rows(*named: tuple[int, str, int]) -> pd.DataFrame:
    """Rows (layer, type, index) without scores, as `apply --plan` writes them."""
    frame = pd.DataFrame(named, columns=["layer_idx", "group_type", "group_idx"])
    frame["importance"] = frame["score"] = np.nan
    return frame.assign(cost=[ATTENTION_COST if kind == "attention" else MLP_COST for kind in frame["group_type"]])


@given(plan=plans())
def test_rows_of_what_a_plan_removes_give_that_plan_again(plan):
    going = random_table(plan.shape).frame(np.flatnonzero(~plan.kept))
    if going.empty:
        return
    read = plan_from_rows(going, plan.shape, Floors(remove_empty_layers=True), "abc")
    np.testing.assert_array_equal(read.kept, plan.kept)
    assert read.fingerprint == "abc"


def test_exactly_the_rows_go_whatever_their_order_and_scores():
    plan = plan_from_rows(rows((3, "mlp", 5), (0, "mlp", 0), (1, "attention", 1)), small_shape(), Floors())
    assert plan.kept_counts.tolist() == [[2, 5], [1, 6], [2, 6], [2, 5]]
    assert plan.kept_groups(1, "attention").tolist() == [0]


def test_the_row_that_breaks_a_floor_is_named_as_a_spreadsheet_counts():
    faulty = rows((1, "mlp", 0), (2, "attention", 1), (0, "mlp", 2), (2, "attention", 0), (2, "mlp", 0))
    with pytest.raises(PruningError) as caught:
        plan_from_rows(faulty, small_shape(), Floors(), path="mine.csv")
    assert str(caught.value) == (
        "mine.csv, row 5: cut too, layer 2 keeps fewer than 1 group of kind attention, which must stay."
    )
    assert plan_from_rows(faulty, small_shape(), Floors(remove_empty_layers=True)).kept_counts[2].tolist() == [0, 5]


def test_higher_floors_are_kept_too():
    with pytest.raises(PruningError, match="row 3: cut too, layer 2 keeps fewer than 5 groups of kind mlp"):
        plan_from_rows(rows((2, "mlp", 1), (2, "mlp", 0)), small_shape(), Floors(min_mlp_channels=5))


def test_layer_0_keeps_attention_though_layers_may_be_emptied():
    with pytest.raises(PruningError, match="row 3: cut too, layer 0 keeps fewer than 1 group of kind attention"):
        plan_from_rows(rows((0, "attention", 0), (0, "attention", 1)), small_shape(), Floors(remove_empty_layers=True))


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (rows((0, "mlp", 1), (0, "mlp", 6)), "t.csv, row 3: group_idx .*6.* is not a group of this layer"),
        (rows((4, "mlp", 1)), "t.csv, row 2: layer_idx .*4.* is not a layer of this model"),
        (rows((0, "mlp", 1), (1, "mlp", 1), (0, "mlp", 1)), "t.csv, row 4: group_idx .* is in the table twice"),
        (rows((0, "heads", 1)), "t.csv, row 2: group_type 'heads' must be attention or mlp"),
        (rows((0, "mlp", 1)).assign(cost=25), "t.csv, row 2: cost .*25.* is not the cost of this group"),
        (rows((0, "mlp", 1)).drop(columns="cost"), r"t.csv lacks the column 'cost'; it needs: layer_idx, group_type"),
        (rows(), r"t.csv has no rows, so it says nothing about what to cut"),
    ],
)
def test_each_fault_names_its_row(frame, sentence):
    with pytest.raises(PruningError, match=sentence):
        plan_from_rows(frame, small_shape(), Floors(), path="t.csv")


def test_a_plan_below_the_floors_names_its_layer():
    kept = PruningPlan.keep_all(small_shape()).kept.copy()
    kept[PruningPlan.keep_all(small_shape()).groups.slice_of(2, "mlp")] = False
    plan = PruningPlan(small_shape(), kept)
    with pytest.raises(PruningError, match=r"plan\.json, layer 2: 0 groups of kind mlp would stay, at least 1 must"):
        check_floors(plan, Floors())
    check_floors(plan, Floors(remove_empty_layers=True))
