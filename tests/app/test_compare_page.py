"""The Compare page: a row for every folder, the open one at hand, damaged and incomparable ones named."""

import json
import shutil
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from pruning.experiment import Experiment
from pruning.files import write_json
from pruning.planning.allocation import allocate_global
from pruning.planning.protection import Protection
from pruning.runs.status import RUNNING, JobStatus, this_process, write_status
from ui.translation import t

from .conftest import ROOT, figures, on_page

BASIS = {"dataset": "text", "corpus_sha256": "a" * 64, "python": "3.11", "seq_len": 16, "windows": 4, "predicted_tokens": 60}


def add_cut(root, name: str, ratio: float, perplexity: float, **basis) -> Experiment:
    """A copy of the measured experiment `first` with a plan and the figures of a cut."""
    shutil.copytree(root / "first", root / name)
    experiment = Experiment.open(root, name)
    table = experiment.read_table()
    plan = allocate_global(table, ratio, Protection.resolve(32), settings={"pruning_ratio": ratio, "strategy": "global"})
    experiment.write_plan(plan, table)
    experiment.write_settings(replace(experiment.settings, **(plan.settings | {"experiment_name": name})))
    experiment.update_metrics(
        basis=BASIS | basis,
        parameters={"before": plan.shape.parameters, "after": plan.shape_after.parameters},
        ratio={"target": ratio, "target_basis": "model", "actual": plan.actual_ratio},
        perplexity={"before": {"text": 17.0}, "after": {"text": perplexity}},
    )
    samples = {"format_version": 1, "prompt": "x", "before": "whole", "after": f"written by {name}"}
    write_json(experiment.path("samples.json"), samples)
    return experiment


@pytest.fixture
def root(measured_root, tmp_path):
    """Three experiments: `first`, measured, and two that were cut."""
    shutil.copytree(measured_root, tmp_path / "experiments")
    add_cut(tmp_path / "experiments", "a", 0.1, 19.0)
    add_cut(tmp_path / "experiments", "b", 0.2, 23.0)
    return tmp_path / "experiments"


@pytest.fixture
def app_at(root, monkeypatch) -> AppTest:
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(root))
    at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    at.query_params["experiment"] = "a"
    return at


def shown(at: AppTest):
    assert not at.exception
    return at.dataframe[0].value.set_index("name")


def test_with_no_experiments_a_link_leads_to_importance(app):
    assert [link.value for link in on_page(app, "compare").page_link] == [t("importance.title")]


def test_every_folder_is_a_row_with_what_its_files_hold(app_at, root):
    table = shown(on_page(app_at, "compare"))
    assert set(table.index) == {"first", "a", "b"}
    metrics = Experiment.open(root, "b").metrics()
    assert table.loc["b", "parameters"] == metrics["parameters"]["after"]
    assert table.loc["b", "perplexity_after"] == 23 and table.loc["b", "ratio_actual"] == metrics["ratio"]["actual"]
    assert table.loc["first", "state"] == t("compare.state.measured") and table.loc["b", "protected"] == "0-2,30-31"


def test_an_experiment_made_elsewhere_appears_in_the_next_run(app_at, root):
    at = on_page(app_at, "compare")
    add_cut(root, "made-elsewhere", 0.3, 30.0)
    assert "made-elsewhere" in shown(at.run()).index


def test_a_damaged_experiment_is_named_and_the_page_goes_on(app_at, root):
    (root / "b" / "metrics.json").write_text("{")
    at = on_page(app_at, "compare")
    assert shown(at).loc["b", "state"] == t("compare.state.damaged")
    assert any(warning.value.startswith("b") and "cannot be read" in warning.value for warning in at.warning)
    assert "pareto" in figures(at)


def test_perplexities_on_another_text_bring_a_warning(app_at, root):
    assert not on_page(app_at, "compare").warning
    add_cut(root, "other-python", 0.3, 30.0, corpus_sha256="b" * 64)
    [warning] = app_at.run().warning
    assert t("compare.basis_differs") in warning.value and "other-python" in warning.value and "bbbbbbbb" in warning.value


def test_charts_hold_the_experiments_that_were_cut(app_at):
    drawn = figures(on_page(app_at, "compare"))
    names = {point[0] for trace in drawn["pareto"].data if trace.meta["kind"] == "experiment" for point in trace.customdata}
    assert names == {"a", "b"}
    [lines] = drawn["parallel"].data
    assert len(lines.dimensions[-1]["values"]) == 2


def test_two_in_detail(app_at):
    at = on_page(app_at, "compare")
    first, second = (box for box in at.selectbox if box.label in (t("compare.pair.first"), t("compare.pair.second")))
    assert first.value == "a"  # the open one
    second.set_value("b").run()
    settings = next(frame.value for frame in at.dataframe if "setting" in frame.value)
    assert ["pruning_ratio", "0.1", "0.2"] in settings.to_numpy().tolist()
    assert {"written by a", "written by b"} <= {code.value for code in at.code}
    assert "pair_difference" in figures(at)


def test_a_text_of_another_make_is_said_in_a_sentence(app_at, root):
    (root / "b" / "samples.json").write_text('{"format_version": 1}')
    at = on_page(app_at, "compare")
    next(box for box in at.selectbox if box.label == t("compare.pair.second")).set_value("b").run()
    assert not at.exception
    [error] = at.error
    assert "samples.json cannot be read" in error.value


def test_renaming_takes_folder_file_and_link_along(app_at, root):
    at = on_page(app_at, "compare")
    at.text_input(key="new_name:a").set_value("better")
    at.button(key="rename_do").click().run()
    assert set(shown(at).index) == {"first", "better", "b"}
    assert Experiment.open(root, "better").settings.experiment_name == "better"
    assert at.query_params["experiment"] in ("better", ["better"])


@pytest.mark.parametrize(("name", "words"), [("b", "already something named"), ("../x", "cannot be a folder name")])
def test_an_impossible_name_is_said_in_a_sentence(app_at, root, name, words):
    at = on_page(app_at, "compare")
    at.text_input(key="new_name:a").set_value(name)
    at.button(key="rename_do").click().run()
    assert set(shown(at).index) == {"first", "a", "b"}
    [error] = at.error
    assert words in error.value


def test_deleting_asks_first(app_at, root):
    at = on_page(app_at, "compare")
    at.button(key="delete").click().run()
    assert (root / "a").is_dir()
    at.button(key="delete_keep").click().run()
    assert (root / "a").is_dir()
    at.button(key="delete").click().run()
    at.button(key="delete_do").click().run()
    assert set(shown(at).index) == {"first", "b"} and not (root / "a").exists()
    assert "experiment" not in at.query_params


def test_an_experiment_that_is_worked_on_is_neither_renamed_nor_deleted(app_at, root):
    at = on_page(app_at, "compare")
    write_status(Experiment.open(root, "a"), JobStatus("prune", RUNNING, process=this_process()))
    at.text_input(key="new_name:a").set_value("better")
    at.button(key="rename_do").click().run()
    assert "worked on" in at.error[0].value
    at.button(key="delete").click().run()
    at.button(key="delete_do").click().run()
    assert "worked on" in at.error[0].value
    assert (root / "a").is_dir() and json.loads((root / "a" / "job.json").read_text())["state"] == "running"
