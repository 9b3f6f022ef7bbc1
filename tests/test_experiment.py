"""The experiment folder: names that cannot escape it, files that are never half there."""

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from pruning.errors import PruningError
from pruning.experiment import Experiment, list_experiments, write_whole
from pruning.files import locked, read_json, write_json
from pruning.planning.allocation import allocate_global
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.protection import Protection
from pruning.runs.status import RUNNING, JobStatus, this_process, write_status
from pruning.settings import Settings
from tests.planning.examples import random_table, small_config, small_shape


def described(root, name="run") -> Experiment:
    experiment = Experiment.create(root, name)
    header = CheckpointHeader(root, small_config(), {}, ())
    header.__dict__["fingerprint"] = "abc"  # of a model without weights
    experiment.write_settings(Settings(pruning_ratio=0.5))
    experiment.write_model(header, {"numpy": np.__version__})
    return experiment


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "", None, "/etc", "a/b", "a\\b", ".hidden", "a b", "x\n", "ü", "a" * 121, "a\0"]
)
def test_names_that_are_no_folder_are_refused(tmp_path, name):
    with pytest.raises(PruningError, match="cannot be a folder name"):
        Experiment.create(tmp_path, name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["llama-0.25", "A_b.c", "1", "a" * 120])
def test_names_that_are(tmp_path, name):
    assert Experiment.create(tmp_path / "prune_log", name).folder == tmp_path / "prune_log" / name


def test_an_experiment_that_exists_is_refused_and_left_alone(tmp_path):
    described(tmp_path).write_table(random_table(small_shape()))
    with pytest.raises(PruningError, match="'run' exists already"):
        Experiment.create(tmp_path, "run")
    assert Experiment.open(tmp_path, "run").settings.pruning_ratio == 0.5


def test_an_experiment_that_measured_nothing_gives_way(tmp_path):
    described(tmp_path).path("training.log").touch()
    assert [path.name for path in Experiment.create(tmp_path, "run").folder.iterdir()] == ["description.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "notes").write_text("a file")
    for name in ("thesis", "notes"):
        with pytest.raises(PruningError, match="is not an experiment, so it is not replaced"):
            Experiment.create(tmp_path, name, overwrite)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_overwriting_starts_empty(tmp_path):
    described(tmp_path).write_table(random_table(small_shape()))
    created = Experiment.create(tmp_path, "run", overwrite=True)
    assert [path.name for path in created.folder.iterdir()] == ["description.txt"]
    assert created.settings == Settings(experiment_name="run")


def test_an_unknown_experiment_is_named(tmp_path):
    with pytest.raises(PruningError, match="no experiment 'run'"):
        Experiment.open(tmp_path, "run")


def test_table_and_plan_come_back(tmp_path):
    experiment, table = described(tmp_path), random_table(small_shape())
    plan = allocate_global(table, 0.25, Protection.resolve(4), settings={"pruning_ratio": 0.25})
    experiment.write_table(table)
    experiment.write_plan(plan, table)
    reopened = Experiment.open(tmp_path, "run")
    assert reopened.shape() == small_shape()
    np.testing.assert_array_equal(reopened.read_table().importance, table.importance)
    np.testing.assert_array_equal(reopened.read_plan().kept, plan.kept)
    rows = experiment.path("groups_to_prune.csv").read_text().splitlines()
    assert len(rows) == 1 + np.count_nonzero(~plan.kept)
    scores = [float(row.split(",")[-1]) for row in rows[1:]]
    assert scores == sorted(scores)


def test_a_plan_of_another_model_is_refused(tmp_path):
    experiment, table = described(tmp_path), random_table(small_shape())
    plan = allocate_global(table, 0.25, Protection.resolve(4))
    experiment.write_plan(plan, table)
    content = json.loads(experiment.path("plan.json").read_text()) | {"fingerprint": "other"}
    write_json(experiment.path("plan.json"), content)
    with pytest.raises(PruningError, match="was made for another model"):
        experiment.read_plan()


def test_metrics_merge_key_by_key(tmp_path):
    experiment = described(tmp_path)
    experiment.update_metrics(perplexity={"before": {"a": 1.0}})
    experiment.update_metrics(perplexity={"after": {"a": 2.0}})
    assert experiment.metrics()["perplexity"] == {"before": {"a": 1.0}, "after": {"a": 2.0}}


def test_what_is_measured_anew_replaces_all_that_was_measured_before(tmp_path):
    experiment = described(tmp_path)
    for check in ({"top1": 1.0, "original_diff": 1e-7}, {"top1": 0.9}):
        experiment.update_metrics(export_check={"hf": check, "bin": {"top1": 0.5}})
    assert experiment.metrics()["export_check"] == {"hf": {"top1": 0.9}, "bin": {"top1": 0.5}}


@pytest.mark.parametrize(
    "changed",
    [
        {"recovery": {"method": "lora", "steps": 8, "best_step": 8, "tokens_per_step": 64, "distill_weight": 0.0}},
        {"repair": {"matrices": 4, "tokens": 64}},
        {},
    ],
    ids=["trained", "repaired", "cut"],
)
def test_what_earlier_versions_left_of_the_check_of_the_cut_is_not_told_of_the_recovered_model(tmp_path, changed):
    experiment = described(tmp_path)
    check = {"top1": 1.0, "original_diff": 1e-7}
    experiment.update_metrics(export_check={"hf": check}, **changed)
    assert ("original_diff" in experiment.metrics()["export_check"]["hf"]) == (not changed)
    assert json.loads(experiment.path("metrics.json").read_text())["export_check"]["hf"] == check  # reading writes nothing


def test_experiments_are_listed_newest_first(tmp_path):
    for age, name in enumerate(["new", "old"]):
        os.utime(described(tmp_path, name).folder, (1e9 - age, 1e9 - age))
    (tmp_path / "no_experiment").mkdir()
    assert [e.name for e in list_experiments(tmp_path)] == ["new", "old"]
    assert list_experiments(tmp_path / "missing") == []


def test_a_renamed_experiment_is_the_same_under_its_new_name(tmp_path):
    experiment = described(tmp_path, "old")
    experiment.update_metrics(perplexity={"after": {"a": 2.0}})
    renamed = experiment.rename("new")
    assert [e.name for e in list_experiments(tmp_path)] == ["new"]
    written = Experiment.open(tmp_path, "new").description()["settings"]
    assert (written["pruning_ratio"], written["experiment_name"]) == (0.5, "new")
    assert renamed.metrics()["perplexity"] == {"after": {"a": 2.0}}
    assert renamed.rename("new") == renamed


@pytest.mark.parametrize(
    ("name", "sentence"), [("taken", "already something named 'taken'"), ("../up", "cannot be a folder name")]
)
def test_a_name_that_is_taken_or_impossible_changes_nothing(tmp_path, name, sentence):
    experiment = described(tmp_path, "old")
    (tmp_path / "taken").mkdir()
    with pytest.raises(PruningError, match=sentence):
        experiment.rename(name)
    assert Experiment.open(tmp_path, "old").settings.pruning_ratio == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "taken"]


