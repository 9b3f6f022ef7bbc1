"""The Learn page: chapters open, offer what was not measured, and say the numbers that the files and sizes hold."""

from itertools import pairwise
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis import sensitivity
from pruning.experiment import Experiment
from pruning.planning.shape import ATTENTION, MLP
from pruning.runs.jobs import queue
from pruning.runs.sensitivity import results
from pruning.runs.sensitivity.results import BOTH, GRID, INSIDE, LAYERS, MATRIX, PROTECTION, SPLIT, STRATEGIES, TRAINED
from pruning.runs.status import read_status
from tests.runs.learned import learn_all
from tests.runs.quick_runs import wait_for_end
from ui import tour
from ui.translation import t

from .conftest import ROOT, figures, on_page

CHAPTERS = ("matrix", "group", "cut", "strategies", "knapsack", "scores")
MODELS = {
    "narrow": {"family": "llama", "layers": 5, "hidden_size": 32, "intermediate_size": 96, "num_key_value_heads": 4},
    "wide": {"family": "qwen2", "layers": 7, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two models of different shape, measured, with every experiment that the chapters ask for."""
    folder = tmp_path_factory.mktemp("learn")
    for name, sizes in MODELS.items():
        learn_all(folder / "log", name, folder / "models" / name, sizes)
    return folder / "log"


@pytest.fixture
def chapter(root, monkeypatch):
    """One chapter of the page with an experiment open."""

    def opened(name: str, section: str) -> AppTest:
        monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(root))
        at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
        at.query_params |= {"experiment": name, "learn_section": section}
        at = on_page(at, "learn")
        assert not at.exception and not at.error
        return at

    return opened


def found(root: Path, name: str, kind: str, **options) -> results.SensitivityResult:
    experiment = Experiment.open(root, name)
    return results.read_result(experiment, results.question(experiment, experiment.read_table(), kind, **options))


def words(at: AppTest) -> str:
    return "\n".join(element.value for element in at.markdown)


@pytest.mark.parametrize("section", CHAPTERS)
def test_without_a_measurement_a_chapter_offers_to_make_it(app, section):
    app.query_params["learn_section"] = section
    at = on_page(app, "learn")
    assert not at.exception and not at.error
    assert at.subheader[0].value == t(f"learn.{section}.title")
    assert at.button(key="start_default").label == t("importance.offer")


@pytest.mark.parametrize("name", MODELS)
def test_chapter_1_holds_the_sizes_of_the_matrix(chapter, root, name):
    at, whole = chapter(name, "matrix"), found(root, name, MATRIX).whole
    rows, columns = whole["dense"]["shape"]
    assert (rows, columns) == (MODELS[name]["intermediate_size"], MODELS[name]["hidden_size"])
    assert f"{rows:,} × {columns:,}" in words(at) and f"{rows * 3 // 4:,} rows stay" in words(at)
    assert f"{whole['smaller']['milliseconds']:.3f} ms" in words(at)
    assert "matrix" in figures(at)


@pytest.mark.parametrize("name", MODELS)
def test_chapter_2_counts_what_a_group_holds(chapter, root, name):
    at = chapter(name, "group")
    layer = Experiment.open(root, name).shape().layers[0]
    assert f"**{layer.attention_group_cost:,} parameters**" in words(at)
    assert at.dataframe[0].value["parameters"].sum() == layer.attention_group_cost
    for point in found(root, name, INSIDE).points:
        if point["kind"] == ATTENTION:
            assert f"to {point['perplexity']:.3f}" in words(at)
        else:
            assert f"channel {point['group']}," in words(at)
    at.segmented_control(key="learn_kind").set_value(MLP).run()
    assert at.dataframe[0].value["parameters"].sum() == layer.mlp_channel_cost


@pytest.mark.parametrize("name", MODELS)
def test_chapter_3_counts_roots_and_gives_the_perplexities_of_both_scenarios(chapter, root, name):
    at, layers = chapter(name, "cut"), MODELS[name]["layers"]
    assert f"only layers 1 to {layers - 2} are, {layers - 2} of {layers}" in words(at)
    assert f"{layers - 2} layers make {2 * (layers - 2)} entries" in words(at)
    frame = at.dataframe[0].value
    shape = Experiment.open(root, name).shape().layers[layers // 2]
    assert (frame["bytes_before"] == 4 * frame["params_before"]).all()  # the files hold float32
    assert frame["params_before"].sum() == sum(
        rows * columns for rows, columns in (s for s in shape.tensor_shapes().values() if len(s) == 2)
    )
    verdicts = sensitivity.protection_verdicts(found(root, name, PROTECTION))
    assert verdicts
    for row in verdicts:
        assert f"- {row['ratio']:.0%}" in words(at) and f"Perplexity {row['protected']:.2f}" in words(at)
    best = sensitivity.best_of_grid(found(root, name, GRID))
    assert f"first {best['first']} and last {best['last']} layers: perplexity {best['perplexity']:.2f}" in words(at)
    trained = sensitivity.trained_verdicts(found(root, name, TRAINED))
    assert trained
    for row in trained:
        assert f"Perplexity {row['protected']:.2f} with" in words(at) and f"{row['all']:.2f} without (cut alone" in words(at)
    assert {"learn_rates", "protection", "protection_trained", "protection_grid"} <= set(figures(at))


@pytest.mark.parametrize("name", MODELS)
def test_chapter_4_shows_both_strategies_as_measured(chapter, root, name):
    at, points = chapter(name, "strategies"), found(root, name, STRATEGIES).points
    assert " | ".join(f"{point['perplexity']:.3f}" for point in points) in words(at)
    assert f"{MODELS[name]['layers'] - 2} of {MODELS[name]['layers']}" in words(at)  # by default the first and last are spared
    for row in sensitivity.best_splits(found(root, name, SPLIT)):
        assert f"{row['best']['split']} is best (perplexity {row['best']['perplexity']:.2f})" in words(at)


@pytest.mark.parametrize("name", MODELS)
def test_chapter_5_fills_the_knapsack_to_the_budget_that_is_dragged(chapter, root, name):
    at = chapter(name, "knapsack")
    table = Experiment.open(root, name).read_table()
    for ratio in (0.12, 0.05):
        at.slider(key="learn_budget").set_value(ratio).run()
        bars = figures(at)["budget"].data
        spent = sum(bar.x[0] for bar in bars)
        assert spent <= ratio * table.shape.parameters < spent + table.shape.layers[0].attention_group_cost
        assert f"({bars[1].x[0]:,} parameters)" in words(at)


@pytest.mark.parametrize("name", MODELS)
def test_chapter_6_names_the_layers_that_matter_most_and_the_scores_that_foresaw_it(chapter, root, name):
    at, result = chapter(name, "scores"), found(root, name, LAYERS)
    worst = max((p for p in result.points if p["kind"] == MLP), key=lambda p: p["rise"])
    assert f"Of its **MLP**, layer {worst['layer']} matters most ({worst['perplexity']:.3f})" in words(at)
    best = max(result.whole["spearman"], key=lambda method: result.whole["spearman"][method][MLP] or -2)
    assert f"by `{best}` for the MLP ({result.whole['spearman'][best][MLP]:+.2f})" in words(at)
    assert len(figures(at)["foresight"].data[0].y) == 11
    at.segmented_control(key="learn_foresight").set_value(BOTH).run()
    at_once = found(root, name, LAYERS, kinds=[BOTH]).whole["spearman"]
    assert f"fisher ({at_once['fisher'][BOTH]:+.2f})" in figures(at)["foresight"].data[0].y


def test_a_chapter_ends_with_something_to_try_on_the_right_page(chapter):
    at = chapter("narrow", "knapsack")
    at.slider(key="learn_budget").set_value(0.12).run()
    at.button(key="open_knapsack").click().run()
    assert not at.exception and at.title[0].value == t("plan.title")
    assert at.slider(key="ratio").value == 0.12


def test_an_experiment_that_was_not_made_is_offered_runs_and_then_opens(chapter, root):
    at = chapter("narrow", "scores")
    at.slider(key="learn_share").set_value(0.5).run()
    assert "sensitivity" not in figures(at)
    at.button(key="measure_layers").click().run()
    experiment = Experiment.open(root, "narrow")
    wait_for_end(experiment)
    queue().shutdown()
    assert read_status(experiment).state == "done"
    at.run()
    assert not at.exception and "sensitivity" in figures(at)
    assert found(root, "narrow", LAYERS, share=0.5).finished


def test_the_guided_tour_leads_from_stop_to_stop(app):
    app.query_params["tour"] = "true"
    at = app.run()
    for page, following in pairwise(tour.STOPS):
        at = on_page(at, page)
        assert not at.exception
        number = tour.STOPS.index(page) + 1
        assert t(f"tour.{page}", number=number, count=len(tour.STOPS)) in words(at)
        assert t("tour.next", page=t(f"{following}.title")) in [link.value for link in at.page_link]
    at.toggle(key="tour").set_value(False).run()
    assert "Stop" not in words(at)
