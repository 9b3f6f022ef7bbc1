"""Runs a step in a worker process: queue, progress, cancel, crash. The page's process only submits and reads files.

    page --submit--> [job, job, job] --one at a time--> loky worker (warm: torch and the model stay loaded)
                                                            |
                     page, terminal  <---- read ----  job.json

One queue serves all sessions of this process. A worker that dies is reported and replaced; the next job gets
the new one. `JobQueue` takes any other `concurrent.futures` executor.
"""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
from loky import ProcessPoolExecutor
from loky.process_executor import ShutdownExecutorError

from ..errors import PruningError
from ..experiment import Experiment
from ..files import locked
from ..process import is_alive, this_process
from . import status as job_status
from .environment import WORKER_ENVIRONMENT
from .permissions import Permissions
from .requests import Request
from .status import CANCELLED, JobStatus, claim, is_claimed_here, read_status, request_cancel, write_status

_MAX_STARTS = 3
_CANCEL_PATIENCE = 10.0  # seconds until a worker that does not react (one long batch, a download) is ended instead
_BROKEN = (BrokenProcessPool, ShutdownExecutorError)
_at_work = threading.Lock()  # in the worker: held while it runs a job


@dataclass(eq=False)
class _Job:
    experiment: Experiment
    kind: str
    permissions: Permissions
    starts: int = 1  # how often it was given to a worker
    is_over: bool = False  # another job has the experiment's job.json now


class JobQueue:
    """Jobs of all sessions, one after the other, in one worker."""

    def __init__(self, make_executor: Callable[[], Executor] | None = None, cancel_patience: float = _CANCEL_PATIENCE):
        self._make_executor = make_executor or loky_worker
        self._cancel_patience = cancel_patience
        self._executor: Executor | None = None
        self._jobs: deque[_Job] = deque()
        self._running: _Job | None = None  # the first of `_jobs`, once the worker has it
        self._lock = threading.RLock()

    def submit(
        self, kind: str, experiment: Experiment, permissions: Permissions = Permissions(), arguments: dict | None = None
    ) -> None:
        """Queues a job of this kind; `arguments` are what is asked of it.

        Raises PruningError when the experiment is being worked on; nothing is changed then.
        """
        with self._lock:
            waits_here = is_claimed_here(experiment) and self._job_of(experiment) is None
            claim(experiment, Request(kind, arguments or {}), waits_here)  # one just created here waits for this job
            if (before := self._job_of(experiment)) is not None:
                before.is_over = True  # by its file; the executor has not reported it yet
            self._jobs.append(_Job(experiment, kind, permissions))
            self._start_next()

    def cancel(self, experiment: Experiment) -> None:
        """Asks a job to stop: a waiting one at once, a running one within a batch, or else its worker is ended."""
        with self._lock:
            job = self._job_of(experiment)
            if job is not None and job is not self._running:
                self._jobs.remove(job)
                _record(job, _cancelled)
                return
            current = read_status(experiment)
            if current is None or not current.is_active:
                return
            if job is None and is_claimed_here(experiment):  # it waits for a job that was never submitted
                write_status(experiment, _cancelled(current))
                return
            request_cancel(experiment)
            if job is not None:
                timer = threading.Timer(self._cancel_patience, lambda: self._end_worker_of(job))
                timer.daemon = True
                timer.start()

    def place(self, experiment: Experiment) -> int:
        """How many jobs are before this one; 0 when it runs or is not here."""
        with self._lock:
            job = self._job_of(experiment)
            return self._jobs.index(job) if job else 0

    def status(self, experiment: Experiment) -> JobStatus | None:
        """The status of an experiment. A worker that died here is not reported before it is known how."""
        with self._lock:
            job = self._job_of(experiment)
            is_ending = job is not None and job is self._running and not job.is_over
            return job_status.last_written(experiment) if is_ending else read_status(experiment)

    def shutdown(self) -> None:
        """Cancels all jobs and ends the worker as soon as the running one has stopped."""
        with self._lock:
            for job in list(self._jobs):
                self.cancel(job.experiment)
            if self._executor is not None:
                self._executor.shutdown(wait=False)
                self._executor = None

    def _job_of(self, experiment: Experiment) -> _Job | None:
        return next((job for job in reversed(self._jobs) if job.experiment == experiment), None)

    def _start_next(self) -> None:
        if self._running is not None or not self._jobs:
            return
        self._running = job = self._jobs[0]
        try:
            future = self._give_to_worker(job)
        except Exception as error:
            self._running = None
            self._jobs.remove(job)
            _record_failure(job, PruningError("worker_died", reason=f"a new one could not be started: {error}"))
            self._start_next()
            return
        future.add_done_callback(lambda future: self._ended(job, future))

    def _give_to_worker(self, job: _Job) -> Future:
        work = partial(run_job, job.kind, str(job.experiment.folder), job.permissions)
        if self._executor is not None:
            with contextlib.suppress(*_BROKEN):  # the worker died while it had nothing to do
                return self._executor.submit(work)
        self._executor = self._make_executor()
        future = self._executor.submit(work)
        # Only once loky has started its thread: what is registered last runs first, before loky waits for the running job.
        with contextlib.suppress(AttributeError, RuntimeError):  # private to Python, but `atexit` would be too late
            threading._register_atexit(self.shutdown)  # type: ignore[attr-defined]
        return future

    def _ended(self, job: _Job, future: Future) -> None:
        """Runs in the executor's thread when a job ends, however it ends."""
        with self._lock:
            self._running = None
            error = None if future.cancelled() else future.exception()
            is_broken = isinstance(error, _BROKEN)
            if is_broken:
                self._executor = None  # the next job gets a new worker
            try:
                is_waiting = is_broken and is_claimed_here(job.experiment) and not job.is_over
                if is_waiting and not job.experiment.has(job_status.CANCEL_FILE) and job.starts < _MAX_STARTS:
                    job.starts += 1
                else:
                    self._jobs.remove(job)
                    _record_end(job, error)
            finally:
                self._start_next()

    def _end_worker_of(self, job: _Job) -> None:
        with self._lock:
            status = job_status.last_written(job.experiment)
            # A job that removed the request has seen it, and saves what it has (the best state of a training).
            unheard = job.experiment.has(job_status.CANCEL_FILE)
            is_running = job is self._running and not job.is_over and status is not None and status.is_active
            if is_running and unheard and status.process is not None:
                _kill_child(status.process[0])  # `_ended` follows


