"""Charts show the numbers of the plan and the table, and every word comes from the text file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis import charts
from pruning.planning import matrices
from pruning.planning.allocation import Floors, allocate_global, removable
from pruning.planning.block_counts import layerwise_counts, plan_from_counts
from pruning.planning.comparison import compare, overlap
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.layer_rates import LayerRates, layer_rates, layer_weights
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import GROUP_TYPES, ModelShape
from pruning.runs.training_history import TrainingHistory
from pruning.words import FORMATTER

ROOT = Path(__file__).parents[2]
TEXTS = {}
# Of the frame around every chart; of the Learn screen, whose charts test_lessons.py and test_learn_page.py draw.
DRAWN_ELSEWHERE = (
    "chart.view.",
    "chart.sensitivity.",
    "chart.foresight.",
    "chart.protection.",
    "chart.grid.",
    "chart.split.",
    "chart.trained.",
    "chart.propagation.",
)
DRAWN_ELSEWHERE += ("chart.matrix.", "chart.group.", "chart.budget.", "chart.kind.both")
for file in sorted((ROOT / "analysis" / "text").glob("*en.json")):
    TEXTS |= json.loads(file.read_text(encoding="utf-8"))
PROTECTION = Protection(range(5, 28), range(3, 30), (17,))
LAYERS = LayerImportance("removal", np.linspace(-0.25, 1, 32), np.exp(np.linspace(-0.25, 1, 32)), {})
METRICS = {
    "basis": {"windows": 256, "seq_len": 128},
    "perplexity": {"before": {"a": 20.0}, "after": {"a": 31.5}, "recovered": {"a": None}},
}
_POINTS = [(0, None, 0.0, 0.0, 31.0), (1, 3.5, 1e-4, 900.0, None), (2, 3.25, 5e-5, 950.0, 25.0)]
COURSE = TrainingHistory(
    state="running",
    settings={"finetune_method": "lora"},
    text="text",
    windows=40,
    steps=10,
    tokens_per_step=512,
    validation={"text": "text", "windows": 128, "seq_len": 64},
    before=20.0,
    after=31.0,
    best_step=2,
    points=pd.DataFrame(_POINTS, columns=["step", "loss", "learning_rate", "tokens_per_second", "perplexity"]).astype(float),
)
REPAIRED = pd.DataFrame(
    [(3, "o_proj", 0.2, 0.1, 0.01), (3, "down_proj", 0.3, 0.15, 0.01), (7, "down_proj", 0.4, 0.3, 0.1)],
    columns=["layer_idx", "matrix", "error_before", "error_after", "damping"],
)

_EXPERIMENT = {"model": "demo", "method": "taylor", "strategy": "global", "split": "auto", "protected": "0-2", "windows": 8.0}
_EXPERIMENT |= {"seq_len": 128.0, "corpus_sha256": "ab", "fingerprint": "cd", "ratio_target": 0.25, "parameters_before": 100.0}
_EXPERIMENT |= {"perplexity_before": 20.0, "tokens_per_second": 50.0}
EXPERIMENTS = pd.DataFrame(
    [
        _EXPERIMENT | {"name": "a", "dataset": "text", "ratio_actual": 0.25, "parameters": 75.0, "perplexity": 30.0},
        _EXPERIMENT | {"name": "b", "dataset": None, "ratio_actual": 0.2, "parameters": 80.0, "perplexity": 28.0},
        _EXPERIMENT | {"name": "c", "dataset": "text", "ratio_actual": np.nan, "parameters": np.nan, "perplexity": np.nan},
    ]
)


def sweep_point(split: str, attention_share: float, ratio: float, perplexity: float | None, reason: str | None = None) -> dict:
    point = {"split": split, "attention_share": attention_share, "ratio": ratio, "actual_ratio": ratio - 0.001}
    return point | {"perplexity": perplexity, "reason": reason}


SWEEP = [
    sweep_point("5:5", 0.5, 0.2, 26.0),
    sweep_point("2:8", 0.2, 0.2, 22.0),
    sweep_point("2:8", 0.2, 0.3, 31.0),
    sweep_point("5:5", 0.5, 0.3, None, "attention has no more to give"),
]


def t(key: str, **values) -> str:
    return FORMATTER.format(TEXTS[key], **values)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.from_config(json.loads((ROOT / "assets" / "demo_model" / "config.json").read_text()))


@pytest.fixture(scope="module")
def table(shape) -> GroupTable:
    groups, random = GroupIndex(shape), np.random.default_rng(0)
    by_block = np.repeat(random.lognormal(0, 0.5, len(groups.block_sizes)), groups.block_sizes)
    importance = random.lognormal(0, 1, groups.size) * groups.cost * by_block
    importance[groups.slice_of(8, "mlp")] = 0
    return GroupTable(shape, importance, {})


@pytest.fixture(scope="module")
def plan(table) -> PruningPlan:
    return allocate_global(table, 0.25, PROTECTION, settings={"pruning_ratio": 0.25})


def other_table(table: GroupTable) -> GroupTable:
    noise = np.random.default_rng(1).lognormal(0, 0.3, table.groups.size)
    return GroupTable(table.shape, table.importance * noise, {"method": "another"})


def with_rates(table: GroupTable, protection: Protection, **settings) -> tuple[PruningPlan, LayerRates]:
    """A layer-wise plan at 25 %, split 2:8, and the rates behind it."""
    weights = layer_weights(np.linspace(1, 2, table.shape.num_layers), "inverse", 1.0)
    rates = layer_rates(table.shape, weights, 0.25, protection, 0.15, 0.5)
    counts = layerwise_counts(table.shape, rates, "2:8", protection, Floors())
    return plan_from_counts(table, counts, Floors(), {"strategy": "layer", "pruning_ratio": 0.25} | settings), rates


def trace(figure: go.Figure, name: str):
    (found,) = [one for one in figure.data if one.name == name]
    return found


def all_figures(table, plan, t=t) -> dict[str, go.Figure]:
    layers = matrices.layer_table(plan)
    return {
        "heatmap-attention": charts.importance_heatmap(table, "attention", t),
        "heatmap-mlp": charts.importance_heatmap(table, "mlp", t),
        "layer-importance": charts.layer_importance_bars(LAYERS, t, protection=PROTECTION),
        "group-importance": charts.group_importance_bars(table, t, protection=PROTECTION),
        "importance-balance": charts.importance_balance(table, t),
        "layer-groups-attention": charts.layer_groups(table, 4, "attention", t),
        "layer-groups-mlp": charts.layer_groups(table, 4, "mlp", t),
        "distribution-attention": charts.score_distribution(table, "attention", t),
        "distribution-mlp": charts.score_distribution(table, "mlp", t),
        "ranks": charts.rank_scatter(compare(table, other_table(table)), t),
        "rates": charts.pruning_rates(plan, PROTECTION, t),
        "groups-cut": charts.groups_cut(plan, t),
        "curve": charts.score_curve(table, plan, PROTECTION, t),
        "removed": charts.removed_parameters(plan, t),
        "balance": charts.balance(plan, t),
        "difference": charts.plan_difference(plan, allocate_global(table, 0.2, PROTECTION), ("one", "two"), t),
        "sweep-split": charts.sweep_curve(SWEEP, "split", t, ("2:8", 0.2)),
        "sweep-ratio": charts.sweep_curve(SWEEP, "ratio", t),
        "sweep-grid": charts.sweep_grid(SWEEP, t, ("2:8", 0.2)),
        "sparsity": charts.sparsity_bars(layers, plan, t),
        "shares": charts.parameter_shares(plan.shape, t),
        "perplexity": charts.perplexity_bars(METRICS, t),
        "training_loss": charts.training_loss(COURSE, t),
        "recovery_perplexity": charts.recovery_perplexity(COURSE, t),
        "repair_errors": charts.repair_errors(REPAIRED, 32, t),
        "pareto": charts.pareto(EXPERIMENTS, t, "a"),
        "parallel": charts.parallel(EXPERIMENTS, t),
    }


def changed_by_hand(table: GroupTable, plan: PruningPlan) -> tuple[PruningPlan, np.ndarray]:
    """The first and last of the list the other way round, of each kind; the positions, ascending."""
    candidates = removable(table, PROTECTION, Floors())
    ends = [candidates[plan.groups.is_mlp[candidates] == is_mlp][[0, -1]] for is_mlp in (False, True)]
    at = np.sort(np.concatenate(ends))
    kept = plan.kept.copy()
    kept[at] = ~kept[at]
    return replace(plan, kept=kept, by_hand=at), at


def charts_of_hand(table, plan, t) -> go.Figure:
    return charts.score_curve(table, changed_by_hand(table, plan)[0], PROTECTION, t)


def test_every_figure_has_fixed_height_no_background_and_keeps_its_zoom(table, plan):
    for name, figure in all_figures(table, plan).items():
        assert figure.layout.height >= 200
        assert figure.layout.uirevision == name
        assert figure.layout.template.layout.paper_bgcolor == figure.layout.template.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
        assert figure.layout.title.text
        json.loads(figure.to_json())


def test_a_name_makes_no_link_in_a_figure():
    link = "<a href='http://outside.example'>x</a>"
    figure = charts.perplexity_bars({"perplexity": {"before": {link: 2.0}, "after": {link: 3.0}}}, t)
    assert "outside.example" in figure.to_json() and "<a" not in figure.to_json()


def test_every_text_is_used_and_every_word_is_a_text(table, plan):
    asked = set()

    def record(key: str, **values) -> str:
        asked.add(key)
        return t(key, **values)

    all_figures(table, plan, record)
    charts.layer_importance_bars(LAYERS, record, log=True)
    for method in ("activation", "block_influence", "unheard of"):
        charts.layer_importance_bars(replace(LAYERS, method=method), record)
    charts.rank_scatter(compare(table, table), record, overlap(plan, plan))
    charts.sweep_curve(SWEEP, "split", record, ("3:7", 0.2))
    charts.perplexity_bars({"perplexity": {"before": {"a": 1}, "repaired": {"a": 2}, "recovered": {"a": 3}}}, record)
    charts.importance_heatmap(table, "mlp", record, max_bins=1000)
    charts.recovery_perplexity(replace(COURSE, began_repaired=True), record)
    charts.pareto(EXPERIMENTS[:2], record)
    split = allocate_global(table, 0.25, PROTECTION, pruning_distribution="3:7")
    charts.score_curve(table, split, PROTECTION, record)
    selected = allocate_global(table, 0.2, PROTECTION, settings={"pruning_ratio": 0.2, "ratio_basis": "selected"})
    charts.pruning_rates(selected, Protection(range(3, 30), range(5, 28)), record)
    frozen = replace(PROTECTION, frozen=(20,))
    layerwise, rates = with_rates(table, frozen)
    charts.pruning_rates(layerwise, frozen, record, rates)
    by_hand = charts_of_hand(table, plan, record)
    assert by_hand.data
    own = {key for key in TEXTS if key.startswith("chart.") and not key.startswith(DRAWN_ELSEWHERE)}
    assert {key for key in asked if not key.startswith("plan.strategy.")} == own  # names of strategies are the Plan page's


def test_rates_are_the_removed_shares(plan):
    figure = charts.pruning_rates(plan, PROTECTION, t)
    for column, kind in enumerate(("attention", "MLP")):
        shown = trace(figure, kind)
        prunable = [layer.attention_parameters + layer.mlp_parameters for layer in plan.shape.layers]
        np.testing.assert_array_equal(shown.y, plan.removed_parameters[:, column] / prunable)
        np.testing.assert_array_equal(np.array(shown.customdata)[:, 0], plan.removed_parameters[:, column])
    assert trace(figure, "target: 25.0\u00a0% of all parameters").y == (0.25, 0.25)
    actual = trace(figure, f"actual: {plan.actual_ratio:.1%} of all parameters".replace("%", "\u00a0%"))
    assert set(actual.y) == {plan.actual_ratio}


def test_protected_layers_are_hatched_with_their_reason(plan):
    figure = charts.pruning_rates(plan, PROTECTION, t)
    whole, attention = trace(figure, "protected"), trace(figure, "attention protected")
    assert list(whole.x) == [0, 1, 2, 17, 30, 31]
    assert list(attention.x) == [3, 4, 28, 29]
    assert whole.marker.pattern.shape == attention.marker.pattern.shape == "/"
    assert whole.customdata[0] == (
        "attention: outside the range that may be cut (layers 5 to 27)<br>"
        "MLP: outside the range that may be cut (layers 3 to 29)"
    )
    assert whole.customdata[3] == "attention: named as protected<br>MLP: named as protected"
    assert attention.customdata[0] == "attention: outside the range that may be cut (layers 5 to 27)"
    assert "MLP protected" not in [one.name for one in figure.data]


def test_all_layers_can_be_read(table, plan):
    of_layers = set()
    for name, figure in all_figures(table, plan).items():
        if figure.layout.xaxis.title.text == "layer":
            of_layers.add(name)
            assert figure.layout.xaxis.dtick == (4 if name in ("groups-cut", "removed") else 1)  # half as wide
    assert of_layers >= {"rates", "groups-cut", "removed", "difference", "sparsity", "layer-importance", "distribution-mlp"}


def test_series_differ_by_pattern_too(table, plan):
    figures = all_figures(table, plan)
    for name, pair in {name: ("attention", "MLP") for name in ("rates", "group-importance", "removed", "balance")}.items():
        first, second = (trace(figures[name], label).marker for label in pair)
        assert first.color != second.color
        assert first.pattern.shape != second.pattern.shape
    shown = {one.name: one.marker.pattern.shape for one in figures["groups-cut"].data}
    assert shown["kept"] != shown["cut"]


def test_kept_and_cut_groups_are_the_plan(plan):
    figure = charts.groups_cut(plan, t)
    before = plan.groups.block_sizes.reshape(-1, 2)
    shown = {(one.name, one.yaxis): np.array(one.y) for one in figure.data}
    for column, axis in enumerate(("y2", "y")):
        np.testing.assert_array_equal(shown["kept", axis], plan.kept_counts[:, column])
        np.testing.assert_array_equal(shown["cut", axis], before[:, column] - plan.kept_counts[:, column])


def test_sparsity_shows_the_layer_table(plan):
    layers = matrices.layer_table(plan, matrices.matrix_table(plan, 2))
    figure = charts.sparsity_bars(layers, plan, t)
    np.testing.assert_array_equal(trace(figure, "actual").y, layers["sparsity"])
    np.testing.assert_array_equal(trace(figure, "planned for this layer").y, layers["planned_sparsity"])
    assert trace(figure, "target: 25.0\u00a0% of all parameters").line.dash == "dash"


def test_without_a_target_no_target_is_drawn(table):
    plan = allocate_global(table, 0.25, PROTECTION)
    assert not [one for one in charts.pruning_rates(plan, PROTECTION, t).data if "target" in (one.name or "")]


@pytest.mark.parametrize("distribution", ["auto", "3:7"])
def test_the_curve_tells_cut_from_kept(table, distribution):
    plan = allocate_global(table, 0.25, PROTECTION, pruning_distribution=distribution)
    data = charts.score_curve_data(table, plan, PROTECTION, max_points=10**9)
    for kind, part in data.parts.items():
        at = [plan.groups.slice_of(int(i), kind).start + int(g) for i, g in zip(part.layer_idx, part.group_idx, strict=True)]
        np.testing.assert_array_equal(part.removed, ~plan.kept[at])
        np.testing.assert_array_equal(part.score, table.score[at])
        assert (np.diff(part.score) >= 0).all()
    candidates = removable(table, PROTECTION, Floors())
    assert data.total == len(candidates) == sum(len(part.rank) for part in data.parts.values())
    removed = plan.removed_parameters.sum() / plan.shape.parameters
    if distribution == "auto":
        assert data.cuts == {"all": pytest.approx(removed, rel=1e-12)}
    else:
        assert set(data.cuts) == set(GROUP_TYPES)
        for kind, part in data.parts.items():
            assert (part.share[part.removed] <= data.cuts[kind]).all()
            assert (part.share[~part.removed] > data.cuts[kind]).all()


def test_a_plan_that_follows_no_order_has_no_cut_line_and_shows_every_point(table, plan):
    kept = plan.kept.copy()
    candidates = removable(table, PROTECTION, Floors())
    kept[candidates[0]], kept[candidates[-1]] = True, False
    edited = PruningPlan(plan.shape, kept)
    assert charts.score_curve_data(table, edited, PROTECTION).cuts == {}
    figure = charts.score_curve(table, edited, PROTECTION, t)
    assert not figure.layout.shapes
    lines = [one for one in figure.data if one.mode == "lines"]
    assert all(one.connectgaps for one in lines)  # a line through single points would be nothing


def test_groups_changed_by_hand_have_their_own_marks_and_leave_the_cut_line(table, plan):
    edited, at = changed_by_hand(table, plan)
    untouched = charts.score_curve_data(table, plan, PROTECTION)
    data = charts.score_curve_data(table, edited, PROTECTION)
    assert set(data.cuts) == {"all"}
    assert data.cuts["all"] == pytest.approx(untouched.cuts["all"], rel=1e-12)
    groups = plan.groups
    for kind, part in data.by_hand.items():
        found = [groups.slice_of(int(i), kind).start + int(g) for i, g in zip(part.layer_idx, part.group_idx, strict=True)]
        assert sorted(found) == [int(a) for a in at if groups.is_mlp[a] == (kind == "mlp")]
        np.testing.assert_array_equal(part.removed, [False, True])  # the lowest is kept, the highest cut
        shown = data.parts[kind]
        drawn = [groups.slice_of(int(i), kind).start + int(g) for i, g in zip(shown.layer_idx, shown.group_idx, strict=True)]
        assert not set(drawn) & set(found)
    figure = charts.score_curve(table, edited, PROTECTION, t)
    assert trace(figure, "MLP, kept by hand").marker.symbol == "star-open"
    assert trace(figure, "attention, cut by hand").marker.symbol == "star"


def test_a_protected_group_cut_by_hand_stands_where_its_score_belongs(table, plan):
    at = np.array([table.groups.slice_of(0, "mlp").start + 5])
    kept = plan.kept.copy()
    kept[at] = False
    data = charts.score_curve_data(table, replace(plan, kept=kept, by_hand=at), PROTECTION)
    (rank,) = data.by_hand["mlp"].rank
    below = removable(table, PROTECTION, Floors())
    assert rank == np.count_nonzero(table.score[below] < table.score[at[0]]) + 1


def test_the_curve_is_thinned_evenly_with_both_ends(table, plan):
    part = charts.score_curve_data(table, plan, PROTECTION, max_points=100).parts["mlp"]
    whole = charts.score_curve_data(table, plan, PROTECTION, max_points=10**9).parts["mlp"]
    assert len(part.rank) == 100
    assert (part.rank[0], part.rank[-1]) == (whole.rank[0], whole.rank[-1])
    assert np.isin(part.rank, whole.rank).all()
    assert np.ptp(np.diff(np.searchsorted(whole.rank, part.rank))) <= 1


def test_scores_of_zero_stand_on_a_log_axis_and_keep_their_value(table, plan):
    figure = charts.score_curve(table, plan, PROTECTION, t)
    line = trace(figure, "MLP, cut")
    shown = np.array(line.y, dtype=float)
    zero = np.array(line.customdata)[:, 3] == 0
    assert zero.any()
    assert (shown[zero] > 0).all()


def test_the_heat_map_holds_every_attention_score(table):
    data = charts.importance_heatmap_data(table, "attention")
    frame = table.frame(table.select(group_type="attention")).pivot(index="group_idx", columns="layer_idx", values="score")
    np.testing.assert_allclose(data.score, frame.to_numpy(), rtol=1e-12)


def test_bins_of_the_heat_map_cover_every_channel_once(table):
    data = charts.importance_heatmap_data(table, "mlp", max_bins=100)
    assert data.score.shape == (100, 32)
    np.testing.assert_array_equal(data.first[1:], data.last[:-1] + 1)
    assert (data.first[0], data.last[-1]) == (0, 383)
    scores = table.score[table.groups.slice_of(4, "mlp")]
    for index in (0, 1, 57, 99):
        members = scores[data.first[index] : data.last[index] + 1]
        assert data.score[index, 4] == pytest.approx(members.mean(), rel=1e-12)


def test_what_was_not_measured_stays_blank(table):
    data = charts.importance_heatmap_data(table.restricted(range(10, 15)), "mlp")
    assert np.isnan(data.score[:, :10]).all()
    assert not np.isnan(data.score[:, 10:15]).any()
    charts.importance_heatmap(table.restricted(range(0, 0)), "mlp", t)  # nothing at all is no fault


def test_group_importance_sums_the_groups(table):
    figure = charts.group_importance_bars(table, t)
    sums = table.frame().groupby(["group_type", "layer_idx"])["importance"].sum()
    np.testing.assert_allclose(trace(figure, "attention").y, sums["attention"], rtol=1e-12)
    np.testing.assert_allclose(trace(figure, "MLP").y, sums["mlp"], rtol=1e-12)
    assert figure.layout.barmode == "stack"
    assert charts.group_importance_bars(table, t, log=True).layout.barmode == "group"  # stacked logs would lie


def test_shares_add_up(shape):
    bars = charts.parameter_shares(shape, t).data[0]
    assert sum(bars.x) == shape.parameters == 6_561_920
    assert sum(bars.customdata) == pytest.approx(1)


def test_perplexity_shows_what_was_measured():
    figure = charts.perplexity_bars(METRICS, t)
    assert [(one.name, list(one.y)) for one in figure.data] == [("before", [20.0]), ("after the cut", [31.5])]
    assert figure.layout.yaxis.title.text == "perplexity (256 windows of 128 tokens)"
    assert not charts.perplexity_bars({}, t).data


def test_the_course_of_a_training_is_drawn_up_to_where_it_is():
    loss, rate = charts.training_loss(COURSE, t).data
    assert (list(loss.x), list(loss.y)) == ([1, 2], [3.5, 3.25])  # at step 0 nothing was learnt from
    assert list(rate.y) == [1e-4, 5e-5] and rate.yaxis == "y2"
    figure = charts.recovery_perplexity(COURSE, t)
    assert [(list(line.x), list(line.y)) for line in figure.data[:2]] == [([0, 10], [20, 20]), ([0, 10], [31, 31])]
    assert (list(figure.data[2].x), list(figure.data[2].y)) == ([0, 2], [31, 25])
    assert (figure.data[3].x, figure.data[3].y) == ((2,), (25,))  # the best
    assert figure.layout.yaxis.title.text == "perplexity (128 windows of 64 tokens)"
    low, high = figure.layout.xaxis.range
    assert low < 0 and high > 10


def test_without_the_unpruned_model_its_line_is_missing():
    names = [trace.name for trace in charts.recovery_perplexity(replace(COURSE, before=None, best_step=None), t).data]
    assert names == ["after the cut, where training began: 31.00", "model in training"]


def test_errors_of_a_repair_stand_at_their_layers_before_and_after():
    bars = {(one.yaxis, one.name): (list(one.x), list(one.y)) for one in charts.repair_errors(REPAIRED, 32, t).data}
    assert bars == {
        ("y2", "after the cut"): ([3], [0.2]),
        ("y2", "repaired"): ([3], [0.1]),
        ("y", "after the cut"): ([3, 7], [0.3, 0.4]),
        ("y", "repaired"): ([3, 7], [0.15, 0.3]),
    }
    alone = charts.repair_errors(REPAIRED[REPAIRED["matrix"] == "down_proj"], 32, t)
    assert [one.showlegend for one in alone.data] == [True, True] and alone.layout.yaxis.domain is None


# importance -----------------------------------------------------------------------------------------------------------


def test_layer_importance_is_shown_with_its_rank_and_its_perplexity():
    found = LayerImportance("removal", np.array([0.5, 2.0, -0.1]), np.array([1.65, 7.39, 0.9]), {})
    bars = charts.layer_importance_bars(found, t).data[0]
    assert list(bars.y) == [0.5, 2.0, -0.1]
    np.testing.assert_array_equal(bars.customdata, [[0.5, 2, 1.65], [2.0, 1, 7.39], [-0.1, 3, 0.9]])
    assert "rank %{customdata[1]} of 3" in bars.hovertemplate
    assert "perplexity without it: %{customdata[2]:.4g}" in bars.hovertemplate
    without = charts.layer_importance_bars(LayerImportance("activation", found.importance, None, {}), t)
    assert "perplexity" not in without.data[0].hovertemplate
    assert "hidden states" in without.layout.title.text


def test_negative_layer_importance_stands_below_the_bars_of_a_log_axis_with_its_value():
    found = LayerImportance("removal", np.array([0.5, 2.0, -0.1, 0.0]), None, {})
    bars, below = charts.layer_importance_bars(found, t, log=True).data
    np.testing.assert_array_equal(bars.y, [0.5, 2.0, np.nan, np.nan])
    np.testing.assert_array_equal(below.y, [np.nan, np.nan, 0.5, 0.5])
    assert below.customdata[2][0] == -0.1
    positive = LayerImportance("removal", np.array([0.5, 2.0]), None, {})
    assert len(charts.layer_importance_bars(positive, t, log=True).data) == 1


def test_only_wholly_protected_layers_are_shaded():
    figure = charts.layer_importance_bars(LAYERS, t, protection=PROTECTION)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(-0.5, 2.5), (16.5, 17.5), (29.5, 31.5)]


@pytest.mark.parametrize("kind", GROUP_TYPES)
def test_one_layer_shows_all_its_groups_with_their_rank(table, kind):
    rows = table.frame(table.select(layers=[4], group_type=kind)).set_index("group_idx").sort_index()
    shown = charts.layer_groups(table, 4, kind, t).data[0]
    np.testing.assert_array_equal(shown.x, rows.index)
    np.testing.assert_array_equal(shown.y, rows["importance"])
    importance, score, rank = np.array(shown.customdata).T
    np.testing.assert_array_equal(importance, rows["importance"])
    np.testing.assert_array_equal(score, rows["score"])
    np.testing.assert_array_equal(rank, rows["importance"].rank(ascending=False))
    assert shown.meta == {"kind": kind, "layer": 4}


def test_groups_that_were_not_measured_have_neither_place_nor_rank(table):
    data = charts.layer_groups_data(table.restricted(range(10, 15)), 4, "mlp")
    assert np.isnan(data.rank).all()
    assert np.isnan(charts.layer_groups(table.restricted(range(10, 15)), 4, "mlp", t).data[0].y).all()


def test_boxes_hold_the_quantiles_of_the_scores(table):
    boxes, medians = charts.score_distribution(table, "mlp", t).data
    frame = table.frame(table.select(group_type="mlp")).groupby("layer_idx")["score"]
    for name, share in {"lowerfence": 0.01, "q1": 0.25, "median": 0.5, "q3": 0.75, "upperfence": 0.99}.items():
        expected = frame.quantile(share)
        shown = np.array(boxes[name])
        np.testing.assert_allclose(shown[expected > 0], expected[expected > 0], rtol=1e-12)
        assert (shown > 0).all()  # layer 8 has scores of 0, which a log axis cannot hold
    assert list(np.array(medians.customdata)[8]) == [0] * 5
    assert boxes.y is None  # no raw points travel
    few = charts.score_distribution(table.restricted(range(10, 15)), "mlp", t).data[0]
    assert list(few.x) == [10, 11, 12, 13, 14]


def test_balance_of_importance_is_the_share_of_each_layers_sum(table):
    figure = charts.importance_balance(table, t)
    sums = table.frame().groupby(["layer_idx", "group_type"])["importance"].sum().unstack()
    shares = sums.div(sums.sum(axis=1), axis=0)
    np.testing.assert_allclose(trace(figure, "attention").y, shares["attention"], rtol=1e-12)
    np.testing.assert_allclose(trace(figure, "MLP").y, shares["mlp"], rtol=1e-12)
    layer = table.shape.layers[0]
    share = layer.attention_parameters / (layer.attention_parameters + layer.mlp_parameters)
    assert set(trace(figure, "attention's share of the prunable parameters").y) == {share}


def test_ranks_of_two_methods_hold_every_attention_group(table):
    comparison = compare(table, other_table(table))
    figure = charts.rank_scatter(comparison, t)
    assert figure.layout.title.text.endswith(f"(Spearman {comparison.spearman['all']:.3f})")
    channels, attention = figure.data
    assert len(attention.x) == np.count_nonzero(~table.groups.is_mlp)
    assert len(channels.x) == 4000
    place = {(int(layer), int(group)): at for at, (layer, group) in enumerate(attention.customdata)}
    position = table.groups.slice_of(7, "attention").start + 1
    at = place[7, 1]
    assert attention.x[at] == 1 + np.count_nonzero(table.score < table.score[position])
    both = charts.rank_scatter(comparison, t, overlap(*(allocate_global(one, 0.2, PROTECTION) for one in (table, table))))
    assert "both cut 100.0\u00a0% of what either cuts" in both.layout.title.text


# the plan -------------------------------------------------------------------------------------------------------------


def test_computed_rates_surround_what_is_applied(table):
    protection = replace(PROTECTION, frozen=(20, 9))
    plan, rates = with_rates(table, protection)
    figure = charts.pruning_rates(plan, protection, t, rates)
    outline = trace(figure, "computed rate")
    np.testing.assert_array_equal(outline.y, rates.computed)
    np.testing.assert_array_equal(outline.base, np.zeros(32))  # bars with a base are not stacked on the others
    assert outline.hoverinfo == "skip"  # what lies under it answers, and says the rates
    spared = trace(figure, "protected")
    assert list(spared.x) == [0, 1, 2, 9, 17, 20, 30, 31]
    reasons = dict(zip(spared.x, spared.customdata, strict=True))
    assert reasons[20].startswith("attention: frozen as number 1 in importance")
    assert reasons[9].endswith("MLP: frozen as number 2 in importance")
    said = dict(zip(spared.x, spared.hovertext, strict=True)) | {12: trace(figure, "attention").hovertext[12]}
    for layer, applied in {20: 0.0, 12: rates.computed[12]}.items():
        text = f"<br>rate computed {rates.computed[layer]:.1%}, applied {applied:.1%}"
        assert said[layer] == text.replace("%", "\u00a0%")
    removed = np.array(trace(figure, "attention").y) + np.array(trace(figure, "MLP").y)
    layer = plan.shape.layers[0]
    channel = layer.mlp_channel_cost / (layer.attention_parameters + layer.mlp_parameters)
    whole = [i for i in range(5, 28) if i not in (9, 17, 20)]
    assert (np.abs(removed[whole] - rates.applied[whole]) < channel).all()


def test_the_target_of_layer_wise_rates_names_its_basis(table):
    plan, rates = with_rates(table, PROTECTION)
    assert trace(
        charts.pruning_rates(plan, PROTECTION, t, rates), "target: 25.0\u00a0% of the prunable parameters of all layers"
    )
    plan, rates = with_rates(table, PROTECTION, match_target=True)
    assert trace(charts.pruning_rates(plan, PROTECTION, t, rates), "target: 25.0\u00a0% of all parameters")


def test_a_layer_wise_plan_shows_every_sampled_group_once(table):
    plan, _ = with_rates(table, PROTECTION)
    figure = charts.score_curve(table, plan, PROTECTION, t)
    assert not figure.layout.shapes
    for kind in ("attention", "MLP"):
        cut, kept = (np.isfinite(np.array(trace(figure, f"{kind}, {state}").y, dtype=float)) for state in ("cut", "kept"))
        assert (cut ^ kept).all()
        assert cut.any()


def test_removed_parameters_add_up_to_the_plan(plan):
    figure = charts.removed_parameters(plan, t)
    before, after = plan.shape.components, plan.shape_after.components
    assert sum(trace(figure, "attention").y) == before["attention"] - after["attention"]
    assert sum(trace(figure, "MLP").y) == before["mlp"] - after["mlp"]
    assert f"{plan.shape.parameters - plan.shape_after.parameters:,} parameters cut" in figure.layout.title.text


def test_balance_shows_what_the_plan_does_to_attention_and_mlp(plan):
    figure = charts.balance(plan, t)
    before, after = plan.shape.components, plan.shape_after.components
    attention, mlp = trace(figure, "attention"), trace(figure, "MLP")
    for row, counts in enumerate((before, {k: before[k] - after[k] for k in before}, after)):
        assert attention.x[row] == pytest.approx(counts["attention"] / (counts["attention"] + counts["mlp"]), rel=1e-12)
        assert attention.x[row] + mlp.x[row] == pytest.approx(1)
        assert (attention.customdata[row], mlp.customdata[row]) == (counts["attention"], counts["mlp"])
        assert attention.text[row] == f"{attention.x[row]:.1%}".replace("%", "\u00a0%")


def test_a_plan_that_removes_nothing_has_no_balance_of_what_goes(shape):
    attention, mlp = charts.balance(PruningPlan.keep_all(shape), t).data
    assert np.isnan(attention.x[1]) and np.isnan(mlp.x[1])
    assert attention.text[1] == mlp.text[1] == ""


def test_the_difference_of_two_plans_is_what_only_one_cuts(table, plan):
    other = allocate_global(other_table(table), 0.25, PROTECTION)
    figure = charts.plan_difference(plan, other, ("one", "two"), t)
    shown = {(one.name, one.meta["kind"]): one for one in figure.data}
    for layer in range(plan.shape.num_layers):
        for kind in GROUP_TYPES:
            first, second = (set(p.kept_groups(layer, kind)) for p in (plan, other))
            assert shown["only one", kind].y[layer] == len(second - first)
            assert shown["only two", kind].y[layer] == -len(first - second)
    same = charts.plan_difference(plan, plan, ("one", "two"), t)
    assert not any(np.any(one.y) for one in same.data)


def test_a_click_on_any_bar_tells_layer_and_kind(table, plan):
    rates_plan, rates = with_rates(table, PROTECTION)
    figures = all_figures(table, plan) | {"rates": charts.pruning_rates(rates_plan, PROTECTION, t, rates)}
    for name, figure in figures.items():
        if figure.layout.xaxis.title.text == "layer":
            for one in figure.data:
                if one.type in ("bar", "heatmap", "box"):
                    assert one.meta["kind"] in (*GROUP_TYPES, "layer"), name
                if one.type == "bar":
                    assert set(one.x) <= set(range(32))


# sweeps ---------------------------------------------------------------------------------------------------------------


def test_the_sweep_draws_a_line_per_ratio_and_leaves_out_what_was_not_reached():
    figure = charts.sweep_curve(SWEEP, "split", t, ("2:8", 0.2))
    low, high, ring = figure.data
    assert (low.name, list(low.x), list(low.y)) == ("ratio 20.0\u00a0%", [0.2, 0.5], [22.0, 26.0])
    assert (high.name, list(high.x), list(high.y)) == ("ratio 30.0\u00a0%", [0.2], [31.0])
    assert [point[:2] for point in low.customdata] == [["2:8", 0.2], ["5:5", 0.2]]
    assert (list(ring.x), list(ring.y)) == ([0.2], [22.0])
    assert "1 of 4 settings has no perplexity" in figure.layout.title.text
    assert low.marker.symbol != high.marker.symbol and low.line.dash != high.line.dash


def test_no_two_lines_of_a_sweep_look_alike():
    points = [sweep_point("2:8", 0.2, percent / 100, 20.0 + percent) for percent in range(5, 55, 5)]
    looks = {(one.line.color, one.line.dash, one.marker.symbol) for one in charts.sweep_curve(points, "split", t).data}
    assert len(looks) == 10


def test_the_sweep_along_the_ratio_draws_a_line_per_split():
    two_eight, five_five = charts.sweep_curve(SWEEP, "ratio", t).data
    assert (two_eight.name, list(two_eight.x), list(two_eight.y)) == ("split 2:8", [0.2, 0.3], [22.0, 31.0])
    assert (five_five.name, list(five_five.x), list(five_five.y)) == ("split 5:5", [0.2], [26.0])


def test_a_setting_that_was_not_tried_is_a_line_across_the_sweep():
    (line,) = charts.sweep_curve(SWEEP, "split", t, ("3:7", 0.2)).layout.shapes
    assert line.x0 == line.x1 == pytest.approx(0.3)
    (line,) = charts.sweep_curve(SWEEP, "ratio", t, ("3:7", 0.15)).layout.shapes
    assert line.x0 == 0.15
    assert not charts.sweep_curve(SWEEP, "split", t, ("auto", 0.2)).layout.shapes  # the scores decide: no place on the axis


def test_perplexities_far_apart_stand_on_a_log_axis():
    assert charts.sweep_curve(SWEEP, "ratio", t).layout.yaxis.type == "linear"
    wild = [*SWEEP, sweep_point("10:0", 1.0, 0.2, 400.0)]
    assert charts.sweep_curve(wild, "ratio", t).layout.yaxis.type == "log"
    assert charts.sweep_curve([], "ratio", t).data == ()


@pytest.mark.parametrize("worst", [40.0, 4000.0])
def test_the_grid_holds_every_setting_and_why_one_is_missing(worst):
    points = [*SWEEP, sweep_point("10:0", 1.0, 0.2, worst)]
    figure = charts.sweep_grid(points, t, ("2:8", 0.3))
    grid = figure.data[0]
    assert list(grid.y) == ["2:8", "5:5", "10:0"]  # by attention's share, not by spelling
    expected = np.array([[22.0, 31.0], [26.0, np.nan], [worst, np.nan]])
    np.testing.assert_allclose(grid.z, np.log10(expected) if worst > 220 else expected)
    assert grid.customdata[1][0] == ["5:5", 0.2]
    assert grid.hovertext[1][1].endswith("no perplexity<br>attention has no more to give")
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (0.5, 1.5, -0.5, 0.5)
