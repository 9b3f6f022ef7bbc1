"""Killed at any file operation, an experiment is the old or the new one, whole; no name is dead, and nothing is left.

What is quick is killed at each operation. Whole commands are killed at some, the same each time; `make test-kills` kills them
at each. Their models are loaded again in their own process: a fresh one takes seconds, and test_command_line.py has it.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning import files
from pruning.__main__ import main
from pruning.experiment import CARD_FILE, CUT_MODEL_FOLDER, RECOVERY_FILE, RESULT_FILE, TABLE_FILE, Experiment, list_experiments
from pruning.export import reload_check
from pruning.export.formats import FORMATS
from pruning.files import write_json
from pruning.model.architecture.classes import load_trusted
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.runs import progress
from pruning.runs.status import create_experiment, state_of
from pruning.settings import Settings
from tests.killing import kill_at, operations
from tests.planning.examples import random_table, small_config, small_shape
from tests.processes import in_a_process_of_its_own
from tests.runs.quick_runs import files_of, quick_flags
from tests.runs.test_exporting import compared_here

Contents = dict[str, bytes]


def an_experiment(root: Path, name: str = "run", ratio: float = 0.5, measured: bool = True) -> Experiment:
    experiment = Experiment.create(root, name)
    header = CheckpointHeader(root, small_config(), {}, ())
    header.__dict__["fingerprint"] = "abc"  # of a model without weights
    experiment.write_settings(Settings(pruning_ratio=ratio))
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
    create_experiment(root, "run", Settings(pruning_ratio=0.1), "global", files={"pasted.txt": "text"})


def overwrite(root: Path) -> None:
    create_experiment(root, "run", Settings(pruning_ratio=0.1), "global", overwrite=True)


def overwrite_and_fail(root: Path) -> None:
    overwrite(root)
    Experiment.open(root, "run").settle()


def overwrite_and_measure(root: Path) -> None:
    overwrite(root)
    experiment = Experiment.open(root, "run")
    files.write_whole(experiment.path(TABLE_FILE), "rows")
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


@pytest.mark.parametrize(
    ("step", "swaps"),
    [
        *((step, True) for step in STEPS),
        *((step, False) for step in STEPS if "overwrite" in step or "place" in step),
    ],
)
def test_killed_at_each_operation_the_old_or_the_new_is_whole(tmp_path, monkeypatch, step, swaps):
    """Without `swaps`: on a system where two folders cannot change places."""
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
            assert Experiment.open(root, "run").settings.pruning_ratio == 0.1, where
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


# whole commands -------------------------------------------------------------------------------------------------------

SOME = 4  # operations at which a command is killed when not at each
MADE = ("bin", "gguf-f32", "hf-float16", "plan")


@pytest.fixture
def steady(monkeypatch):
    """The same operations each time: no progress by the clock, and the check of a model in this process."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_WRITES", float("inf"))
    monkeypatch.setattr(reload_check, "_in_fresh_process", compared_here)


