"""What pages show of an experiment: the one that comes first, one that was cut, one whose files were damaged or edited."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pruning.experiment import Experiment
from pruning.files import write_json
from pruning.planning.allocation import allocate_global
from pruning.planning.planner import plan_from_settings
from pruning.planning.protection import Protection
from pruning.runs.jobs import queue
from pruning.runs.status import JobStatus, this_process, write_status
from tests.runs.quick_runs import wait_for_end
from ui import workspace
from ui.translation import t

from .conftest import ROOT, on_page
from .test_texts import TEXTS

PAGES = ("model", "importance", "plan", "prune", "recover", "compare", "export", "learn")
WIDGETS = ("selectbox", "multiselect", "text_input", "text_area", "number_input", "slider", "toggle", "checkbox", "button")


@pytest.fixture
def own_copy(measured_root, tmp_path) -> Path:
    """A copy of the measured experiment that a test may damage."""
    shutil.copytree(measured_root, tmp_path / "experiments")
    return tmp_path / "experiments"


def links(at: AppTest) -> list[str]:
    return [link.value for link in at.page_link]


@pytest.mark.parametrize("page", ["plan", "prune", "export"])
def test_with_nothing_measured_a_link_leads_to_importance(app, page):
    assert links(on_page(app, page)) == [t("importance.title")]


@pytest.mark.parametrize(("page", "first"), [("prune", "plan"), ("export", "prune")])
def test_with_nothing_planned_or_cut_a_link_leads_to_the_step_before(app_with_table, page, first):
    assert links(on_page(app_with_table, page)) == [t(f"{first}.title")]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_a_cut_experiment_draws_with_labels_and_sentences(app_of, cut_root, page):
    at = on_page(app_of(cut_root), page)
    assert not at.exception and not at.error
    widgets = [widget for kind in WIDGETS for widget in getattr(at, kind)]
    assert all(widget.label.strip() for widget in widgets)
    texts = [element.value for kind in ("title", "subheader", "markdown", "caption", "info") for element in getattr(at, kind)]
    shown = texts + [widget.label for widget in widgets] + [metric.label for metric in at.metric]
    assert shown and not [text for text in shown if text in TEXTS or re.search(r"\{\w+", text)]


def test_prune_page_shows_what_the_file_of_metrics_holds(app_of, cut_root):
    metrics = Experiment.open(cut_root, "first").metrics()
    shown = {metric.label: metric.value for metric in on_page(app_of(cut_root), "prune").metric}
    assert shown[t("prune.parameters.after")] == f"{metrics['parameters']['after']:,}"
    for stage in ("before", "after"):
        [perplexity] = metrics["perplexity"][stage].values()
        assert shown[t(f"prune.perplexity.{stage}")] == f"{perplexity:.2f}"


def test_rounds_are_offered_for_a_plan_of_the_settings_only(app_of, own_copy):
    experiment = Experiment.open(own_copy, "first")
    table, settings = experiment.read_table(), replace(experiment.settings, pruning_ratio=0.1, iterative_steps=3)
    experiment.write_settings(settings)
    experiment.write_plan(plan_from_settings(table, settings).plan, table)
    at = on_page(app_of(own_copy), "prune")
    rounds = at.number_input(key="iterative_steps")
    assert not rounds.disabled and t("prune.rounds.fixed") not in [caption.value for caption in at.caption]
    rounds.set_value(3).run()
    from_a_file = plan_from_settings(table, replace(settings, pruning_ratio=0.2)).plan
    experiment.write_plan(replace(from_a_file, settings={}), table)
    at.run()
    rounds = at.number_input(key="iterative_steps")
    assert rounds.disabled and rounds.value == 1 and t("prune.rounds.fixed") in [caption.value for caption in at.caption]


def test_a_plan_for_an_experiment_that_was_cut_goes_beside_it(app_of, cut_root, tmp_path):
    shutil.copytree(cut_root, tmp_path / "experiments")
    at = on_page(app_of(tmp_path / "experiments"), "plan")
    at.slider(key="ratio").set_value(0.2).run()
    at.button(key="save_plan").click().run()
    assert not at.exception and at.query_params["experiment"] == "first-2"
    new = Experiment.open(tmp_path / "experiments", "first-2")
    assert new.read_plan().settings["pruning_ratio"] == 0.2
    assert not new.has("model") and Experiment.open(tmp_path / "experiments", "first").has("model", "plan.json")


@pytest.mark.parametrize("ratio", [0.004, 0.97, 0.2853])
def test_a_saved_ratio_between_or_beyond_the_slider_s_steps_still_opens(app_of, own_copy, ratio):
    """The command line takes any ratio above 0 and below 1."""
    experiment = Experiment.open(own_copy, "first")
    table = experiment.read_table()
    plan = allocate_global(table, 0.2, Protection.resolve(32), settings={"pruning_ratio": ratio})
    experiment.write_plan(plan, table)
    experiment.write_settings(replace(experiment.settings, pruning_ratio=ratio))
    at = on_page(app_of(own_copy), "plan")
    assert not at.exception
    assert at.slider(key="ratio").value == pytest.approx(min(max(ratio, 0.01), 0.95))


@pytest.mark.parametrize("value", ["7", "abc", "-1"])
def test_a_link_with_an_impossible_ratio_opens_the_plan_page(app_with_table, value):
    app_with_table.query_params["ratio"] = value
    at = on_page(app_with_table, "plan")
    assert not at.exception and at.slider(key="ratio").value == 0.25


@pytest.mark.parametrize(
    ("file", "content", "page", "words"),
    [
        ("global_group_table.csv", "layer_idx,group_type\n0,attention\n", "plan", "lacks the column 'group_idx'"),
        ("global_group_table.csv", "", "importance", "cannot be read"),
        ("plan.json", "{", "prune", "cannot be read"),
        ("plan.json", '{"format_version": 99}', "prune", "format version 99"),
        ("plan.json", '{"format_version": 1, "layers": []}', "prune", "one entry per layer is needed"),
        ("plan.json", '{"format_version": 1, "fingerprint": "0123456789abcdef"}', "prune", "made for another model"),
        ("description.txt", "{", "model", "cannot be read"),
        ("job.json", "{", "importance", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(app_of, own_copy, file, content, page, words):
    (own_copy / "first" / file).write_text(content)
    at = app_of(own_copy).run()
    if page != "model":
        at = at.switch_page(str(ROOT / "pages" / f"{page}.py")).run()
    assert not at.exception
    [sentence] = {error.value for error in at.error}
    assert words in sentence and file in sentence


def test_text_shorter_than_one_window_is_told_by_the_job(app):
    at = on_page(app, "importance")
    at.selectbox(key="corpus_kind").set_value("pasted").run()
    at.text_area(key="corpus_text").set_value("x = 1")
    at.text_input(key="new_experiment_name").set_value("short")
    at.button(key="start").click().run()
    assert not at.exception and not at.error
    experiment = Experiment.open(workspace.output_root(), "short")
    wait_for_end(experiment)
    queue().shutdown()
    at.run()
    assert not at.exception
    assert len(at.error) == 1 and "less than one window of 128" in at.error[0].value
    assert not at.button(key="start").disabled


@pytest.mark.parametrize(
    ("page", "key", "file"),
    [
        ("prune", "cut", "description.txt"),
        ("recover", "measure_cost", "recovery_cost.json"),
        ("recover", "recover_start", "request.json"),
        ("export", "pack", "request.json"),
    ],
)
def test_a_start_that_is_refused_changes_nothing(app_of, cut_root, tmp_path, page, key, file):
    """A job that began elsewhere after the page was drawn has the experiment."""
    shutil.copytree(cut_root, tmp_path / "experiments")
    experiment = Experiment.open(tmp_path / "experiments", "first")
    measured = {"settings": replace(experiment.settings, finetune=True, finetune_samples=8).as_dict(), "windows": 7}
    write_json(experiment.path("recovery_cost.json"), {"format_version": 1} | measured)
    at = on_page(app_of(tmp_path / "experiments"), page)
    if page == "export":
        at.selectbox(key="export_format").set_value("bin").run()
    elif page == "prune":
        at.number_input(key="eval_windows").set_value(9).run()
    write_status(experiment, JobStatus("measure", "running", process=this_process()))
    before = experiment.path(file).read_bytes() if experiment.has(file) else None
    at.button(key=key).click().run()
    assert not at.exception and any("first" in error.value for error in at.error)
    assert (experiment.path(file).read_bytes() if experiment.has(file) else None) == before