def test_a_deleted_experiment_is_gone_and_its_neighbours_stay(tmp_path):
    described(tmp_path, "kept")
    doomed = described(tmp_path, "doomed")
    doomed.delete()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(PruningError, match="no experiment 'doomed'"):
        doomed.delete()


def test_a_folder_of_something_else_is_never_deleted(tmp_path):
    (tmp_path / "thesis").mkdir()
    with pytest.raises(PruningError, match="no experiment 'thesis'"):
        Experiment(tmp_path / "thesis").delete()
    assert (tmp_path / "thesis").is_dir()


def test_a_deletion_that_stops_halfway_leaves_nothing_in_the_list(tmp_path, monkeypatch):
    doomed = described(tmp_path, "doomed")

    def busy(path):
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    monkeypatch.setattr("shutil.rmtree", busy)
    with pytest.raises(PruningError, match=r"could not be deleted: Device or resource busy"):
        doomed.delete()
    assert list_experiments(tmp_path) == []


@pytest.mark.parametrize("act", [Experiment.delete, lambda e: e.rename("new")])
def test_an_experiment_that_is_worked_on_is_neither_renamed_nor_deleted(tmp_path, act):
    experiment = described(tmp_path)
    write_status(experiment, JobStatus("prune", RUNNING, process=this_process()))
    with pytest.raises(PruningError, match="is being worked on by another job"):
        act(experiment)
    assert [e.name for e in list_experiments(tmp_path)] == ["run"]
    experiment.path("job.json").write_text("{")  # damaged: names no process that could be disturbed
    act(experiment)
    assert [e.name for e in list_experiments(tmp_path)] in ([], ["new"])


def test_what_is_written_until_a_rename_has_the_lock_is_kept(tmp_path, monkeypatch):
    experiment = described(tmp_path)

    def late(folder: Path):
        if folder == tmp_path:
            experiment.change_settings(pruning_ratio=0.125)  # by another session, while this one waits
        return locked(folder)

    monkeypatch.setattr("pruning.experiment.locked", late)
    renamed = experiment.rename("new")
    written = renamed.description()["settings"]
    assert (written["experiment_name"], written["pruning_ratio"]) == ("new", 0.125)


# writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "call"), [(os, "replace"), (Path, "open")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, owner, call):
    path = tmp_path / "plan.json"
    write_json(path, {"old": 1})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(owner, call, full)
        with pytest.raises(PruningError, match=r"plan.json could not be written: No space left on device"):
            write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_files_are_readable_as_the_person_set_it(tmp_path):
    (tmp_path / "by_hand").write_text("")
    write_whole(tmp_path / "plan.json", "")
    assert (tmp_path / "plan.json").stat().st_mode == (tmp_path / "by_hand").stat().st_mode


def test_what_a_killed_process_left_goes_and_the_rest_stays(tmp_path):
    experiment = described(tmp_path)
    experiment.model_folder.mkdir()
    for name in (".plan.json.0a1b2c3d", ".model.zip.part-12", ".DS_Store", "notes.txt"):
        experiment.path(name).touch()
    experiment.path(".model.part-12").mkdir()
    experiment.remove_leftovers()
    assert {p.name for p in experiment.folder.iterdir()} == {"description.txt", ".DS_Store", "notes.txt"}
    experiment.model_folder.mkdir()
    experiment.path("model", "README.md").touch()
    experiment.remove_leftovers()
    assert experiment.has("model", "README.md")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(PruningError, match="could not be written"):
        write_whole(tmp_path / "missing" / "plan.json", "")
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(PruningError, match="could not be written"):
        write_whole(tmp_path / "plan.json", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "metrics.json", {"perplexity": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "format version None"),
        ('{"format_version": 2}', "has format version 2; this version reads 1"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, content, sentence):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(PruningError, match=sentence):
        read_json(tmp_path / "x.json", 1)


# two that write -------------------------------------------------------------------------------------------------------

SPEED = {"batch_size": 1, "decode_tokens_per_second": 7.5}


def ready_to_recover(root) -> Experiment:
    experiment = described(root)
    experiment.update_metrics(
        perplexity={"after": {"a": 3.0}, "recovered": {"a": 9.0}}, export_check={"hf": {"top1": 1.0}, "gguf": {"top1": 1.0}}
    )
    write_json(experiment.path("samples.json"), {"format_version": 1, "prompt": "x", "after": "old", "recovered": "old"})
    return experiment


def fill(draft: Experiment) -> None:
    """What a recovery leaves in its draft."""
    draft.model_folder.mkdir()
    draft.path("model", "README.md").write_text("recovered")
    draft.update_metrics(perplexity={"recovered": {"a": 2.0}}, export_check={"hf": {"top1": 0.5}})
    write_json(draft.path("samples.json"), read_json(draft.path("samples.json"), 1) | {"recovered": "new"})


def measured_in_a_terminal(experiment: Experiment) -> None:
    """What `python -m analysis evaluate` and another way of judging write while a recovery runs."""
    experiment.update_metrics(latency={"after": [SPEED]}, perplexity={"after": {"a": 3.0, "b": 4.0}})
    write_json(experiment.path("samples.json"), read_json(experiment.path("samples.json"), 1) | {"before": "whole"})


def assert_recovered(experiment: Experiment) -> None:
    """The recovery's figures, and those that others wrote meanwhile."""
    metrics = experiment.metrics()
    assert metrics["latency"] == {"after": [SPEED]}
    assert metrics["perplexity"] == {"after": {"a": 3.0, "b": 4.0}, "recovered": {"a": 2.0}}
    assert metrics["export_check"] == {"hf": {"top1": 0.5}}
    samples = read_json(experiment.path("samples.json"), 1)
    assert samples == {"format_version": 1, "prompt": "x", "after": "old", "recovered": "new", "before": "whole"}
    assert experiment.path("model", "README.md").read_text() == "recovered"


def test_what_others_write_during_a_recovery_stays(tmp_path):
    experiment = ready_to_recover(tmp_path)
    with experiment.draft() as draft:
        fill(draft)
        measured_in_a_terminal(experiment)
        experiment.take(draft)
        assert_recovered(experiment)
        experiment.take(draft)  # a repair is taken first, then the training that began with it
    assert_recovered(experiment)


def test_a_recovery_that_only_forgets_forgets_here_too(tmp_path):
    experiment = ready_to_recover(tmp_path)
    with experiment.draft() as draft:
        experiment.take(draft)
    assert experiment.metrics()["perplexity"] == {"after": {"a": 3.0}}
    assert "recovered" not in read_json(experiment.path("samples.json"), 1)


def begun_in_a_process(act) -> int:
    """Begins `act` in a process of its own; its pid."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    return pid


def in_a_process(act) -> int:
    """Runs `act` in a process of its own; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(begun_in_a_process(act), 0)[1])


