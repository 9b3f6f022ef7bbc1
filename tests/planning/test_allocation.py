"""allocate_global keeps its promises on any table; each error says what to do."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.planning.allocation import Floors, allocate_global, largest_ratio, parse_split, ratio_base, removable
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection, default_cut_range, name_layers, parse_layers
from pruning.planning.shape import GROUP_TYPES, ModelShape
from tests.planning.examples import LLAMA_3_8B, random_table, small_shape, tables

FREE = Protection(range(0, 4), range(0, 4))


@st.composite
def protections(draw, num_layers: int) -> Protection:
    def cut_range() -> range:
        start = draw(st.integers(0, num_layers - 1))
        return range(start, draw(st.integers(start + 1, num_layers)))

    named = draw(st.lists(st.integers(0, num_layers - 1), max_size=2, unique=True))
    return Protection(cut_range(), cut_range(), tuple(sorted(named)))


@st.composite
def tasks(draw) -> dict:
    """Arguments of allocate_global that ask for something reachable."""
    table = draw(tables())
    protection = draw(protections(table.shape.num_layers))
    floors = Floors(draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.booleans()))
    basis = draw(st.sampled_from(["model", "selected"]))
    assume(protection.cuttable(table.shape.num_layers).any())
    largest = largest_ratio(table, protection, floors, basis)
    assume(largest > 0)
    ratio = largest * draw(st.floats(0.05, 0.999))
    return {"table": table, "pruning_ratio": ratio, "protection": protection, "floors": floors, "ratio_basis": basis}


def allocate_or_keep_all(**task) -> PruningPlan:
    """The plan, or the empty one where the ratio leaves no room for the first group."""
    try:
        return allocate_global(**task)
    except PruningError as error:
        if error.code != "nothing_to_cut":
            raise
        return PruningPlan.keep_all(task["table"].shape)


def greedy_by_hand(table, pruning_ratio, protection, floors, ratio_basis) -> set[tuple[int, str, int]]:
    """The rule of docs/methods.md section 4, row by row."""
    cuttable = protection.cuttable(table.shape.num_layers)
    stays = floors.per_block(table.shape)
    rows = [r for r in table.frame().to_dict("records") if cuttable[r["layer_idx"], GROUP_TYPES.index(r["group_type"])]]
    rows.sort(key=lambda r: (r["score"], r["layer_idx"], r["group_type"], r["group_idx"]))
    for layer in range(table.shape.num_layers):
        for column, kind in enumerate(GROUP_TYPES):
            of_block = [r for r in rows if (r["layer_idx"], r["group_type"]) == (layer, kind)]
            unmeasured = table.shape.layers[layer].group_count(kind) - len(of_block) if cuttable[layer, column] else 0
            for best in list(reversed(of_block))[: max(int(stays[layer, column]) - unmeasured, 0)]:
                rows.remove(best)
    left = pruning_ratio * ratio_base(table.shape, protection, ratio_basis)
    removed = set()
    for row in rows:
        if row["cost"] > left:
            break
        left -= row["cost"]
        removed.add((row["layer_idx"], row["group_type"], row["group_idx"]))
    return removed


def removed_groups(plan: PruningPlan) -> set[tuple[int, str, int]]:
    return {
        (layer, kind, int(index))
        for layer in range(plan.shape.num_layers)
        for kind in GROUP_TYPES
        for index in np.flatnonzero(~plan.kept[plan.groups.slice_of(layer, kind)])
    }


@given(task=tasks())
def test_it_is_the_greedy_rule(task):
    assert removed_groups(allocate_or_keep_all(**task)) == greedy_by_hand(**task)


@given(task=tasks())
def test_the_budget_is_kept_and_missed_by_less_than_one_group(task):
    plan = allocate_or_keep_all(**task)
    budget = task["pruning_ratio"] * ratio_base(plan.shape, task["protection"], task["ratio_basis"])
    removed = int(plan.removed_parameters.sum())
    assert removed <= budget
    left = [p for p in removable(task["table"], task["protection"], task["floors"]) if plan.kept[p]]
    assert not left or removed + plan.groups.cost[left[0]] > budget


@given(task=tasks())
def test_protected_and_unmeasured_groups_stay(task):
    plan, table = allocate_or_keep_all(**task), task["table"]
    before = plan.groups.block_sizes.reshape(-1, 2)
    protected = ~task["protection"].cuttable(plan.shape.num_layers)
    assert (plan.kept_counts == before)[protected].all()
    assert plan.kept[np.isnan(table.importance)].all()


@given(task=tasks())
def test_floors_hold(task):
    plan, floors = allocate_or_keep_all(**task), task["floors"]
    before = plan.groups.block_sizes.reshape(-1, 2)
    asked = [0, 0] if floors.remove_empty_layers else [floors.min_kv_groups, floors.min_mlp_channels]
    assert (plan.kept_counts >= np.minimum(asked, before)).all()
    assert plan.kept_counts[0, 0] >= 1  # the cache asks layer 0 for its length


@given(task=tasks(), share=st.floats(0.01, 1))
def test_raising_the_ratio_never_brings_a_group_back(task, share):
    less = allocate_or_keep_all(**task | {"pruning_ratio": task["pruning_ratio"] * share})
    more = allocate_or_keep_all(**task)
    assert (less.kept >= more.kept).all()


@given(task=tasks())
def test_removed_parameters_are_the_costs_of_the_removed_groups(task):
    plan = allocate_or_keep_all(**task)
    costs = int(plan.groups.cost[~plan.kept].sum())
    gone = [i for i in range(plan.shape.num_layers) if i not in plan.kept_layers]
    norms = sum(plan.shape.layers[i].fixed_parameters for i in gone)  # a deleted layer takes its norms with it
    assert int(plan.removed_parameters.sum()) == costs
    assert plan.shape.parameters - plan.shape_after.parameters == costs + norms


@given(task=tasks(), share=st.sampled_from(["2:8", "5:5", "0:10", "10:0", "1:3.5"]))
def test_a_split_gives_each_kind_its_budget(task, share):
    try:
        plan = allocate_global(**task, pruning_distribution=share)
    except PruningError as error:
        assert error.code in ("split_unreachable", "nothing_to_cut")
        return
    budget = task["pruning_ratio"] * ratio_base(plan.shape, task["protection"], task["ratio_basis"])
    removed = plan.removed_parameters.sum(axis=0)
    assert (removed <= np.array(parse_split(share)) * budget).all()
    left = [p for p in removable(task["table"], task["protection"], task["floors"]) if plan.kept[p]]
    for is_mlp, asked in enumerate(np.array(parse_split(share)) * budget):
        first = next((plan.groups.cost[p] for p in left if plan.groups.is_mlp[p] == is_mlp), None)
        assert first is None or removed[is_mlp] + first > asked


def test_equal_scores_go_by_layer_attention_first_then_index():
    shape = small_shape()
    groups = random_table(shape).groups
    table = GroupTable(shape, groups.cost * 2.0, {})
    plan = allocate_global(table, (96 + 4 * 24 + 0.5) / shape.parameters, FREE, Floors(1, 2))
    # layer 0: one attention group (the later stays), then four channels
    assert removed_groups(plan) == {(0, "attention", 0), *((0, "mlp", i) for i in range(4))}


def test_scores_of_zero_go_first():
    shape = small_shape()
    table = random_table(shape)
    importance = table.importance.copy()
    zeros = table.groups.slice_of(2, "mlp")
    importance[zeros] = 0
    plan = allocate_global(GroupTable(shape, importance, {}), (5 * 24 + 0.5) / shape.parameters, FREE)
    assert removed_groups(plan) == {(2, "mlp", i) for i in range(5)}  # the floor keeps the last


def test_rows_that_were_dropped_count_towards_the_floor():
    shape = small_shape()
    frame = random_table(shape).frame()
    first_of_layer_1 = (frame["layer_idx"] == 1) & (frame["group_type"] == "attention") & (frame["group_idx"] == 0)
    table = GroupTable.from_frame(frame[~first_of_layer_1], shape, {})
    plan = allocate_global(table, largest_ratio(table, FREE, Floors()), FREE)
    assert plan.kept_groups(1, "attention").tolist() == [0]  # kept by the person, so the other may go


def test_empty_layers_are_deleted():
    shape = small_shape()
    table = random_table(shape)
    floors = Floors(remove_empty_layers=True)
    plan = allocate_global(table, largest_ratio(table, FREE, floors), FREE, floors)
    assert plan.kept_layers == (0,)
    assert plan.shape_after.parameters == 2 * 11 * 8 + 96 + 16 + 8
    assert not plan.shape_after.is_uniform


def test_selected_basis_counts_the_layers_that_may_be_cut():
    shape = ModelShape.from_config(LLAMA_3_8B)
    ten_to_fourteen = Protection.resolve(32, (10, 15), (10, 15))
    assert ratio_base(shape, ten_to_fourteen, "selected") == 5 * 218_112_000
    assert ratio_base(shape, ten_to_fourteen, "model") == 8_030_261_248


def test_settings_and_fingerprint_travel_with_the_plan():
    plan = allocate_global(random_table(small_shape()), 0.2, FREE, settings={"pruning_ratio": 0.2})
    assert (plan.fingerprint, plan.settings) == ("abc", {"pruning_ratio": 0.2})


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["model", "selected"])
def test_an_unreachable_ratio_names_the_largest_that_is_reachable(basis):
    table = random_table(small_shape())
    with pytest.raises(PruningError) as caught:
        allocate_global(table, 0.97, FREE, ratio_basis=basis)
    assert caught.value.code == "ratio_unreachable"
    largest = caught.value.values["largest"]
    assert f"{largest:.4f}" in str(caught.value)
    plan = allocate_global(table, largest, FREE, ratio_basis=basis)  # what the sentence promises works
    assert plan.removed_parameters.sum() <= largest * ratio_base(table.shape, FREE, basis)


def test_a_ratio_below_one_group_says_so():
    with pytest.raises(PruningError, match=r"leaves no room for the first group to go \((24|96) parameters\)"):
        allocate_global(random_table(small_shape()), 1e-6, FREE)


def test_an_empty_table_can_remove_nothing():
    table = random_table(small_shape()).restricted(range(0, 0))
    with pytest.raises(PruningError, match=r"at most 0.0000 can"):
        allocate_global(table, 0.2, FREE)


def test_an_unreachable_split_names_what_there_is():
    with pytest.raises(PruningError) as caught:
        allocate_global(random_table(small_shape()), 0.4, FREE, pruning_distribution="10:0")
    assert caught.value.code == "split_unreachable"
    assert caught.value.values["kind"] == "attention"
    assert caught.value.values["largest"] == 4 * 96


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("", ()),
        ("3", (3,)),
        ("0-2,17,30-31", (0, 1, 2, 17, 30, 31)),
        (" 5 , 1-2 ,", (1, 2, 5)),
        ("2,1-3,2", (1, 2, 3)),
        ("7-7", (7,)),
        ("none", None),
        (" None ", None),
    ],
)
def test_lists_of_layers(text, layers):
    assert parse_layers(text, 32) == layers
    assert parse_layers(name_layers(layers or ()), 32) == (layers or None)


@pytest.mark.parametrize("text", ["a", "1;2", "-1", "3-1", "1-", "1-2-3", "1.5", "none,3", "0x1"])
def test_what_is_no_list_of_layers_is_shown(text):
    with pytest.raises(PruningError) as caught:
        parse_layers(text, 32)
    assert caught.value.code == "layer_list"
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["32", "30-32", "1,99"])
def test_layers_the_model_does_not_have_are_named(text):
    with pytest.raises(PruningError, match="this model has the layers 0 to 31"):
        parse_layers(text, 32)


@pytest.mark.parametrize(
    ("text", "split"),
    [("auto", None), ("2:8", (0.2, 0.8)), (" 1 : 3 ", (0.25, 0.75)), ("0:10", (0, 1)), ("0.5:0.5", (0.5, 0.5))],
)
def test_splits(text, split):
    assert parse_split(text) == split


@pytest.mark.parametrize("text", ["", "2", "2:", ":8", "0:0", "-1:2", "a:b", "2/8", "1:2:3", "nan:1"])
def test_what_is_no_split_is_shown(text):
    with pytest.raises(PruningError) as caught:
        parse_split(text)
    assert caught.value.code == "split"
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "cut"),
    [(32, range(3, 30)), (10, range(3, 8)), (9, range(1, 8)), (4, range(1, 3)), (3, range(0, 3)), (1, range(0, 1))],
)
def test_default_protection_scales_with_depth(layers, cut):
    assert default_cut_range(layers) == cut
    assert Protection.resolve(layers) == Protection(cut, cut)


def test_ranges_and_named_layers_add_up():
    protection = Protection.resolve(32, attention=(5, None), mlp=(None, 20), protected_layers="10-11,0")
    cuttable = protection.cuttable(32)
    assert np.flatnonzero(cuttable[:, 0]).tolist() == [i for i in range(5, 30) if i not in (10, 11)]
    assert np.flatnonzero(cuttable[:, 1]).tolist() == [i for i in range(3, 20) if i not in (10, 11)]


def test_none_lifts_the_defaults_but_not_given_ranges():
    protection = Protection.resolve(32, mlp=(4, 8), protected_layers="none")
    assert (protection.attention, protection.mlp, protection.named) == (range(0, 32), range(4, 8), ())


@pytest.mark.parametrize(("start", "end"), [(5, 5), (9, 3), (0, 33), (-1, 4), (31, None)])
def test_impossible_ranges_name_both_ends(start, end):
    with pytest.raises(PruningError) as caught:
        Protection.resolve(32, attention=(start, end))
    assert caught.value.code == "layer_range"
    assert "`block_attention_layer_start`" in str(caught.value)
    assert "`block_attention_layer_end`" in str(caught.value)


def test_protecting_every_layer_is_refused():
    with pytest.raises(PruningError, match="Every layer is protected"):
        Protection.resolve(32, protected_layers="0-31")
