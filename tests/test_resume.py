"""A run of the command line that is killed in any step and goes on with --resume leaves the files of one that was not."""

import functools
import json
import re
import signal
from pathlib import Path

import pytest

from pruning.__main__ import main
from pruning.experiment import CARD_FILE, Experiment
from pruning.runs import steps
from tests.processes import in_a_process_of_its_own
from tests.runs.quick_runs import STEPS_THAT_RUN, plan_fault, quick_flags

TIMED = {"seconds", "tried"}  # measured times


def arguments(source, root: Path, *more: str) -> list[str]:
    changes = {"layer_importance_samples": 2, "pruning_ratio": 0.03, "freeze_top_n_layers": 1}
    return ["global", *quick_flags(*source, root, **changes), "--remove_empty_layers", *more]


def contents(experiment: Experiment) -> dict[str, bytes]:
    """Every file that a run leaves, without what says when or how long, and without the root's name."""
    found = {}
    for path in sorted(experiment.folder.rglob("*")):
        name = path.relative_to(experiment.folder).as_posix()
        if not path.is_file() or re.match(r"\d{8}_\d{6}/", name) or name == "job.json":
            continue
        if name == "metrics.json":
            metrics = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMED}
            found[name] = json.dumps(metrics).encode()
        else:
            found[name] = path.read_bytes().replace(str(experiment.folder.parent).encode(), b"ROOT")
    return found


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What a run leaves that was not stopped, with and without a saved model (whose check takes a process of its own)."""

    @functools.cache
    def whole(*more: str) -> dict[str, bytes]:
        root = tmp_path_factory.mktemp("whole")
        assert in_a_process_of_its_own(*arguments(source, root, *more)) == 0
        return contents(Experiment.open(root, "run"))

    return whole


@pytest.mark.parametrize("step", STEPS_THAT_RUN)
def test_killed_in_each_step_it_goes_on_to_the_same_files(source, whole, tmp_path, step):
    experiment = Experiment.at(tmp_path, "run")
    more = ["--save_model"] if step == "save" else []
    plan_fault(experiment, f"step {step}", "kill")
    assert in_a_process_of_its_own(*arguments(source, tmp_path, *more)) == -signal.SIGKILL
    assert in_a_process_of_its_own(*arguments(source, tmp_path, *more, "--resume")) == 0
    assert contents(experiment) == whole(*more)
    if STEPS_THAT_RUN.index(step) > STEPS_THAT_RUN.index("group_table"):
        log = max(experiment.folder.glob("*/training.log"), key=lambda path: path.stat().st_mtime_ns).read_text()
        assert "measured before the run was stopped" in log and "groups are measured already" in log


def test_a_run_that_is_done_has_nothing_left_to_do(source, tmp_path):
    assert in_a_process_of_its_own(*arguments(source, tmp_path)) == 0
    before = contents(Experiment.open(tmp_path, "run"))
    assert in_a_process_of_its_own("global", f"--output_root={tmp_path}", "--experiment_name=run", "--resume") == 0
    assert contents(Experiment.open(tmp_path, "run")) == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--pruning_ratio=0.2", "--resume"], "its `pruning_ratio` was 0.03, now it is 0.2"),
        (["--resume", "--overwrite"], "`resume` and `overwrite` cannot be used together"),
    ],
)
def test_another_run_is_not_gone_on_with(source, tmp_path, capsys, more, sentence):
    plan_fault(Experiment.at(tmp_path, "run"), "step cut", "kill")
    in_a_process_of_its_own(*arguments(source, tmp_path))
    given = [flag for flag in arguments(source, tmp_path) if not any(flag.split("=")[0] in one for one in more)]
    assert main([*given, *more]) == 2
    assert sentence in capsys.readouterr().err


def test_a_packed_run_is_still_the_run_that_it_was(source, tmp_path, capsys):
    assert in_a_process_of_its_own(*arguments(source, tmp_path)) == 0
    steps.run("pack", an_experiment_that_seems_saved(tmp_path))
    assert main(["global", f"--output_root={tmp_path}", "--experiment_name=run", "--resume"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert main(["uniform", f"--output_root={tmp_path}", "--experiment_name=run", "--resume"]) == 2
    assert "its `command` was 'global', now it is 'uniform'" in capsys.readouterr().err


def an_experiment_that_seems_saved(root: Path) -> Experiment:
    experiment = Experiment.open(root, "run")
    experiment.model_folder.mkdir()
    experiment.path("model", CARD_FILE).touch()
    return experiment


def test_a_baseline_that_was_stopped_goes_on_as_one(source, tmp_path, capsys):
    plan_fault(Experiment.at(tmp_path, "run"), "step baseline", "kill")
    without_ratio = [flag for flag in arguments(source, tmp_path) if "ratio" not in flag and "after" not in flag]
    assert in_a_process_of_its_own(*without_ratio) == -signal.SIGKILL
    assert main([*without_ratio, "--resume"]) == 0
    experiment = Experiment.open(tmp_path, "run")
    assert "before" in experiment.metrics()["perplexity"] and not experiment.is_measured
    assert main([*without_ratio, "--resume", "--pruning_ratio=0.03"]) == 2
    assert "its `command` was 'baseline', now it is 'global'" in capsys.readouterr().err


def test_an_unknown_name_is_named(tmp_path, capsys):
    assert main(["global", f"--output_root={tmp_path}", "--experiment_name=gone", "--resume"]) == 2
    assert "There is no experiment 'gone' under" in capsys.readouterr().err


def test_a_name_is_needed(capsys):
    assert main(["global", "--base_model=demo", "--resume"]) == 2
    assert "`experiment_name` is required" in capsys.readouterr().err
