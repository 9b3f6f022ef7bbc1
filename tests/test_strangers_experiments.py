"""An experiment folder that came from somebody else reads, writes and removes nothing outside itself."""

import json
import os
from pathlib import Path

import pytest

from pruning.__main__ import main
from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.model.training import _last_checkpoint
from pruning.runs import steps
from pruning.runs.requests import Request
from pruning.runs.status import claim
from tests.runs.quick_runs import new_experiment, quick_settings, save_tiny_model, write_text


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    settings = quick_settings(save_tiny_model(tmp_path / "tiny"), write_text(tmp_path / "text.txt"))
    return new_experiment(tmp_path / "log", "evil", settings)


@pytest.fixture
def outside(tmp_path) -> Path:
    folder = tmp_path / "outside"
    (folder / "checkpoint-500").mkdir(parents=True)
    (folder / "mine.json").write_text("{}")
    return folder


def test_what_is_to_go_after_a_recovery_is_of_the_experiment(experiment, outside):
    taken = experiment.path(".recovered.taken")
    taken.mkdir()
    names = [str(outside), "../../outside/mine.json", "description.txt", "adapter"]
    (taken / "gone.json").write_text(json.dumps({"format_version": 1, "names": names}))
    experiment.path("adapter").mkdir()
    claim(experiment, Request("measure"))
    assert (outside / "mine.json").exists() and (outside / "checkpoint-500").exists() and experiment.has("description.txt")
    assert not experiment.has("adapter") and not taken.exists()


def test_links_lead_neither_reading_nor_removing_outside(experiment, outside, tmp_path):
    experiment.path("recovery").mkdir()
    experiment.path("recovery", "checkpoints").symlink_to(outside)
    assert _last_checkpoint(experiment.path("recovery")) is None and (outside / "checkpoint-500").exists()
    experiment.path("plans").symlink_to(outside)
    with pytest.raises(PruningError):
        experiment.forget_named_plan("mine")
    assert (outside / "mine.json").exists()
    experiment.path("s").symlink_to(outside / "mine.json")
    description = experiment.description()
    description["settings"]["corpus"] = {"inside": "s"}
    experiment.path("description.txt").write_text(json.dumps(description))
    with pytest.raises(PruningError, match="leads out"):
        experiment.settings  # noqa: B018


def test_an_experiment_that_is_a_link_is_deleted_as_one(experiment, tmp_path):
    elsewhere = tmp_path / "disk"
    os.rename(experiment.folder, elsewhere)
    experiment.folder.symlink_to(elsewhere)
    Experiment.open(tmp_path / "log", "evil").delete()
    assert not os.path.lexists(experiment.folder) and (elsewhere / "description.txt").exists()


def test_a_run_that_goes_on_writes_its_table_only_where_this_command_line_says(experiment, tmp_path):
    steps.run("measure", experiment)
    precious = tmp_path / "settings.json"
    precious.write_text("precious")
    experiment.change_settings(save_table_path=str(precious))
    where = [f"--output_root={tmp_path / 'log'}", "--experiment_name=evil", "--resume"]
    assert main(["importance", *where]) == 0
    assert precious.read_text() == "precious"
    assert main(["importance", *where, f"--save_table_path={tmp_path / 'table.json'}"]) in (0, 2)
