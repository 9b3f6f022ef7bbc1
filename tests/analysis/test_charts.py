"""Charts show the numbers of the plan and the table, and every word comes from the text file."""

import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis import charts, diff
from pruning.planning.allocation import Floors, Protection, allocate_global, removable
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import GROUP_TYPES, ModelShape

ROOT = Path(__file__).parents[2]
TEXTS = {}
for file in sorted((ROOT / "ui" / "text").glob("*en.json")):
    TEXTS |= json.loads(file.read_text(encoding="utf-8"))
PROTECTION = Protection(range(5, 28), range(3, 30), (17,))
METRICS = {
    "basis": {"windows": 256, "seq_len": 128},
    "perplexity": {"before": {"a": 20.0}, "after": {"a": 31.5}, "recovered": {"a": None}},
}


def t(key: str, **values) -> str:
    return TEXTS[key].format(**values)


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


def trace(figure: go.Figure, name: str):
    (found,) = [one for one in figure.data if one.name == name]
    return found


def all_figures(table, plan, t=t) -> dict[str, go.Figure]:
    layers = diff.layer_table(plan)
    return {
        "heatmap-attention": charts.importance_heatmap(table, "attention", t),
        "heatmap-mlp": charts.importance_heatmap(table, "mlp", t),
        "layer-importance": charts.layer_importance_bars(table, t, protection=PROTECTION),
        "rates": charts.pruning_rates(plan, PROTECTION, t),
        "groups-cut": charts.groups_cut(plan, t),
        "curve": charts.score_curve(table, plan, PROTECTION, t),
        "sparsity": charts.sparsity_bars(layers, plan, t),
        "shares": charts.parameter_shares(plan.shape, t),
        "perplexity": charts.perplexity_bars(METRICS, t),
    }


def test_every_figure_has_fixed_height_no_background_and_keeps_its_zoom(table, plan):
    for name, figure in all_figures(table, plan).items():
        assert figure.layout.height >= 200
        assert figure.layout.uirevision == name
        assert figure.layout.template.layout.paper_bgcolor == figure.layout.template.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
        assert figure.layout.title.text
        json.loads(figure.to_json())


def test_every_text_is_used_and_every_word_is_a_text(table, plan):
    asked = set()

    def record(key: str, **values) -> str:
        asked.add(key)
        return t(key, **values)

    all_figures(table, plan, record)
    charts.layer_importance_bars(table, record, log=True)
    charts.perplexity_bars({"perplexity": {"before": {"a": 1}, "repaired": {"a": 2}, "recovered": {"a": 3}}}, record)
    charts.importance_heatmap(table, "mlp", record, max_bins=1000)
    split = allocate_global(table, 0.25, PROTECTION, pruning_distribution="3:7")
    charts.score_curve(table, split, PROTECTION, record)
    selected = allocate_global(table, 0.2, PROTECTION, settings={"pruning_ratio": 0.2, "ratio_basis": "selected"})
    charts.pruning_rates(selected, Protection(range(3, 30), range(5, 28)), record)
    asked |= {check.key for check in diff.checks(plan, diff.matrix_table(plan, 2))}
    own = {key for key in TEXTS if key.startswith(("chart.", "check."))}
    assert asked == own


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
    for name, figure in all_figures(table, plan).items():
        if name not in ("curve", "shares", "perplexity"):
            assert figure.layout.xaxis.dtick == 1
            assert figure.layout.xaxis.title.text == "layer"


def test_series_differ_by_pattern_too(table, plan):
    figures = all_figures(table, plan)
    for name, pair in {"rates": ("attention", "MLP"), "layer-importance": ("attention", "MLP")}.items():
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
    layers = diff.layer_table(plan, diff.matrix_table(plan, 2))
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


def test_a_plan_made_by_hand_has_no_cut_line(table, plan):
    kept = plan.kept.copy()
    candidates = removable(table, PROTECTION, Floors())
    kept[candidates[0]], kept[candidates[-1]] = True, False
    by_hand = PruningPlan(plan.shape, kept)
    assert charts.score_curve_data(table, by_hand, PROTECTION).cuts == {}
    assert not charts.score_curve(table, by_hand, PROTECTION, t).layout.shapes


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


def test_layer_importance_sums_the_groups(table):
    figure = charts.layer_importance_bars(table, t)
    sums = table.frame().groupby(["group_type", "layer_idx"])["importance"].sum()
    np.testing.assert_allclose(trace(figure, "attention").y, sums["attention"], rtol=1e-12)
    np.testing.assert_allclose(trace(figure, "MLP").y, sums["mlp"], rtol=1e-12)
    assert figure.layout.barmode == "stack"
    assert charts.layer_importance_bars(table, t, log=True).layout.barmode == "group"  # stacked logs would lie


def test_shares_add_up(shape):
    bars = charts.parameter_shares(shape, t).data[0]
    assert sum(bars.x) == shape.parameters == 6_561_920
    assert sum(bars.customdata) == pytest.approx(1)


def test_perplexity_shows_what_was_measured():
    figure = charts.perplexity_bars(METRICS, t)
    assert [(one.name, list(one.y)) for one in figure.data] == [("before", [20.0]), ("after the cut", [31.5])]
    assert figure.layout.yaxis.title.text == "perplexity (256 windows of 128 tokens)"
    assert not charts.perplexity_bars({}, t).data
