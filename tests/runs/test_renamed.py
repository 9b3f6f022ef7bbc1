"""An experiment whose text lies in its own folder: under another name it goes on as the same, and nothing is measured again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.experiment import TABLE_FILE, Experiment
from pruning.files import read_json
from pruning.runs import steps, trials
from pruning.runs.recovery_settings import OF_TRAINING
from pruning.runs.requests import settings_asked_for
from pruning.runs.sensitivity import results
from pruning.runs.sensitivity.results import INSIDE
from pruning.runs.status import create_experiment, read_status, write_status
from pruning.runs.trials import JUDGED_BY, Waiting
from pruning.settings import plan_settings
from tests.requests import ask_by_settings, ask_to_learn, ask_to_try
from tests.runs.quick_runs import quick_settings, write_text


def pasted(root: Path, name: str, model: Path) -> Experiment:
    """An experiment as the app makes it of pasted text, which it is judged by too."""
    text = root / name / "calibration.txt"
    settings = quick_settings(model, text, layer_importance_samples=2, finetune_corpus=str(text))
    content = write_text(root.parent / "values.txt").read_text()
    experiment = create_experiment(root, name, settings, "measure", files={"calibration.txt": content})
    write_status(experiment, replace(read_status(experiment), state="done"))  # no job waits for it
    return experiment


def log_of(experiment: Experiment) -> str:
    return experiment.path(read_status(experiment).log).read_text()


def question(experiment: Experiment) -> results.Question:
    return results.question(experiment, experiment.read_table(), INSIDE)


def judged_by(experiment: Experiment) -> dict:
    return experiment.settings.of(JUDGED_BY)


@pytest.fixture(scope="module")
def used(tmp_path_factory, model_folder) -> Experiment:
    """One that was measured, tried and asked for all that can be asked; then its root was moved."""
    experiment = pasted(tmp_path_factory.mktemp("log") / "at_first", "used", model_folder)
    steps.run("measure", experiment)
    ask_to_learn(experiment, question(experiment))
    steps.run("learn", experiment)
    ask_to_try(experiment, [Waiting(plan_settings(experiment.settings))], judged_by(experiment))
    steps.run("try", experiment)
    ask_by_settings(experiment, "recover", experiment.settings)
    shutil.move(experiment.folder.parent, experiment.folder.parent.with_name("later"))
    return Experiment(experiment.folder.parent.with_name("later") / "used")


@pytest.fixture
def renamed(used, tmp_path) -> Experiment:
    """A copy of it under another name and another root."""
    shutil.copytree(used.folder, tmp_path / "moved" / "copy")
    return Experiment.open(tmp_path / "moved", "copy").rename("renamed")


def test_no_file_names_the_folder_that_it_lies_in(used):
    for path in used.folder.rglob("*.json"):
        if path.name != "job.json":
            assert "at_first" not in path.read_text(), path.name
    assert "at_first/used" not in used.path("description.txt").read_text()


def test_what_was_measured_is_known_under_another_name(renamed):
    table = renamed.path(TABLE_FILE).stat().st_mtime_ns
    steps.run("measure", renamed)
    assert "groups are measured already" in log_of(renamed) and "layers are measured already" in log_of(renamed)
    assert renamed.path(TABLE_FILE).stat().st_mtime_ns == table


def test_what_was_found_and_tried_is_known_under_another_name(renamed):
    assert results.read_result(renamed, question(renamed)).finished
    known = trials.find_by_settings(
        trials.read_trials(renamed), renamed.read_table(), plan_settings(renamed.settings), judged_by(renamed)
    )
    assert known.perplexity > 0


def test_what_was_asked_names_the_text_where_it_is(renamed):
    text = str(renamed.path("calibration.txt"))
    assert settings_asked_for(renamed, "recover")["corpus"] == renamed.settings.corpus == text
    asked = settings_asked_for(renamed, "recover")
    assert {name: asked[name] for name in OF_TRAINING} == renamed.settings.of(OF_TRAINING)


def test_a_finding_named_by_the_old_path_is_still_found(used, renamed):
    """As files were written before paths were relative."""
    [new] = renamed.path("sensitivity").glob("inside-*.json")
    content = read_json(new, 1)
    for name in ("corpus", "eval_corpus"):
        content["request"]["basis"][name] = "/gone/old/calibration.txt"
    content["request"]["basis"]["table"]["calibration"]["corpus"] = "/gone/old/calibration.txt"
    new.with_name("inside-0123456789ab.json").write_text(json.dumps(content))
    new.unlink()
    assert results.read_result(renamed, question(renamed)).finished
    assert results.read_result(renamed, results.question(renamed, renamed.read_table(), INSIDE, layer=0)) is None


def test_what_is_taken_over_from_another_names_the_own_text(renamed, model_folder):
    second = pasted(renamed.folder.parent, "second", model_folder)
    steps.run("measure", second)
    assert "measured the same way in renamed" in log_of(second)
    own = str(second.path("calibration.txt"))
    assert second.read_table().source["calibration"]["corpus"] == own
    assert second.read_layer_importance().source["calibration"]["corpus"] == own
