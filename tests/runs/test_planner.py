"""Settings -> plan keeps its promises for every strategy, over random models, scores and settings."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex, name_groups, parse_groups
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.plan import PruningPlan
from pruning.planning.planner import (
    Planned,
    check_plan_settings,
    largest_ratio_for,
    measured_layers,
    needs_layer_importance,
    plan_from_settings,
)
from pruning.planning.shape import GROUP_TYPES, ModelShape
from pruning.settings import Settings, resolve
from tests.planning.examples import LLAMA_3_8B, random_table, shapes, small_config, small_shape

SPLITS = ("2:8", "5:5", "0:10", "10:0", "1:3.5")
_REFUSALS = {"nothing_to_cut", "nothing_left_to_cut", "ratio_unreachable", "split_unreachable", "all_protected"}
settings.register_profile("plans", max_examples=50, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
plans_of = settings.get_profile("plans")


@dataclass(frozen=True)
class Task:
    """What `plan_from_settings` takes, and the layers that are protected by name, by range or frozen."""

    table: GroupTable
    settings: Settings
    layers: LayerImportance

    @property
    def shape(self) -> ModelShape:
        return self.table.shape

    def planned(self, **changes) -> Planned:
        """The plan; the run does not count for settings that ask for too much, or for nothing."""
        try:
            return plan_from_settings(self.table, replace(self.settings, **changes), self.layers)
        except PruningError as error:
            assert error.code in _REFUSALS, error
            assume(False)

    def plan(self, **changes) -> PruningPlan:
        return self.planned(**changes).plan

    def may_be_cut(self, kind: int) -> set[int]:
        """Layers of which attention (0) or the MLP (1) may be cut, told from the settings alone."""
        given, layers = self.settings, self.shape.num_layers
        if given.strategy == "uniform":
            return set(range(layers))
        prefix = "layer" if given.layer_start is not None else f"block_{('attention', 'mlp')[kind]}_layer"
        inside = set(range(getattr(given, f"{prefix}_start"), getattr(given, f"{prefix}_end")))
        named = {int(layer) for layer in filter(None, given.protected_layers.split(","))}
        # The most important first; of equal ones the first.
        frozen = sorted(range(layers), key=lambda i: (-self.layers.importance[i], i))[: given.freeze_top_n_layers]
        return inside - named - set(frozen)

    def ratio_base(self, basis: str) -> int:
        """Parameters of the model, or of the layers that may be cut in any way."""
        if basis == "model":
            return self.shape.parameters
        return sum(self.shape.layers[i].parameters for i in self.may_be_cut(0) | self.may_be_cut(1))


@st.composite
def tasks(draw, strategy: str, **fixed) -> Task:
    shape = draw(shapes())
    rng, groups = np.random.default_rng(draw(st.integers(0, 10**6))), GroupIndex(shape)
    importance = rng.choice([0.0, 0.5, 1.0, 3.0, 7e5, *rng.lognormal(0, 1, 5)], groups.size) * groups.cost  # with many ties
    if strategy == "global" and draw(st.booleans()):
        importance[rng.random(groups.size) < 0.2] = np.nan
    table, layers = GroupTable(shape, importance, {"fingerprint": "abc"}), shape.num_layers
    of_layers = rng.choice([0.1, 1.0, 1.0, 2.5, 30.0], layers)

    def cut_range() -> tuple[int, int]:
        start = draw(st.integers(0, layers - 1))
        return start, draw(st.integers(start + 1, layers))

    given = {"pruning_ratio": draw(st.floats(0.05, 0.6)), "remove_empty_layers": draw(st.booleans())}
    given |= {"min_kv_groups": draw(st.integers(1, 3)), "min_mlp_channels": draw(st.integers(1, 5))}
    if strategy != "uniform":
        given["ratio_basis"] = draw(st.sampled_from(["model", "selected"]))
        if draw(st.booleans()):
            given["layer_start"], given["layer_end"] = cut_range()
        else:
            for kind in ("attention", "mlp"):
                given[f"block_{kind}_layer_start"], given[f"block_{kind}_layer_end"] = cut_range()
        named = draw(st.lists(st.integers(0, layers - 1), max_size=2, unique=True))
        given["protected_layers"] = ",".join(map(str, named))
        given["freeze_top_n_layers"] = draw(st.integers(0, min(2, layers - 1)))
    if strategy == "layer":
        given["pruning_strategy"] = draw(st.sampled_from(["uniform", "inverse", "proportional"]))
        given["importance_weight"] = draw(st.floats(0, 3))
        given["match_target"] = given["ratio_basis"] == "model" and draw(st.booleans())
        bounds = draw(st.sampled_from([(0.0, 1.0), (0.15, 0.5), (0.1, 0.1)]))
        given["layer_min_pruning_rate"], given["layer_max_pruning_rate"] = bounds
    given["pruning_distribution"] = draw(st.sampled_from(SPLITS if strategy != "global" else ("auto", *SPLITS)))
    task = Task(table, resolve(given | fixed, strategy), LayerImportance("removal", of_layers, None, {}))
    try:
        plan_from_settings(table, task.settings, task.layers)
    except PruningError as error:
        assume(error.code == "ratio_unreachable" and error.values["largest"] > 0.01)
        ratio = error.values["largest"] * draw(st.floats(0.5, 1))
        task = replace(task, settings=replace(task.settings, pruning_ratio=ratio))
    return task


any_task = st.sampled_from(["global", "layer", "uniform"]).flatmap(tasks)


def cost_removed(plan: PruningPlan) -> int:
    return int(plan.groups.cost[~plan.kept].sum())


# budgets --------------------------------------------------------------------------------------------------------------


@plans_of
@given(task=tasks("global", pruning_distribution="auto"))
def test_global_never_exceeds_its_budget_and_misses_it_by_less_than_one_group(task):
    plan = task.plan()
    budget = task.settings.pruning_ratio * task.ratio_base(task.settings.ratio_basis)
    assert cost_removed(plan) <= budget
    assert cost_removed(plan) > budget - max(plan.groups.block_costs)


@plans_of
@given(task=tasks("global"), share=st.floats(0.05, 1))
def test_global_raising_the_ratio_never_brings_a_group_back(task, share):
    more = task.plan()
    less = task.plan(pruning_ratio=task.settings.pruning_ratio * share)
    assert (less.kept >= more.kept).all()


@plans_of
@given(task=tasks("layer"))
def test_a_layer_loses_its_rate_as_rounding_allows(task):
    """Never above the rate by more than half an attention group; below it by less than a channel, unless a floor,
    protection or the split stands in the way.
    """
    planned = task.planned()
    plan, attention_share = planned.plan, float(task.settings.pruning_distribution.split(":")[0])
    mlp_share = float(task.settings.pruning_distribution.split(":")[1])
    floor = 0 if task.settings.remove_empty_layers else task.settings.min_mlp_channels
    for i, layer in enumerate(task.shape.layers):
        budget = planned.rates.applied[i] * (layer.parameters - layer.fixed_parameters)
        removed = int(plan.removed_parameters[i].sum())
        assert removed <= budget + layer.attention_group_cost / 2 + 1e-6
        if attention_share == 0:
            assert removed <= budget + 1e-6
        at_floor = plan.kept_counts[i, 1] <= floor
        if i in task.may_be_cut(1) and mlp_share and not at_floor:
            assert removed > budget - layer.mlp_channel_cost
    assert set(np.flatnonzero(planned.rates.applied == 0)) >= set(range(task.shape.num_layers)) - (
        task.may_be_cut(0) | task.may_be_cut(1)
    )


@plans_of
@given(task=tasks("uniform"))
def test_uniform_cuts_all_layers_alike_and_near_its_budget(task):
    plan, layer = task.plan(), task.shape.layers[0]
    assert (plan.kept_counts == plan.kept_counts[0]).all()
    per_layer = task.settings.pruning_ratio * task.shape.parameters / task.shape.num_layers
    removed = int(plan.removed_parameters[0].sum())
    assert removed <= per_layer + layer.attention_group_cost / 2
    floor = 0 if task.settings.remove_empty_layers else task.settings.min_mlp_channels
    if not task.settings.pruning_distribution.endswith(":0") and plan.kept_counts[0, 1] > floor:
        assert removed > per_layer - layer.mlp_channel_cost


# protection and floors ------------------------------------------------------------------------------------------------


@plans_of
@given(task=any_task)
def test_protected_layers_are_untouched(task):
    plan = task.plan()
    for kind, name in enumerate(("attention", "mlp")):
        for layer in set(range(task.shape.num_layers)) - task.may_be_cut(kind):
            assert len(plan.kept_groups(layer, name)) == task.shape.layers[layer].group_count(name)


@plans_of
@given(task=any_task, multiple=st.sampled_from([1, 1, 4]))
def test_floors_hold(task, multiple):
    plan = task.plan(mlp_multiple=multiple)
    asked = [0, 0]
    if not task.settings.remove_empty_layers:
        asked = [task.settings.min_kv_groups, task.settings.min_mlp_channels]
    before = plan.groups.block_sizes.reshape(-1, 2)
    assert (plan.kept_counts >= np.minimum(asked, before)).all()
    assert plan.kept_counts[0, 0] >= 1  # the cache asks layer 0 for its length


@plans_of
@given(task=any_task)
def test_inside_a_block_the_lowest_scores_go_and_of_equal_ones_the_first(task):
    plan = task.plan()
    for block in range(len(plan.groups.block_sizes)):
        at = np.flatnonzero((plan.groups.block == block) & ~np.isnan(task.table.importance))
        by_score = sorted(at, key=lambda p: (task.table.score[p], p))
        gone = int((~plan.kept[at]).sum())
        assert set(at[~plan.kept[at]]) == set(by_score[:gone])


@plans_of
@given(task=any_task, multiple=st.sampled_from([2, 3, 8]))
def test_every_cut_width_is_a_multiple_or_the_whole(task, multiple):
    plan = task.plan(mlp_multiple=multiple)
    exact = task.plan()
    for layer, width, kept in zip(task.shape.layers, plan.kept_counts[:, 1], exact.kept_counts[:, 1], strict=True):
        assert width == layer.intermediate_size or width % multiple == 0
        assert kept <= width < kept + multiple
    assert (plan.kept_counts[:, 0] == exact.kept_counts[:, 0]).all()


@plans_of
@given(task=any_task)
def test_no_ratio_above_the_largest_is_ever_reached(task):
    planned = task.planned()
    assert cost_removed(planned.plan) / task.shape.parameters <= largest_ratio_for(task.table, planned) + 1e-12


@plans_of
@given(task=any_task)
def test_a_plan_carries_the_settings_that_give_it_again(task):
    plan = task.plan()
    again = plan_from_settings(task.table, replace(resolve({}), **plan.settings), task.layers).plan
    assert (again.kept == plan.kept).all() and again.digest == plan.digest and again.settings == plan.settings


# by hand --------------------------------------------------------------------------------------------------------------


@plans_of
@given(task=any_task, seed=st.integers(0, 10**6))
def test_what_a_person_keeps_and_cuts_wins_over_strategy_and_protection(task, seed):
    plan = task.plan(keep_groups="", cut_groups="")
    rng = np.random.default_rng(seed)
    few = rng.permutation(plan.groups.size)[: rng.integers(2, 6)]
    keep, cut = few[::2], few[1::2]
    by_hand = {"keep_groups": name_groups(keep, plan.groups), "cut_groups": name_groups(cut, plan.groups)}
    expected = plan.kept.copy()
    expected[keep], expected[cut] = True, False
    counts = np.bincount(plan.groups.block, weights=expected, minlength=len(plan.groups.block_sizes)).reshape(-1, 2)
    asked = [task.settings.min_kv_groups, task.settings.min_mlp_channels]
    asked = [0, 0] if task.settings.remove_empty_layers else asked
    floors = np.tile(np.array(asked), (task.shape.num_layers, 1))
    floors[0, 0] = max(floors[0, 0], 1)
    broken = counts < np.minimum(floors, plan.groups.block_sizes.reshape(-1, 2))
    if broken.any():
        with pytest.raises(PruningError) as caught:
            plan_from_settings(task.table, replace(task.settings, **by_hand), task.layers)
        assert caught.value.code == "hand_floor"
        assert broken[caught.value.values["layer"], ("attention", "mlp").index(caught.value.values["kind"])]
        return
    assume(not expected.all())
    changed = plan_from_settings(task.table, replace(task.settings, **by_hand), task.layers).plan
    np.testing.assert_array_equal(changed.kept, expected)
    assert changed.by_hand.tolist() == sorted(few)
    read = PruningPlan.from_json(json.loads(json.dumps(changed.to_json())), task.shape, "abc")
    np.testing.assert_array_equal(read.by_hand, changed.by_hand)
    np.testing.assert_array_equal(read.kept, changed.kept)
    assert parse_groups(read.settings["cut_groups"], read.groups).tolist() == sorted(cut)


def small_plan(strategy: str = "global", layers: LayerImportance | None = None, **given):
    given = {"pruning_ratio": 0.2} | given
    return plan_from_settings(random_table(small_shape()), resolve(given, strategy), layers)


def test_a_protected_group_can_be_cut_by_hand():
    assert small_plan().protection.attention == range(1, 3)
    assert small_plan(cut_groups="0m0-4,3a1").plan.kept_counts[[0, 3]].tolist() == [[2, 1], [1, 6]]


def test_a_floor_that_a_hand_breaks_names_the_layer():
    with pytest.raises(PruningError) as caught:
        small_plan(cut_groups="3a0,3a1")
    assert str(caught.value) == (
        "Cut by hand as asked, layer 3 would keep 0 groups of kind attention; at least 1 must stay. "
        "Keep some, or allow empty layers."
    )
    assert small_plan(cut_groups="3a0,3a1", remove_empty_layers=True).plan.kept_counts[3, 0] == 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"keep_groups": "1a0-1", "cut_groups": "2m0,1a1"}, "1a1 is both kept and cut by hand. Keep one."),
        ({"cut_groups": "4a0"}, "There is no layer 4: this model has the layers 0 to 3."),
        ({"cut_groups": "1m6"}, "1m6 names a group that is not there: layer 1 has 6 groups of kind mlp, from 0."),
        ({"keep_groups": "1x0"}, "'1x0' does not name groups. Write for example 3a1,5m20-29"),
    ],
)
def test_hand_changes_that_cannot_be_are_explained(given, sentence):
    with pytest.raises(PruningError) as caught:
        small_plan(**given)
    assert sentence in str(caught.value)


# what contradicts itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "given", "sentence"),
    [
        (
            "layer",
            {"layer_min_pruning_rate": 0.6, "layer_max_pruning_rate": 0.4},
            "`layer_min_pruning_rate` is 0.6 and `layer_max_pruning_rate` is 0.4; the least rate cannot be above the largest.",
        ),
        (
            "global",
            {"layer_start": 1, "block_mlp_layer_end": 3},
            "`layer_start / layer_end` and `block_mlp_layer_end` cannot be",
        ),
        ("layer", {"freeze_top_n_layers": 40}, "`freeze_top_n_layers` is 40, but this model has 4 layers"),
        ("layer", {"freeze_top_n_layers": 4}, "at least one must stay to be cut"),
        ("layer", {"match_target": True, "ratio_basis": "selected"}, "`match_target` and `ratio_basis selected` cannot be"),
        ("layer", {"pruning_distribution": "auto"}, "`pruning_distribution` is auto, which only `global` knows"),
        ("layer", {"pruning_distribution": "0:0"}, "`pruning_distribution` is '0:0'; write auto, or attention:MLP shares"),
        ("global", {"pruning_distribution": "2-8"}, "`pruning_distribution` is '2-8'"),
        ("uniform", {"protected_layers": "1"}, "This strategy cuts every layer alike, so `protected_layers` cannot be used"),
        ("uniform", {"layer_start": 1}, "so `layer_start` cannot be used"),
        ("uniform", {"layer_end": 3}, "so `layer_end` cannot be used"),
        ("uniform", {"freeze_top_n_layers": 1}, "so `freeze_top_n_layers` cannot be used"),
        ("uniform", {"block_attention_layer_start": 1}, "so `block_attention_layer_start` cannot be used"),
        ("uniform", {"pruning_ratio": 0.95}, "0.95 of all parameters cannot be removed"),
        ("global", {"layer_start": 3, "layer_end": 2}, "`layer_start` is 3 and `layer_end` is 2; they must satisfy"),
        ("global", {"block_attention_layer_start": 3, "block_attention_layer_end": 1}, "`block_attention_layer_start` is 3"),
        ("global", {"mlp_multiple": 64, "pruning_ratio": 0.02}, "nothing would be cut. Raise the ratio"),
    ],
)
def test_settings_that_contradict_each_other_are_one_sentence_before_anything_is_measured(strategy, given, sentence):
    given = resolve({"pruning_ratio": 0.2} | given, strategy)
    for attempt in (
        lambda: plan_from_settings(random_table(small_shape()), given, LayerImportance("removal", np.ones(4), None, {})),
        lambda: check_plan_settings(small_shape(), given),
    ):
        with pytest.raises(PruningError) as caught:
            attempt()
        assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["global", "layer", "uniform"])
def test_defaults_of_every_strategy_can_be_planned(strategy):
    check_plan_settings(ModelShape.from_config(LLAMA_3_8B), resolve({}, strategy))


def test_what_needs_the_importance_of_layers_says_so():
    assert needs_layer_importance(resolve({}, "layer"))
    assert not needs_layer_importance(resolve({"pruning_strategy": "uniform"}, "layer"))
    assert needs_layer_importance(resolve({"freeze_top_n_layers": 1}))
    assert not needs_layer_importance(resolve({})) and not needs_layer_importance(resolve({}, "uniform"))
    with pytest.raises(PruningError, match="pruning_strategy inverse needs the importance of layers"):
        small_plan("layer")
    with pytest.raises(PruningError, match="freeze_top_n_layers 1 needs the importance of layers"):
        small_plan(freeze_top_n_layers=1)


def test_the_most_important_layers_are_frozen():
    layers = LayerImportance("removal", np.array([9.0, 1.0, 5.0, 7.0]), None, {})
    planned = small_plan(layers=layers, freeze_top_n_layers=2, protected_layers="none", pruning_ratio=0.1)
    assert planned.protection.frozen == (0, 3)
    assert planned.plan.kept_counts[[0, 3]].tolist() == [[2, 6]] * 2


def test_a_range_limits_what_is_measured():
    assert measured_layers(resolve({}), 32) == range(0, 32)
    assert measured_layers(resolve({"layer_start": 10, "layer_end": 15}), 32) == range(10, 15)
    assert measured_layers(resolve({"layer_end": 15}), 32) == range(0, 15)
    for impossible in ({"layer_start": 15, "layer_end": 10}, {"layer_end": 33}, {"layer_start": 32}):
        with pytest.raises(PruningError, match="they must satisfy 0 <= layer_start < layer_end <= 32"):
            measured_layers(resolve(impossible), 32)


def test_18_3_and_34_1_percent_of_llama_3_8b():
    """The whole way from settings to a plan of 458,752 channels; figures of docs/methods.md section 4."""
    table = random_table(ModelShape.from_config(LLAMA_3_8B))
    planned = plan_from_settings(table, resolve({"pruning_strategy": "uniform"}, "layer"))
    assert f"{planned.plan.actual_ratio:.1%}" == "18.3%" and planned.plan.target_basis == "prunable"
    matched = plan_from_settings(table, resolve({"pruning_strategy": "uniform", "match_target": True}, "layer"))
    assert f"{matched.plan.actual_ratio:.1%}" == "25.0%" and matched.plan.target_basis == "model"
    assert f"{matched.rates.applied[3]:.1%}" == "34.1%"


@pytest.mark.parametrize(
    ("split", "protected"),
    [
        ("10:0", {"block_attention_layer_start": 3, "block_attention_layer_end": 6}),
        ("10:0", {"block_mlp_layer_start": 3, "block_mlp_layer_end": 6}),
        ("0:10", {"block_mlp_layer_start": 3, "block_mlp_layer_end": 6}),
        ("0:10", {"block_attention_layer_start": 3, "block_attention_layer_end": 6}),
        ("3:7", {"block_attention_layer_start": 3, "block_attention_layer_end": 6}),
        ("3:7", {"block_mlp_layer_start": 3, "block_mlp_layer_end": 6}),
    ],
)
@pytest.mark.parametrize("ratio", [0.01, 0.03, 0.1, 0.3])
def test_a_target_is_met_only_where_that_much_goes(split, protected, ratio):
    """Also where one block is protected and the split leaves the other no share, or its floor ends what can go."""
    shape = ModelShape.from_config(
        small_config(num_hidden_layers=8, intermediate_size=600, num_attention_heads=64, num_key_value_heads=32)
    )
    table = random_table(shape)
    everywhere = {f"block_{kind}_layer_{end}": {"start": 0, "end": 8}[end] for kind in GROUP_TYPES for end in ("start", "end")}
    bounds = {"layer_min_pruning_rate": 0, "layer_max_pruning_rate": 1}
    given = {"pruning_ratio": ratio, "pruning_distribution": split, "match_target": True, "pruning_strategy": "uniform"}
    planned = plan_from_settings(table, resolve(everywhere | protected | bounds | given, "layer"))
    missed = ratio - planned.plan.actual_ratio
    rounding = shape.num_layers * shape.layers[0].attention_group_cost / shape.parameters / 2  # half a group in each layer
    assert planned.rates.target_met == (missed <= rounding)