def run_job(kind: str, folder: str, permissions: Permissions) -> None:
    """In the worker: runs the job and leaves how it ended in `job.json`."""
    from . import steps  # torch loads in the worker only

    with _at_work, contextlib.suppress(Exception):  # job.json and the log hold it; the worker stays for the next job
        steps.run(kind, Experiment(Path(folder)), permissions=permissions)


def _record_end(job: _Job, error: BaseException | None) -> None:
    """Where the worker could not: says in `job.json` how the job ended, and removes what it left half-written.

    What cannot be read or written stays as it is, and so does all of an experiment that another process has taken since.
    """
    with contextlib.suppress(PruningError, OSError), locked(job.experiment.folder.parent):  # as every claim does
        status = job_status.last_written(job.experiment)
        if job.is_over or status is None or not status.is_active or not _is_of_this_server(status.process):
            return
        was_asked_to_stop = job.experiment.has(job_status.CANCEL_FILE)
        try:
            _clean_up(job)
        finally:
            if was_asked_to_stop:
                _record(job, _cancelled)
            else:
                killed = "killed by the system, as happens when memory runs out"
                reason = killed if "SIGKILL" in str(error) else "it ended by itself"
                _record_failure(job, PruningError("worker_died", reason=reason))


def _clean_up(job: _Job) -> None:
    job.experiment.remove_leftovers()
    if job.kind in job_status.CUTS and not job.experiment.is_cut:
        with contextlib.suppress(PruningError):
            job.experiment.forget_result()
    job.experiment.path(job_status.CANCEL_FILE).unlink(missing_ok=True)


def _is_of_this_server(process: tuple[int, float] | None) -> bool:
    """Whether it is this process, its worker, or gone: none that took the experiment for a job of its own."""
    if process is None or process == this_process() or not is_alive(*process):
        return True
    with contextlib.suppress(psutil.Error):  # a worker that lives but could not write how the job ended
        return psutil.Process(process[0]).ppid() == os.getpid()
    return True


def _record_failure(job: _Job, error: PruningError) -> None:
    _record(job, lambda status: status.failed(error))


def _record(job: _Job, change: Callable[[JobStatus], JobStatus]) -> None:
    with contextlib.suppress(PruningError):  # a full disk: readers see that the process is gone
        write_status(job.experiment, change(job_status.last_written(job.experiment) or JobStatus(job.kind)))


def _cancelled(status: JobStatus) -> JobStatus:
    return replace(status, state=CANCELLED, updated=time.time())


def _kill_child(pid: int) -> None:
    """Kills a child of this process and what it started; leaves any other process alone."""
    with contextlib.suppress(psutil.Error):
        child = psutil.Process(pid)
        if child.ppid() == os.getpid():
            for process in [child, *child.children(recursive=True)]:
                process.kill()


def loky_worker(initializer: Callable[..., None] | None = None, *initargs) -> Executor:
    """An executor with one worker process that stays, and what is loaded in it; it ends with this process."""
    # Not `get_reusable_executor`: that is one per thread, and its workers leave when idle.
    return ProcessPoolExecutor(
        1,
        timeout=None,
        env={name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}
        | {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"},  # a model that stays loaded is no leak
        initializer=initializer or end_with,
        initargs=initargs if initializer else (os.getpid(),),
    )


def end_with(parent: int) -> None:
    """In the worker: ends it when its parent is gone, so that no orphan keeps a model in memory."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)  # the job, if there is one, ends as cancelled and cleans up
        _at_work.acquire(timeout=_CANCEL_PATIENCE)
        os._exit(1)

    # A server started in the background of a shell ignores SIGINT, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()


_queue: JobQueue | None = None
_queue_lock = threading.Lock()


def queue() -> JobQueue:
    """The queue of this process."""
    global _queue
    with _queue_lock:
        if _queue is None:
            _queue = JobQueue()
        return _queue
