"""What a run is doing, as a file: `job.json` in the experiment folder. Written by the run, read by page and terminal.

    queued -> running -> done | failed | cancelled          a file `cancel` beside it asks the run to stop

Imports no torch. Knows nothing about what the steps do.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import PruningError
from ..experiment import DONE, JOB_FILE, QUEUED, RUNNING, Experiment, portable
from ..files import locked, naming_damage, read_json, write_json, write_whole
from ..forms import ANY, ANYTHING, NUMBER, TEXT, optional, require
from ..process import is_alive, this_process
from ..settings import Settings
from ..strategies import STRATEGIES
from .requests import Request, write_request

FORMAT_VERSION = 1
CANCEL_FILE = "cancel"
FAILED, CANCELLED = "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
ACTIVE = (QUEUED, RUNNING)
BASELINE, MEASURE = "baseline", "measure"  # kinds of jobs that cut nothing
CUTS = ("prune", *STRATEGIES, "apply")  # kinds that do

# The eleven steps of a run, in order, with their English names (docs/methods.md section 8).
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
# What an error message calls the work of a step.
DOING = {step: f"working on: {name}" for step, name in STEPS.items()}


_FORM = {
    **{name: TEXT for name in ("kind", "state", "unit")},
    **{name: optional(TEXT) for name in ("step", "log")},
    **{name: NUMBER for name in ("done", "total", "step_started", "started", "updated")},
    "done_before?": NUMBER,
    "process": optional([NUMBER]),
    "error": optional({"code": TEXT, "values": {ANY: ANYTHING}, "message": TEXT}),
}


def step_number(step: str) -> int:
    """1 for the first step, 11 for the last."""
    return list(STEPS).index(step) + 1


@dataclass(frozen=True)
class JobStatus:
    """State of the last or current run of an experiment. `process` is (pid, `start_of` it); times in Unix seconds.

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
    if status and status.is_active and not (status.process and is_alive(*status.process)):
        return status.failed(PruningError("worker_lost"))
    return status


def last_written(experiment: Experiment) -> JobStatus | None:
    """The status as `job.json` holds it, whether its process still lives or not."""
    if not experiment.has(JOB_FILE):
        return None
    content = read_json(experiment.path(JOB_FILE), FORMAT_VERSION)
    content.pop("format_version")
    with naming_damage(experiment.path(JOB_FILE)):
        require(content, _FORM, "the whole")
        if content["state"] not in STATES or content["step"] not in (None, *STEPS):
            raise ValueError(f"no job is {content['state']!r} at {content['step']!r}")
        process = content["process"]
        return JobStatus(**content | {"process": (int(process[0]), float(process[1])) if process else None})


def write_status(experiment: Experiment, status: JobStatus, sync: bool = True) -> None:
    """Writes `job.json`. Progress goes without `sync`: four times a second a disk may take longer for it than for the work, and
    a power cut, which alone could damage the file, ends the run that it describes.
    """
    write_json(experiment.path(JOB_FILE), {"format_version": FORMAT_VERSION} | asdict(status), sync)


def create_experiment(
    root: str | Path, name: str, settings: Settings, kind: str, overwrite: bool = False, files: dict[str, str] | None = None
) -> Experiment:
    """`Experiment.create` with these settings, and text of other files by their names, for a job that this process begins next.

    It belongs to this process from the start: others that want the name are told that it is worked on.
    """

    def prepare(new: Experiment) -> None:
        for file, text in (files or {}).items():
            write_whole(new.path(file), text)
        new.write_settings(replace(settings, **portable(settings.as_dict(), Path(root) / name)))  # it has that name soon
        write_request(new, Request(kind))
        write_status(new, _waiting(kind))

    return Experiment.create(root, name, overwrite, prepare)


def claim(experiment: Experiment, request: Request, is_ours: bool = False) -> list[Path]:
    """Makes the experiment this process's, for a job that it begins next; what asks for a job begins here.

    The request is written once it is sure that no other works on the experiment; `is_ours`: it waits for this job since it was
    created. Returns what a process that was killed had left half-written, which is removed. Raises PruningError when another
    job has the experiment, or it is gone; nothing is changed then.
    """
    with _held(experiment):
        if not is_ours:
            experiment.refuse_if_worked_on()
        write_request(experiment, request)
        removed = experiment.remove_leftovers()
        experiment.path(CANCEL_FILE).unlink(missing_ok=True)
        write_status(experiment, _waiting(request.kind))
        return removed


@contextlib.contextmanager
def idle(experiment: Experiment, but_for: str | None = None) -> Iterator[None]:
    """Within the block no job begins on the experiment, and none works on it but one of the kind `but_for`.

    Raises PruningError when one does, or the experiment is gone. `rename`, `branch` and whatever else waits for `locked` of the
    root folder would wait for ever inside.
    """
    with _held(experiment):
        if experiment.is_worked_on and last_written(experiment).kind != but_for:
            raise PruningError("experiment_busy", name=experiment.name)
        yield


def remove_leftovers(experiment: Experiment) -> None:
    """`Experiment.remove_leftovers`, never under the hands of a job; raises PruningError then."""
    with idle(experiment):
        experiment.remove_leftovers()


@contextlib.contextmanager
def _held(experiment: Experiment) -> Iterator[None]:
    """Within the block no other process or thread begins a job on the experiment, or takes its name away."""
    try:
        with locked(experiment.folder.parent):
            if not experiment.has("description.txt"):
                raise PruningError("experiment_unknown", name=experiment.name, root=experiment.folder.parent)
            yield
    except OSError as error:
        experiment.require()  # the root folder may be gone too
        raise PruningError("disk_write", path=experiment.folder, reason=error.strerror or error) from error


def is_claimed_here(experiment: Experiment) -> bool:
    """Whether a job of this process waits, or the process has the experiment for one that it begins next."""
    with contextlib.suppress(PruningError):  # a damaged job.json names no process
        status = last_written(experiment)
        return status is not None and status.state == QUEUED and status.process == this_process()
    return False


def _waiting(kind: str) -> JobStatus:
    now = time.time()
    return JobStatus(kind, started=now, updated=now, process=this_process())


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
