"""Runs a step in a worker process: queue, progress, cancel, crash. The page's process only submits and reads files.

    page --submit--> one-worker loky executor (warm: torch and the model stay loaded) --> job.json <--read-- page

One executor serves all sessions of this process; a worker that dies is reported and replaced, and what waited behind it
is submitted again. `JobQueue` takes any other `concurrent.futures` executor.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from loky import ProcessPoolExecutor

from ..errors import PruningError
from ..experiment import Experiment
from . import status as job_status
from .status import CANCELLED, JobStatus, read_status, request_cancel, this_process, write_status

# Raised thresholds keep freed memory in the process (assets/demo_model/README.md, last paragraph).
_WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "33554431",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "TOKENIZERS_PARALLELISM": "false",
}
_MAX_RESTARTS = 2


@dataclass
class _Job:
    experiment: Experiment
    kind: str
    token: str | None
    future: Future | None = None
    executor: Executor | None = None
    restarts: int = 0


class JobQueue:
    """Jobs of all sessions, one after the other, in one worker."""

    def __init__(self, make_executor: Callable[[], Executor] | None = None):
        self._make_executor = make_executor or _loky_worker
        self._executor: Executor | None = None
        self._jobs: list[_Job] = []
        self._lock = threading.RLock()

    def submit(self, kind: str, experiment: Experiment, token: str | None = None) -> None:
        """Queues a job; raises PruningError when the experiment is already being worked on."""
        with self._lock:
            current = read_status(experiment)
            if current and current.is_active:
                raise PruningError("experiment_busy", name=experiment.name)
            experiment.path(job_status.CANCEL_FILE).unlink(missing_ok=True)
            now = time.time()
            write_status(experiment, JobStatus(kind, started=now, updated=now, process=this_process()))
            self._start(_Job(experiment, kind, token))

    def cancel(self, experiment: Experiment) -> None:
        """Asks a job to stop: a waiting one at once, a running one within a batch."""
        with self._lock:
            for job in self._jobs:
                if job.experiment == experiment and job.future and job.future.cancel():
                    write_status(experiment, JobStatus(job.kind, state=CANCELLED, updated=time.time()))
                    self._jobs.remove(job)
                    return
            request_cancel(experiment)

    def place(self, experiment: Experiment) -> int:
        """How many jobs are before this one; 0 when it runs or is not here."""
        with self._lock:
            places = [i for i, job in enumerate(self._jobs) if job.experiment == experiment]
            return places[0] if places else 0

    def shutdown(self) -> None:
        """Ends the worker."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False, kill_workers=True)
                self._executor = None

    def _start(self, job: _Job) -> None:
        if self._executor is None:
            self._executor = self._make_executor()
        self._jobs.append(job)
        job.executor = self._executor
        job.future = self._executor.submit(run_job, job.kind, str(job.experiment.folder), job.token)
        job.future.add_done_callback(lambda future: self._ended(job, future))

    def _ended(self, job: _Job, future: Future) -> None:
        """Runs in the executor's thread when a job ends, however it ends."""
        with self._lock:
            if job not in self._jobs or future.cancelled():
                return
            self._jobs.remove(job)
            error = future.exception()
            if not isinstance(error, BrokenProcessPool):
                return
            if self._executor is job.executor:
                self._executor = None  # broken for good; the next job gets a new worker
            if _never_began(job.experiment) and job.restarts < _MAX_RESTARTS:
                job.restarts += 1
                self._start(job)
            else:
                _record_death(job, error)


def run_job(kind: str, folder: str, token: str | None) -> None:
    """In the worker: runs the job and leaves how it ended in `job.json`."""
    from . import steps  # torch loads in the worker only

    with contextlib.suppress(Exception):  # job.json and the log hold it; the worker stays for the next job
        steps.run(kind, Experiment(Path(folder)), token=token)


def _never_began(experiment: Experiment) -> bool:
    current = read_status(experiment)
    return current is not None and current.state == job_status.QUEUED


def _record_death(job: _Job, error: BaseException) -> None:
    before = read_status(job.experiment) or JobStatus(job.kind)
    reason = "killed by the system, as happens when memory runs out" if "SIGKILL" in str(error) else "it ended by itself"
    write_status(job.experiment, before.failed(PruningError("worker_died", reason=reason)))


def _loky_worker() -> Executor:
    return ProcessPoolExecutor(1, timeout=None, env=_WORKER_ENVIRONMENT)


_queue: JobQueue | None = None
_queue_lock = threading.Lock()


def queue() -> JobQueue:
    """The queue of this process."""
    global _queue
    with _queue_lock:
        if _queue is None:
            _queue = JobQueue()
        return _queue
