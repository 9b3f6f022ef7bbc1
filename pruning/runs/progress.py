"""How a run reports what it does: the same lines for console, training.log and the app's job panel.

    [Step 3/11] gradients ...  64/128 samples, 31.2 samples/s, 2 s left

Steps call it; it writes `job.json`, the log, and the console, and raises Cancelled when the person asked to stop.
"""

import contextlib
import errno
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from tqdm import tqdm

from ..errors import Cancelled, PruningError
from ..experiment import DONE, Experiment
from ..model.runtime import is_out_of_memory
from ..words import readable_duration, readable_size
from .status import CANCEL_FILE, CANCELLED, DOING, RUNNING, STEPS, JobStatus, step_number, this_process, write_status

_SECONDS_BETWEEN_WRITES = 0.25
_SECONDS_BETWEEN_LINES = 2.0  # progress lines in a log; a terminal gets one line that changes


class Progress:
    """Progress of one run of one experiment. Use as `with Progress(...) as progress:`; it records how the run ended."""

    def __init__(self, experiment: Experiment, kind: str, console: bool = False):
        self.experiment = experiment
        started = time.time()
        log = experiment.path(datetime.now().strftime("%Y%m%d_%H%M%S"), "training.log")
        self.status = JobStatus(
            kind, RUNNING, started=started, updated=started, process=this_process(), log=str(log.relative_to(experiment.folder))
        )
        self.seconds: dict[str, float] = {}
        self._log = _logger(log, console)
        self._live = console and sys.stderr.isatty()
        self._bar: tqdm | None = None  # on a terminal, while a step reports progress
        self._last_write = self._last_line = 0.0

    def __enter__(self) -> "Progress":
        self._write()
        return self

    def __exit__(self, kind, error, trace) -> bool:
        """Records the end: done, cancelled, or failed with a sentence. What the run raised is passed on, as PruningError."""
        self.experiment.path(CANCEL_FILE).unlink(missing_ok=True)
        self._clear_line()
        explained = None
        if isinstance(error, Cancelled | KeyboardInterrupt):
            self.status = replace(self.status, state=CANCELLED, updated=time.time())
            self._log.info("Cancelled.")
        elif error is not None:
            explained = as_pruning_error(error, self.status.step)
            self.status = self.status.failed(explained)
            self._log.debug(f"Failed: {explained}")
            if explained is not error:
                self._log.debug("".join(traceback.format_exception(error)))
        else:
            self.status = replace(self.status, state=DONE, updated=time.time())
        with contextlib.suppress(PruningError):  # a full disk: page and terminal then see the process gone
            self._write()
        for handler in list(self._log.handlers):
            handler.close()
            self._log.removeHandler(handler)
        if explained is not None and explained is not error:
            raise explained from error
        return False

    @contextlib.contextmanager
    def step(self, name: str, total: int = 0, unit: str = "", detail: str = "") -> Iterator[None]:
        """One of the eleven steps, or a part of it that `detail` names; its time goes into `seconds`."""
        started = time.time()
        self.status = replace(self.status, step=name, total=total, unit=unit, done=0, done_before=0)
        self.status = replace(self.status, step_started=started, updated=started)
        named = f"{STEPS[name]}: {detail}" if detail else STEPS[name]
        self._log.info(f"[Step {step_number(name)}/{len(STEPS)}] {named}")
        self._write()
        self.check_cancelled()
        yield
        self._clear_line()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.time() - started

    def skip(self, name: str, why: str = "not asked for") -> None:
        """Marks an optional step as skipped."""
        self._log.info(f"[Step {step_number(name)}/{len(STEPS)}] {STEPS[name]}: skipped ({why})")

    def advance(self, done: int, total: int) -> None:
        """So many units of the current step are done; raises Cancelled when the person asked to stop.

        The rate counts from the start of the step, or from the last report of 0 units done.
        """
        now = time.time()
        begun = self.status.step_started if done else now
        self.status = replace(self.status, done=done, total=total, updated=now, step_started=begun)
        if now - self._last_write >= _SECONDS_BETWEEN_WRITES or done == total:
            self._write(sync=False)
        if self._live:
            self._move_bar()
        elif done and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._log.info(self._progress_text())
        self.check_cancelled()

    def count_from(self, done: int) -> None:
        """The rate of the current step counts from here, and so does the time left; `done` units were done before."""
        now = time.time()
        self.status = replace(self.status, done=done, done_before=done, step_started=now, updated=now)

    def say(self, line: str) -> None:
        """One line for console and log."""
        self._clear_line()
        self._log.info(line)

    def check_cancelled(self) -> None:
        if self.experiment.has(CANCEL_FILE):
            raise Cancelled()

    def _progress_text(self) -> str:
        status = self.status
        left = f", {readable_duration(status.seconds_left)} left" if status.seconds_left is not None else ""
        if status.unit == "bytes":
            return (
                f"    {readable_size(status.done)} of {readable_size(status.total)}, {readable_size(int(status.rate))}/s{left}"
            )
        return f"    {status.done}/{status.total} {status.unit}, {status.rate:.1f} {status.unit}/s{left}"

    def _move_bar(self) -> None:
        status = self.status
        if self._bar is None:
            options = {"unit_scale": True, "unit_divisor": 1024} if status.unit == "bytes" else {}
            self._bar = tqdm(unit=f" {status.unit}", leave=False, file=sys.stderr, dynamic_ncols=True, **options)
        self._bar.total, self._bar.n = status.total, status.done
        self._bar.refresh()

    def _clear_line(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write(self, sync: bool = True) -> None:
        self._last_write = time.time()
        write_status(self.experiment, self.status, sync)


def as_pruning_error(error: BaseException, step: str | None) -> PruningError:
    """The sentence for any error: its own, advice when memory ran out, else what happened and where to look."""
    if isinstance(error, PruningError):
        return error
    if is_out_of_memory(error):
        return PruningError("out_of_memory", doing=DOING[step] if step else "working")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return PruningError("disk_write", path=error.filename or "a file", reason=error.strerror)
    return PruningError("unexpected", reason=f"{type(error).__name__}: {error}")


def _logger(path, console: bool) -> logging.Logger:
    logger = logging.Logger(str(path), level=logging.DEBUG)
    try:
        path.parent.mkdir(exist_ok=True)  # an experiment that was deleted meanwhile does not come back as a log
        file = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise PruningError("disk_write", path=path, reason=error.strerror) from error
    file.handleError = lambda record: None  # a full disk: files that matter more will say so
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(file)
    if console:
        stream = logging.StreamHandler(sys.stdout)
        stream.setLevel(logging.INFO)
        logger.addHandler(stream)
    return logger
