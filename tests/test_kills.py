"""Killed at any file operation, an experiment is the old or the new one, whole; no name is dead, and nothing is left."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning import files
from pruning.experiment import (
    CARD_FILE,
    CUT_MODEL_FOLDER,
    RECOVERY_FILE,
    RESULT_FILE,
    Experiment,
    list_experiments,
    write_json,
)
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.runs.status import create_experiment, state_of
from tests.killing import kill_at, operations
from tests.planning.examples import random_table, small_config, small_shape

Contents = dict[str, bytes]


def an_experiment(root: Path, name: str = "run", ratio: float = 0.5, measured: bool = True) -> Experiment:
    experiment = Experiment.create(root, name)
    header = CheckpointHeader(root, small_config(), {}, ())
    header.__dict__["fingerprint"] = "abc"  # of a model without weights
    experiment.write_settings({"pruning_ratio": ratio})
    experiment.write_model(header, {})
    if measured:
        experiment.write_table(random_table(small_shape()))
    return experiment


def contents(folder: Path) -> Contents:
    """All that stands in a folder, hidden too, but for when a job was written."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith("job.json")}


def hidden(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob(".*")]


def create(root: Path) -> None:
    create_experiment(root, "run", {"pruning_ratio": 0.1}, "global", files={"pasted.txt": "text"})


def overwrite(root: Path) -> None:
    create_experiment(root, "run", {"pruning_ratio": 0.1}, "global", overwrite=True)


def overwrite_and_fail(root: Path) -> None:
    overwrite(root)
    Experiment.open(root, "run").settle()


def overwrite_and_measure(root: Path) -> None:
    overwrite(root)
    experiment = Experiment.open(root, "run")
    experiment.update_metrics(perplexity={"before": {"text": 7.0}})
    experiment.settle()


# What is done to `run`, and whether it holds work before; None: there is none.
STEPS: dict[str, tuple[Callable[[Path], object], bool | None]] = {
    "create": (create, None),
    "create in the place of nothing of worth": (create, False),
    "overwrite": (overwrite, True),
    "overwrite and fail": (overwrite_and_fail, True),
    "overwrite and measure": (overwrite_and_measure, True),
    "delete": (lambda root: Experiment.open(root, "run").delete(), True),
    "rename": (lambda root: Experiment.open(root, "run").rename("new"), True),
    "branch": (lambda root: Experiment.open(root, "run").branch(), True),
}


@pytest.mark.parametrize("swaps", [True, False], ids=["swap", "no swap"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_operation_the_old_or_the_new_is_whole(tmp_path, monkeypatch, step, swaps):
    """`no swap`: on a system where two folders cannot change places."""
    do, holds_work = STEPS[step]
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)

    def start(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        if holds_work is not None:
            an_experiment(root, measured=holds_work)
        return root

    before, after = contents(start("before")), start("after")
    count = operations(lambda: do(after), after)
    list_experiments(after)
    whole = [before, contents(after)]
    if step == "rename":  # the folder's name is the name; that description.txt says it too is another step
        whole.append(contents(after) | {"new/description.txt": before["run/description.txt"]})
    assert hidden(after) == [] and count > 2
    for number in range(1, count + 1):
        root, where = start(str(number)), f"operation {number} of {count}"
        kill_at(number, lambda root=root: do(root), root)
        found = list_experiments(root)
        assert sorted(each.name for each in found) == sorted(path.name for path in root.iterdir()), where
        assert all(state_of(each) in ("measured", "stopped", "empty") for each in found), where
        for experiment in found:
            experiment.remove_leftovers()
        assert hidden(root) == [] and contents(root) in whole, where
        if do in (create, overwrite):
            do(root)
            assert Experiment.open(root, "run").description()["settings"] == {"pruning_ratio": 0.1}, where
        shutil.rmtree(root)


def test_killed_while_a_recovered_model_takes_its_place_it_is_the_old_or_the_new(tmp_path):
    def start(name: str) -> Path:
        root = tmp_path / name
        experiment = an_experiment(root)
        for folder, text in ((experiment.model_folder, "cut"), (experiment.path("adapter"), "old")):
            folder.mkdir()
            (folder / CARD_FILE).write_text(text)
        experiment.path(RESULT_FILE).write_text("layers")
        experiment.update_metrics(perplexity={"after": {"text": 9.0}})
        return root

    def take(root: Path) -> None:
        experiment = Experiment.open(root, "run")
        experiment.keep_cut_model()
        with experiment.draft() as draft:
            draft.model_folder.mkdir()
            draft.path("model", CARD_FILE).write_text("recovered")
            draft.update_metrics(perplexity={"recovered": {"text": 5.0}})
            write_json(draft.path(RECOVERY_FILE), {"format_version": 1})
            experiment.take(draft)

    before, after = contents(start("before")), start("after")
    count = operations(lambda: take(after), after)
    kept = {f"run/{CUT_MODEL_FOLDER}/{CARD_FILE}": b"cut"}  # made first, of use to any recovery
    whole = [before, before | kept, contents(after)]
    assert hidden(after) == []
    for number in range(1, count + 1):
        root, where = start(str(number)), f"operation {number} of {count}"
        kill_at(number, lambda root=root: take(root), root)
        [experiment] = list_experiments(root)
        assert state_of(experiment) in ("cut", "saved"), where
        experiment.remove_leftovers()
        assert hidden(root) == [] and contents(root) in whole and state_of(experiment) == "saved", where
        shutil.rmtree(root)
