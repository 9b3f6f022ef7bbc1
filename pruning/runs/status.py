"""What a run is doing, as a file: `job.json` in the experiment folder. Written by the run, read by page and terminal.

    queued -> running -> done | failed | cancelled          a file `cancel` beside it asks the run to stop

Imports no torch. Knows nothing about what the steps do.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from ..errors import PruningError
from ..experiment import Experiment, naming_damage, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT_VERSION = 1
JOB_FILE, CANCEL_FILE = "job.json", "cancel"
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ACTIVE = (QUEUED, RUNNING)
BASELINE, MEASURE = "baseline", "measure"  # kinds of jobs that cut nothing

# The eleven steps of a run, in order, with their English names (methods.md section 8).
STEPS = {
    "load": "load model and tokenizer",
    "baseline": "perplexity before the cut",
    "gradients": "gradients or activations",
    "group_table": "group table",
    "selection": "selection",
    "cut": "cut",
    "empty_layers": "remove empty layers",
    "statistics": "statistics",
    "perplexity": "perplexity after the cut",
    "recovery": "recovery",
    "save": "save and check",
}
# What is said to have gone wrong in a step.
DOING = {step: f"working on: {name}" for step, name in STEPS.items()}


def step_number(step: str) -> int:
    """1 for the first step, 11 for the last."""
    return list(STEPS).index(step) + 1


@dataclass(frozen=True)
class JobStatus:
    """State of the last or current run of an experiment. `process` is (pid, its start time); times in Unix seconds.

    Of the units `done`, `done_before` were done before `step_started`: by a run that was stopped.
    """

    kind: str
    state: str = QUEUED
    step: str | None = None
    done: int = 0
    total: int = 0
    unit: str = ""
    step_started: float = 0.0
    started: float = 0.0
    updated: float = 0.0
    process: tuple[int, float] | None = None
    log: str | None = None
    error: dict | None = None
    done_before: int = 0

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def rate(self) -> float:
        """Units of work per second in the current step; 0 while unknown."""
        elapsed = self.updated - self.step_started
        return (self.done - self.done_before) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds the current step still takes at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None

    def failed(self, error: PruningError) -> "JobStatus":
        """The same run, ended by this error."""
        return replace(self, state=FAILED, error=error.content, updated=time.time())


def read_status(experiment: Experiment) -> JobStatus | None:
    """The status of an experiment, None when nothing ever ran; a run whose process is gone reads as failed."""
    status = last_written(experiment)
    if status and status.is_active and not _is_alive(status.process):
        return status.failed(PruningError("worker_lost"))
    return status


def last_written(experiment: Experiment) -> JobStatus | None:
    """The status as `job.json` holds it, whether its process still lives or not."""
    if not experiment.has(JOB_FILE):
        return None
    content = read_json(experiment.path(JOB_FILE), FORMAT_VERSION)
    content.pop("format_version")
    with naming_damage(experiment.path(JOB_FILE)):
        process = content["process"]
        return JobStatus(**content | {"process": (int(process[0]), float(process[1])) if process else None})


def write_status(experiment: Experiment, status: JobStatus) -> None:
    write_json(experiment.path(JOB_FILE), {"format_version": FORMAT_VERSION} | asdict(status))


def this_process() -> tuple[int, float]:
    """The pid of this process and when it started, which together name it for good."""
    return os.getpid(), psutil.Process().create_time()


def claim(kind: str, experiment: Experiment, request: Callable[[], None] | None = None) -> list[Path]:
    """Takes the experiment for a job of this process, once nothing else works on it; what asks for a job begins here.

    `request` then writes what is asked of the job. Returns what a process that was killed had left half-written, which is
    removed. Raises PruningError when another job has the experiment, it is gone, or `request` refuses; nothing is changed then.
    """
    if not experiment.has("description.txt"):
        raise PruningError("experiment_unknown", name=experiment.name, root=experiment.folder.parent)
    try:
        with _alone_in(experiment.folder):
            refuse_if_busy(experiment)
            if request is not None:
                request()
            removed = experiment.remove_leftovers()
            experiment.path(CANCEL_FILE).unlink(missing_ok=True)
            now = time.time()
            write_status(experiment, JobStatus(kind, started=now, updated=now, process=this_process()))
            return removed
    except OSError as error:
        raise PruningError("disk_write", path=experiment.folder, reason=error.strerror or error) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps out other processes, and threads, that are about to take a job of the experiment; a lock of one that died is gone.

    The folder itself is locked, so that no file stays behind. Where the system has no such locks, two may ask at once.
    """
    if fcntl is None:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def create_experiment(root: str | Path, name: str, overwrite: bool = False) -> Experiment:
    """`Experiment.create`, but never in the place of one that is being worked on; raises PruningError then."""
    experiment = Experiment.at(root, name)
    status = read_status(experiment)
    if status and status.is_active:
        raise PruningError("experiment_busy", name=name)
    return Experiment.create(root, name, overwrite)


def rename_experiment(experiment: Experiment, new_name: str) -> Experiment:
    """`Experiment.rename`, but never under the hands of a job; raises PruningError then."""
    refuse_if_busy(experiment)
    return experiment.rename(new_name)


def delete_experiment(experiment: Experiment) -> None:
    """`Experiment.delete`, but never under the hands of a job; raises PruningError then."""
    refuse_if_busy(experiment)
    experiment.delete()


def state_of(experiment: Experiment) -> str:
    """How far an experiment got: `running`, `saved`, `cut`, `planned`, `measured`, `stopped` before that, or `empty`."""
    status = read_status(experiment)
    if status and status.is_active:
        return "running"
    if experiment.is_cut:
        return "saved" if experiment.is_saved else "cut"
    if experiment.is_planned:
        return "planned"
    if experiment.is_measured:
        return "measured"
    return "stopped" if status and status.state in (FAILED, CANCELLED) else "empty"


def request_cancel(experiment: Experiment) -> None:
    """Asks the run of an experiment to stop; it does so within one batch."""
    experiment.path(CANCEL_FILE).touch()


def refuse_if_busy(experiment: Experiment) -> None:
    """Raises PruningError when a job works on the experiment."""
    try:
        status = read_status(experiment)
    except PruningError:  # a damaged job.json names no process, and must not keep an experiment for ever
        return
    if status and status.is_active:
        raise PruningError("experiment_busy", name=experiment.name)


def _is_alive(process: tuple[int, float] | None) -> bool:
    if process is None:
        return False
    try:
        found = psutil.Process(process[0])
        # A zombie has ended; where nobody waits for it (an orphan in a container) it stays in the process table.
        return abs(found.create_time() - process[1]) < 1 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
