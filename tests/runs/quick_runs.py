"""Runs that take a second: a tiny model with the demo tokenizer, a short text, and a worker that can be made to stumble.

A fault is a file beside the experiment that says where and how: `{"at": "step cut", "do": "kill"}`. The worker reads it
at each step, progress report and line it says, and does it once, to itself.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import psutil
from loky import ProcessPoolExecutor
from transformers import AutoTokenizer

from pruning.experiment import Experiment
from pruning.export.hugging_face import save_model
from pruning.model.model_source import DEMO_FOLDER
from pruning.process import is_alive
from pruning.runs.progress import Progress
from pruning.runs.status import JobStatus, last_written, request_cancel
from pruning.settings import Settings, resolve
from tests.tiny_models import tiny_model

VOCABULARY = 4096  # the demo tokenizer's
STEPS_THAT_RUN = ("load", "baseline", "gradients", "group_table", "selection", "cut", "empty_layers", "statistics")
STEPS_THAT_RUN += ("perplexity", "save")
QUICK_DEMO = {"base_model": "demo", "num_samples": 4, "seq_len": 16, "eval_windows": 4, "eval_seq_len": 16}
QUICK_DEMO |= {"layer_importance_samples": 4}
RESULT = {"pruning_analysis.csv", "samples.json", "pruning_strategy.png"}  # of a cut; there when it came to its end


def save_tiny_model(folder: Path, family: str = "llama") -> Path:
    """A model folder; few enough positions that a prompt is soon continued."""
    model = tiny_model(family, vocab_size=VOCABULARY, max_position_embeddings=48)
    save_model(model, AutoTokenizer.from_pretrained(DEMO_FOLDER), folder)
    return folder


def write_text(path: Path) -> Path:
    path.write_text("\n".join(f"value_{i} = {i} * {i % 7}" for i in range(100)))
    return path


def quick_settings(model: Path, text: Path, **changes) -> Settings:
    """Settings with which every step runs, but `save` only when asked for; its check loads a fresh process."""
    settings = {"base_model": str(model), "corpus": str(text), "eval_corpus": str(text), "pruning_ratio": 0.03}
    settings |= {"num_samples": 6, "seq_len": 16, "gradient_batch_size": 2, "eval_seq_len": 16, "eval_windows": 6}
    settings |= {"test_before_prune": True, "test_after_prune": True, "remove_empty_layers": True}
    return resolve(settings | changes)


def quick_flags(model: Path, text: Path, root: Path, **changes) -> list[str]:
    """Flags of the command line for a run named `run` that takes a second and judges before and after the cut."""
    flags = {"base_model": model, "corpus": text, "eval_corpus": text, "output_root": root, "experiment_name": "run"}
    flags |= {"num_samples": 6, "seq_len": 16, "gradient_batch_size": 2, "eval_seq_len": 16, "eval_windows": 6} | changes
    return [*(f"--{name}={value}" for name, value in flags.items()), "--test_before_prune", "--test_after_prune"]


def new_experiment(root: Path, name: str, settings: Settings) -> Experiment:
    return Experiment.create(root, name, prepare=lambda new: new.write_settings(settings))


def copy_of(experiment: Experiment, root: Path, name: str) -> Experiment:
    """The same under another name, as if it had been made there."""
    copy = Experiment(Path(shutil.copytree(experiment.folder, root / name)))
    copy.write_settings(replace(experiment.settings, output_root=str(root), experiment_name=name))
    return copy


def files_of(experiment: Experiment) -> set[str]:
    """Names of all files and folders, the dated log folders by one name."""
    names = {path.relative_to(experiment.folder).as_posix() for path in experiment.folder.rglob("*")}
    return {"<time>" + name[15:] if name[:8].isdecimal() else name for name in names}


def assert_nothing_half_written(experiment: Experiment, whole: set[str], table: bool) -> None:
    """Whole files only; none of a cut that did not come to its end; the `table` when its step was."""
    left = files_of(experiment)
    assert left <= whole - RESULT, left - (whole - RESULT)
    assert ("global_group_table.csv" in left) == table
    if table:
        assert len(experiment.read_table().order) == 5 * (4 + 24)
    if "plan.json" in left:
        experiment.read_plan()
    assert not experiment.metrics().keys() & {"parameters", "ratio", "size_bytes", "export_check"}


# waiting --------------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    raise AssertionError("it did not happen in time")


def wait_for_end(experiment: Experiment, seconds: float = 240.0) -> JobStatus:
    """How the job ended, once that is written down."""
    wait_until(lambda: not last_written(experiment).is_active, seconds)
    return last_written(experiment)


def wait_until_gone(process: tuple[int, float], seconds: float = 240.0) -> None:
    """Waits for the end of this process, and not of another one that has its pid by now."""
    wait_until(lambda: not is_alive(*process), seconds)


# faults ---------------------------------------------------------------------------------------------------------------


def plan_fault(experiment: Experiment, at: str, do: str) -> None:
    """Has the worker stumble at `step <name>`, `progress <name>` or `say <beginning of a line>`."""
    _fault_file(experiment).write_text(json.dumps({"at": at, "do": do}))


def forked_worker(initializer: Callable[[], None] = lambda: None) -> Executor:
    """A fork of this process, where the app's own worker loads torch anew for seconds."""
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(1, timeout=None, context=fork, initializer=_begin_a_fork, initargs=(initializer,))


def clumsy_worker() -> Executor:
    """A worker that looks for faults."""
    return forked_worker(look_for_faults)


def _begin_a_fork(initializer: Callable[[], None]) -> None:
    threading._threading_atexits.clear()  # they wait for threads that only the parent has
    initializer()


def look_for_faults() -> None:
    Progress.step = _with_fault_in_block(Progress.step)
    Progress.advance = _with_fault(Progress.advance, lambda report, *_: f"progress {report.status.step}")
    Progress.say = _with_fault(Progress.say, lambda report, line: f"say {line.strip()}")


def _with_fault_in_block(step):
    @contextlib.contextmanager
    def stumbling(report, name, *args, **options):
        with step(report, name, *args, **options):
            _stumble(report.experiment, f"step {name}")
            yield

    return stumbling


def _with_fault(method, place):
    @functools.wraps(method)
    def stumbling(report, *args):
        _stumble(report.experiment, place(report, *args))
        method(report, *args)

    return stumbling


def _stumble(experiment: Experiment, place: str) -> None:
    file = _fault_file(experiment)
    fault = json.loads(file.read_text()) if file.exists() else {"at": None}
    if fault["at"] is None or not place.startswith(fault["at"]):
        return
    file.unlink()
    _FAULTS[fault["do"]](experiment)


def _kill(experiment: Experiment) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _limit_memory(experiment: Experiment) -> None:
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 100 * 2**20, resource.RLIM_INFINITY))


def _lift_memory_limit(experiment: Experiment) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _small_files_only(experiment: Experiment) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def _hang(experiment: Experiment) -> None:
    threading.Event().wait()


def _break(experiment: Experiment) -> None:
    raise ZeroDivisionError("a bug")


_FAULTS = {
    "kill": _kill,
    "cancel": request_cancel,
    "limit memory": _limit_memory,
    "lift memory limit": _lift_memory_limit,
    "small files only": _small_files_only,
    "hang": _hang,
    "break": _break,
}


def _fault_file(experiment: Experiment) -> Path:
    return experiment.folder.with_name(f"{experiment.name}.fault")
