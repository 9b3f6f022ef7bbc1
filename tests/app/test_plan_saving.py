"""What the button "save the plan" writes: all of it or nothing, and never under the hands of a job."""

import pytest

from pruning.errors import PruningError
from pruning.experiment import Experiment, list_experiments
from pruning.files import locked
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.planner import plan_from_settings
from pruning.process import this_process
from pruning.runs import status
from pruning.settings import resolve
from tests.planning.examples import random_table, small_config, small_shape
from ui.plan import saving
from ui.workspace import Measured

TABLE = random_table(small_shape())


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    made = Experiment.create(tmp_path, "run")
    header = CheckpointHeader(tmp_path, small_config(), {}, ())
    header.__dict__["fingerprint"] = TABLE.source.get("fingerprint")  # of a model without weights
    made.write_model(header, {})
    made.write_table(TABLE)
    return made


def save(experiment: Experiment) -> Experiment:
    planned = plan_from_settings(TABLE, resolve({"base_model": "demo", "pruning_ratio": 0.2, "protected_layers": "none"}))
    return saving._save(Measured(experiment, TABLE), planned)


@pytest.mark.parametrize(("kind", "is_refused"), [("prune", True), ("try", False)])
def test_a_job_that_gets_the_lock_before_the_button_has_the_experiment(experiment, monkeypatch, kind, is_refused):
    def late(folder):
        status.write_status(experiment, status.JobStatus(kind, status.RUNNING, process=this_process()))
        return locked(folder)

    monkeypatch.setattr(status, "locked", late)
    before = experiment.settings
    if is_refused:
        with pytest.raises(PruningError, match="is being worked on"):
            save(experiment)
    else:
        assert save(experiment) == experiment
    assert experiment.is_planned != is_refused and (experiment.settings == before) == is_refused


def test_beside_a_cut_one_a_new_one_appears_with_its_plan_or_not_at_all(experiment, monkeypatch):
    experiment.path("pruning_analysis.csv").write_text("module\n")
    made = save(experiment)
    assert (made.name, made.settings.pruning_ratio, made.settings.experiment_name) == ("run-2", 0.2, "run-2")
    assert (made.read_plan().kept.sum() < len(TABLE.importance)) and not experiment.is_planned

    def full(*_):
        raise PruningError("disk_write", path="plan.json", reason="No space left on device")

    monkeypatch.setattr(Experiment, "change_settings", lambda self, **changes: full())  # the last that is written
    with pytest.raises(PruningError):
        save(experiment)
    assert {each.name for each in list_experiments(experiment.folder.parent)} == {"run", "run-2"}