def dying_at(operation: int, act) -> None:
    """Does `act`, and kills this process right before the file operation of this number."""
    left = operation

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        writes = event in ("os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir")
        if writes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    act()


def test_a_taking_that_is_killed_anywhere_comes_to_its_end_or_did_not_begin(tmp_path):
    ends = set()
    for operation in range(200):
        experiment = ready_to_recover(tmp_path / str(operation))
        with experiment.draft() as draft:
            fill(draft)
            measured_in_a_terminal(experiment)
            code = in_a_process(lambda o=operation, e=experiment, d=draft: dying_at(o, lambda: e.take(d)))
            was_taken = experiment.has(".recovered.taken", "gone.json") or experiment.path("model").exists() or code == 0
        experiment.remove_leftovers()
        ends.add(was_taken)
        if was_taken:
            assert_recovered(experiment)
        else:
            assert experiment.metrics()["perplexity"]["recovered"] == {"a": 9.0} and not experiment.has("model")
        assert not [path.name for path in experiment.folder.iterdir() if path.name.startswith(".")]
        if code == 0:
            break
    assert code == 0 and ends == {True, False}


def test_two_processes_that_change_one_file_lose_nothing(tmp_path):
    experiment = described(tmp_path)
    count = 150

    def measure() -> None:
        for number in range(count):
            experiment.update_metrics(seconds={str(number): number})

    def judge() -> None:
        for number in range(count):
            experiment.update_metrics(perplexity={str(number): {"a": 1.0}})

    def describe() -> None:
        for number in range(count):
            experiment.write_settings(Settings(seed=number))

    children = [begun_in_a_process(act) for act in (measure, judge, describe)]
    for number in range(count):
        experiment.write_job(f"job {number}")
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    metrics, description = experiment.metrics(), experiment.description()
    assert len(metrics["seconds"]) == len(metrics["perplexity"]) == count
    assert description["job"] == f"job {count - 1}" and description["settings"]["seed"] == count - 1


# files inside ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_text(tmp_path, monkeypatch) -> Experiment:
    """An experiment whose text lies in its folder, its output root named as it usually is: relative to where one works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("a person's own text")
    experiment = described(Path("prune_log"))
    experiment.path("calibration.txt").write_text("pasted")
    texts = {"corpus": str(experiment.path("calibration.txt")), "eval_corpus": "own.txt", "finetune_corpus": "a/b"}
    experiment.write_settings(Settings(pruning_ratio=0.5, **texts))
    return experiment


def test_a_text_inside_is_found_after_renaming_moving_and_copying(with_text, tmp_path):
    renamed = with_text.rename("new")
    assert renamed.settings.corpus == str(Path("prune_log/new/calibration.txt"))
    shutil.copytree("prune_log/new", tmp_path / "elsewhere" / "copied")
    shutil.rmtree("prune_log")
    moved = Experiment.open(tmp_path / "elsewhere", "copied")
    assert Path(moved.settings.corpus).read_text() == "pasted"
    assert moved.settings.eval_corpus == "own.txt" and moved.settings.finetune_corpus == "a/b"  # not ours


def test_a_branch_takes_the_text_along(with_text):
    branch = with_text.branch()
    with_text.delete()
    assert Path(branch.settings.corpus) == branch.path("calibration.txt")
    assert branch.path("calibration.txt").read_text() == "pasted"


def test_older_files_that_name_another_folder_find_their_text_inside(with_text):
    path = with_text.path("description.txt")
    content = json.loads(path.read_text())
    for elsewhere in ("/gone/old_name/calibration.txt", str(Path("prune_log", "later", "calibration.txt"))):
        content["settings"]["corpus"] = elsewhere
        path.write_text(json.dumps(content))
        described(Path("prune_log"), "later").path("calibration.txt").write_text("another text")
        assert with_text.settings.corpus == str(with_text.path("calibration.txt"))
        shutil.rmtree(Path("prune_log", "later"))
    content["settings"] |= {"corpus": "/gone/old_name/other.txt"}
    path.write_text(json.dumps(content))
    assert with_text.settings.corpus == "/gone/old_name/other.txt"  # not here: said by whoever needs it


def test_a_file_that_says_it_is_inside_and_is_not_is_refused(with_text):
    path = with_text.path("description.txt")
    content = json.loads(path.read_text())
    content["settings"]["corpus"] = {"inside": "../../secrets.txt"}
    path.write_text(json.dumps(content))
    with pytest.raises(PruningError, match=r"description.txt cannot be read"):
        with_text.description()