def numbers(count: int) -> list[int]:
    every = list(range(1, count + 1))
    return every if os.environ.get("KILLS") == "all" else every[:: max(1, count // SOME)]


def listed(root: Path) -> dict[str, str]:
    """What `list` prints: the state of each experiment, by name."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["list", f"--output_root={root}"]) == 0
    lines = printed.getvalue().splitlines()
    return {} if lines[0].startswith("There are no") else dict(line.split()[:2] for line in lines[1:])


def assert_true(root: Path, where: str) -> dict[str, str]:
    """No name is dead, `list` says what is there, and nothing hidden is left beside experiments; returns what it says."""
    states = listed(root)
    assert sorted(states) == sorted(path.name for path in root.iterdir()), where
    for name, state in states.items():
        experiment = Experiment.open(root, name)
        assert state in ("stopped", "measured", "planned", "saved"), (where, state)
        assert experiment.is_measured == (state != "stopped"), where
        if experiment.is_measured:
            assert len(experiment.read_table().order) == 5 * (4 + 24) and experiment.read_table().source["method"], where
        if experiment.is_planned:
            assert experiment.read_plan(), where
        if state == "saved":
            parameters = sum(each.numel() for each in load_trusted(experiment.model_folder).parameters())
            assert parameters == experiment.metrics()["parameters"]["after"], where
            assert experiment.metrics()["export_check"]["hf"]["max_abs_diff"] < 1e-4, where
    return states


def lines(root: Path, source: tuple[Path, Path], *more: str) -> list[str]:
    return ["global", *quick_flags(*source, root, pruning_ratio=0.03, num_samples=2, eval_windows=2), "--save_model", *more]


@pytest.fixture(scope="module")
def saved(source, tmp_path_factory) -> Path:
    """A folder with the experiment `run`, cut and saved."""
    root = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reload_check, "_in_fresh_process", compared_here)
        assert in_a_process_of_its_own(*lines(root, source)) == 0
    return root


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("more", [(), ("--overwrite",)], ids=["new", "overwrite"])
def test_a_run_that_is_killed_is_what_list_says_and_goes_on(source, saved, tmp_path, steady, more):
    whole = files_of(Experiment.open(saved, "run"))
    old = contents(saved)

    def start(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        if more:
            shutil.copytree(saved, root, dirs_exist_ok=True)
        return root

    def run(root: Path) -> None:
        assert main(lines(root, source, "--seed=1", *more)) == 0

    after = start("after")
    count = operations(lambda: run(after), after)
    assert hidden(after) == [] and files_of(Experiment.open(after, "run")) == whole
    for number in numbers(count):
        root, where = start(str(number)), f"operation {number} of {count}"
        kill_at(number, lambda root=root: run(root), root)
        states = assert_true(root, where)
        if more and {name: left for name, left in contents(root).items() if name in old} == old:
            states = {}  # it is the old one, perhaps with a log more
        assert not more or states.get("run") != "stopped", where
        again = ["--seed=1", "--resume"] if states else ["--seed=1", *more]
        assert in_a_process_of_its_own(*lines(root, source, *again)) == 0, where
        assert assert_true(root, where) == {"run": "saved"} and hidden(root) == [], where
        assert Experiment.open(root, "run").settings.seed == 1, where
        left = {name for name in files_of(Experiment.open(root, "run")) if not name.startswith("<time>")}
        assert left == {name for name in whole if not name.startswith("<time>")}, where
        shutil.rmtree(root)
    print(f"global {' '.join(more)}: {count} operations, killed at {len(numbers(count))}")


@pytest.mark.timeout(7200)
def test_an_export_that_is_killed_leaves_whole_files_and_is_done_again(saved, tmp_path, steady):
    def start(name: str) -> Path:
        return shutil.copytree(saved, tmp_path / name / "log").parent

    def line(root: Path) -> list[str]:
        flags = ["--experiment_name=run", f"--output_root={root / 'log'}", f"--to={root / 'out'}"]
        return ["export", *flags, f"--format={','.join(MADE)}"]

    def run(root: Path) -> None:
        assert main(line(root)) == 0

    after = start("after")
    count = operations(lambda: run(after), after)
    assert hidden(after) == []
    for number in numbers(count):
        root, where = start(str(number)), f"operation {number} of {count}"
        kill_at(number, lambda root=root: run(root), root)
        assert assert_true(root / "log", where) == {"run": "saved"}
        experiment = Experiment.open(root / "log", "run")
        for name in MADE:
            copied, made = root / "out" / FORMATS[name].file, experiment.path(FORMATS[name].file)
            assert not copied.exists() or copied.read_bytes() == made.read_bytes(), where
            assert name == "plan" or not made.exists() or name in experiment.metrics()["export_check"], where
            copied.unlink(missing_ok=True)  # what stands there is not replaced
        assert in_a_process_of_its_own(*line(root)) == 0, where
        assert assert_true(root / "log", where) == {"run": "saved"} and hidden(root) == [], where
        assert all((root / "out" / FORMATS[name].file).read_bytes() for name in MADE), where
        shutil.rmtree(root)
    print(f"export: {count} operations, killed at {len(numbers(count))}")
