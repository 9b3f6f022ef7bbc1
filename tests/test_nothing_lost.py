"""What was made stays: after a late failure, when another takes its place and fails, when two want one name at once."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pruning import files
from pruning.__main__ import main
from pruning.errors import PruningError
from pruning.experiment import Experiment, list_experiments, sweep
from pruning.files import write_json
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.plan import PruningPlan
from pruning.process import this_process
from pruning.runs.requests import Request
from pruning.runs.status import claim, create_experiment
from pruning.settings import Settings
from tests.planning.examples import random_table, small_config, small_shape
from tests.processes import FORK, in_a_process_of_its_own
from tests.runs.quick_runs import plan_fault, quick_flags


def measured(root: Path, name: str = "run") -> Experiment:
    experiment = Experiment.create(root, name, prepare=lambda new: new.write_settings(Settings(pruning_ratio=0.5)))
    header = CheckpointHeader(root, small_config(), {}, ())
    header.__dict__["fingerprint"] = "abc"  # of a model without weights
    experiment.write_model(header, {})
    experiment.write_table(random_table(small_shape()))
    return experiment


def hidden(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*")]


# a run that fails -----------------------------------------------------------------------------------------------------


def test_a_failure_after_the_cut_keeps_the_checked_model_and_the_log(source, tmp_path, capsys):
    plan = PruningPlan.keep_all(CheckpointHeader.read(source[0]).shape)
    kept = plan.kept.copy()
    kept[plan.groups.slice_of(1, "mlp")][:3] = False
    write_json(tmp_path / "plan.json", replace(plan, kept=kept).to_json())
    flags = quick_flags(*source, tmp_path, eval_windows=2)
    diverging = ["--finetune", "--finetune_lr=1e30", "--finetune_samples=8", "--finetune_steps=8", "--finetune_eval_steps=1"]
    assert main(["apply", *flags, f"--plan={tmp_path / 'plan.json'}", "--save_model", *diverging]) == 2
    assert "The loss of training" in capsys.readouterr().err
    experiment = Experiment.open(tmp_path, "run")
    assert experiment.is_saved and experiment.metrics()["export_check"]["hf"]["max_abs_diff"] < 1e-4
    assert "Failed: The loss of training" in next(experiment.folder.glob("*/training.log")).read_text()


@pytest.mark.parametrize("command", ["global", "apply"])
def test_an_overwriting_run_that_makes_nothing_gives_the_old_one_back(source, tmp_path, capsys, command):
    old = measured(tmp_path)
    before = {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()}
    write_json(tmp_path / "plan.json", PruningPlan.keep_all(CheckpointHeader.read(source[0]).shape).to_json())
    flags = [
        flag
        for flag in quick_flags(*source, tmp_path, pruning_ratio=0.03)
        if "test_before" not in flag and "eval_corpus" not in flag
    ]
    file = [f"--plan={tmp_path / 'plan.json'}"] if command == "apply" else []
    assert main([command, *flags, *file, f"--eval_corpus={tmp_path / 'gone.txt'}", "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "gone.txt is not there" in said and "the experiment that was to be replaced is kept as it was" in said
    assert before == {path: path.read_bytes() for path in old.folder.rglob("*") if path in before}
    assert [each.name for each in list_experiments(tmp_path)] == ["run"] and hidden(tmp_path) == []


@pytest.mark.parametrize("do", ["cancel", "break"])
def test_one_that_is_stopped_or_breaks_keeps_its_log_beside_the_old_one(source, tmp_path, do):
    old = measured(tmp_path)
    plan_fault(old, "step load", do)
    assert (
        in_a_process_of_its_own("global", *quick_flags(*source, tmp_path, pruning_ratio=0.03), "--overwrite")
        == {"cancel": 130, "break": 1}[do]
    )
    assert old.read_table() and old.settings.pruning_ratio == 0.5
    assert {"cancel": "Cancelled.", "break": "a bug"}[do] in next(old.folder.glob("*/training.log")).read_text()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("step", ["load", "gradients"])
def test_killed_before_it_measured_groups_the_old_one_is_back_at_the_next_look(source, tmp_path, step):
    old = measured(tmp_path)
    plan_fault(old, f"step {step}", "kill")
    assert (
        in_a_process_of_its_own("global", *quick_flags(*source, tmp_path, pruning_ratio=0.03), "--overwrite") == -signal.SIGKILL
    )
    assert [each.read_table() is not None for each in list_experiments(tmp_path)] == [True]
    assert old.settings.pruning_ratio == 0.5 and hidden(tmp_path) == []


def test_killed_once_it_has_measured_it_is_the_new_one_and_goes_on(source, tmp_path):
    experiment = measured(tmp_path)
    plan_fault(experiment, "step selection", "kill")
    assert (
        in_a_process_of_its_own("global", *quick_flags(*source, tmp_path, pruning_ratio=0.03), "--overwrite") == -signal.SIGKILL
    )
    assert hidden(tmp_path) == []  # it went when the table was there, for a model is to be written next
    assert in_a_process_of_its_own("global", *quick_flags(*source, tmp_path, pruning_ratio=0.03), "--resume") == 0
    assert experiment.is_cut and experiment.settings.num_samples == 6


def test_a_baseline_takes_over_once_it_is_done(source, tmp_path):
    experiment = measured(tmp_path)
    flags = [flag for flag in quick_flags(*source, tmp_path) if flag != "--test_after_prune"]
    assert main(["global", *flags, "--overwrite"]) == 0
    assert "before" in experiment.metrics()["perplexity"] and not experiment.is_measured and hidden(tmp_path) == []


# several at once ------------------------------------------------------------------------------------------------------


def at_once(do: Callable[[int], object], count: int = 6) -> list:
    """What `do(number)` gives in so many processes that begin together and live until all are done: its value, or the code of
    its error.
    """
    begin, end = FORK.Barrier(count), FORK.Barrier(count)

    def run(number: int, sender) -> None:
        begin.wait(60)
        try:
            result = do(number)
        except PruningError as error:
            result = error.code
        sender.send(result)
        end.wait(60)
        os._exit(0)

    pipes = [FORK.Pipe(duplex=False) for _ in range(count)]
    processes = [FORK.Process(target=run, args=(number, pipes[number][1])) for number in range(count)]
    for process in processes:
        process.start()
    results = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join(60)
    return results


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("before", ["nothing", "something of no worth", "a table"])
def test_one_of_those_who_want_a_name_gets_it(tmp_path, overwrite, before):
    if before == "a table":
        measured(tmp_path)
    elif before != "nothing":
        Experiment.create(tmp_path, "run")

    def create(number: int) -> str:
        return create_experiment(tmp_path, "run", Settings(pruning_ratio=(number + 1) / 10), "global", overwrite).name

    results = at_once(create)
    if before == "a table" and not overwrite:
        assert results == ["experiment_exists"] * 6
        return
    assert sorted(results) == ["experiment_busy"] * 5 + ["run"]
    [experiment] = list_experiments(tmp_path)
    new = (results.index("run") + 1) / 10
    winner = 0.5 if before == "a table" else new  # it made nothing, and is gone: the old one is back
    assert experiment.description()["settings"]["pruning_ratio"] == winner and hidden(tmp_path) == []


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_name_that_another_process_has_is_refused_by_the_command_line(source, tmp_path, capsys, flags):
    # As the app does, before it submits.
    experiment = create_experiment(tmp_path, "run", Settings(pruning_ratio=0.5), "measure")
    for more in (flags, ["--resume"]):
        assert main(["global", *quick_flags(*source, tmp_path, pruning_ratio=0.03), *more]) == 2
        assert "'run' is being worked on by another job" in capsys.readouterr().err
    assert experiment.settings.pruning_ratio == 0.5


def test_one_job_at_a_time_begins_on_an_experiment(tmp_path):
    experiment = measured(tmp_path)
    results = at_once(lambda number: claim(experiment, Request("export")) or "got it")
    assert sorted(results) == ["experiment_busy"] * 5 + ["got it"]


def test_what_is_made_at_once_gets_a_name_each(tmp_path):
    experiment = measured(tmp_path)
    assert sorted(at_once(lambda number: experiment.branch().name)) == [f"run-{n}" for n in range(2, 8)]
    assert all(each.read_table() and each.settings.experiment_name == each.name for each in list_experiments(tmp_path))
    plan = PruningPlan.keep_all(small_shape(), fingerprint="abc")
    names = at_once(lambda number: experiment.keep_plan("plan", replace(plan, settings={"of": number})))
    assert sorted(names) == ["plan", *(f"plan-{n}" for n in range(2, 7))] == experiment.named_plans()
    assert [experiment.read_named_plan(name).settings["of"] for name in names] == list(range(6))
    assert hidden(tmp_path) == []


def test_one_of_those_renamed_to_a_name_gets_it(tmp_path):
    for number in range(6):
        measured(tmp_path, f"run{number}").update_metrics(perplexity={"before": {"text": number}})
    results = at_once(lambda number: Experiment.open(tmp_path, f"run{number}").rename("new").name)
    assert sorted(results) == ["experiment_taken"] * 5 + ["new"]
    assert len(list_experiments(tmp_path)) == 6
    assert Experiment.open(tmp_path, "new").metrics()["perplexity"]["before"]["text"] == results.index("new")


@pytest.mark.parametrize(
    "make", [lambda path, text: path.write_text(text), lambda path, text: (path / text).mkdir(parents=True)]
)
def test_what_was_copied_out_first_stays(tmp_path, make):
    def copy(number: int) -> str:
        with files.written_whole(tmp_path / "model", 10, replace=False) as part:
            make(part, str(number))
        return "written"

    results = at_once(copy)
    assert sorted(results) == ["target_exists"] * 5 + ["written"]
    model = tmp_path / "model"
    assert (model.read_text() if model.is_file() else os.listdir(model)[0]) == str(results.index("written"))
    assert os.listdir(tmp_path) == ["model"]


# what is left by processes that are gone ------------------------------------------------------------------------------


def test_leftovers_go_and_what_a_living_process_has_stays(tmp_path):
    pid, started = this_process()
    ours = files.hidden_name(tmp_path / "run", files.PART)
    gone = tmp_path / f".run.part-{pid}-{started + 1000:.2f}-0a1b2c3d"  # the pid is used again
    of_earlier_versions = tmp_path / ".run.deleted-0a1b2c3d"
    foreign = [tmp_path / name for name in (".git", ".run.part-12", ".DS_Store", ".run.part-1-x-0a1b2c3d")]
    for folder in (ours, gone, of_earlier_versions, *foreign):
        folder.mkdir()
        (folder / "file").touch()
    assert list_experiments(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == sorted([ours, *foreign])


@pytest.mark.parametrize("look", [list_experiments, sweep, lambda root: Experiment.open(root, "run")])
def test_an_experiment_that_stood_aside_comes_back_where_there_is_none(tmp_path, look):
    experiment = measured(tmp_path)
    os.rename(experiment.folder, tmp_path / ".run.aside-1-1.00-0a1b2c3d")  # killed between two renames
    look(tmp_path)
    assert experiment.read_table() and hidden(tmp_path) == []


def test_a_folder_of_something_else_is_not_exchanged_for_what_stood_aside(tmp_path):
    os.rename(measured(tmp_path).folder, tmp_path / ".run.aside-1-1.00-0a1b2c3d")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert list_experiments(tmp_path) == []
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_what_somebody_works_on_is_not_exchanged_for_what_it_replaced(tmp_path):
    """A run that was killed and is gone on with: the one that it is to replace waits."""
    create_experiment(tmp_path, "run", Settings(pruning_ratio=0.1), "global")
    os.rename(measured(tmp_path, "old").folder, tmp_path / ".run.aside-1-1.00-0a1b2c3d")
    assert [each.settings.pruning_ratio for each in list_experiments(tmp_path)] == [0.1]
    assert hidden(tmp_path) == [".run.aside-1-1.00-0a1b2c3d"]


# the disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="other systems take two renames")
def test_folders_change_places_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchange(tmp_path / "a", tmp_path / "b")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*/*"))] == ["a/b", "b/a"]
    assert not files._exchange(tmp_path / "a", tmp_path / "c")


def _written(root: Path) -> None:
    files.write_whole(root / "plan.json", "text")


def _folder_written(root: Path) -> None:
    with files.written_whole(root / "model", 10) as part:
        (part / "more").mkdir(parents=True)
        (part / "model.safetensors").write_text("weights")
        (part / "more" / "README.md").write_text("card")


def _created(root: Path) -> None:
    create_experiment(root, "run", Settings(pruning_ratio=0.1), "global", files={"pasted.txt": "text"})


@pytest.mark.parametrize("write", [_written, _folder_written, _created])
def test_what_appears_is_on_the_disk_first_and_its_folder_after(tmp_path, monkeypatch, write):
    synced: list[int] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def watched_rename(source, target) -> None:
        entries = [Path(source), *Path(source).rglob("*")]
        assert {entry.stat().st_ino for entry in entries if entry.name != "job.json"} <= set(synced), source
        rename(source, target)
        synced.clear()

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(os, "replace", watched_rename)
    write(tmp_path)
    assert tmp_path.stat().st_ino in synced  # after the last rename
