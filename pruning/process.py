"""Which process made something: its pid and when it started, which together identify it. A pid alone is used again."""

import functools
import os
from pathlib import Path

import psutil


def this_process() -> tuple[int, float]:
    """The pid of this process, and `start_of` it."""
    return os.getpid(), _kept_start(os.getpid())


def start_of(pid: int) -> float:
    """When the process of this pid started: seconds since boot, or Unix seconds where the system has no /proc.

    Raises psutil.Error when there is none.
    """
    return _start_and_tolerance(pid)[0]


def is_alive(pid: int, started: float) -> bool:
    """Whether the process of this pid is there and is the one that started then (see `start_of`).

    Versions before this one wrote Unix seconds everywhere. Beside seconds since boot those read as gone, and rightly: their
    processes ended before this version was started.
    """
    try:
        found = psutil.Process(pid)
        start, tolerance = _start_and_tolerance(found.pid)
        # A zombie has ended; if no process waits for it (an orphan in a container) it stays in the process table.
        return abs(start - started) < tolerance and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # gone, or no number of a process
        return False


def _start_and_tolerance(pid: int) -> tuple[float, float]:
    # Not psutil's time where it can be avoided: it adds the time of boot as the clock has it now, and a clock that is set by a
    # second (NTP, a machine that wakes up) would make every process another.
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return psutil.Process(pid).create_time(), 1.0
    fields = stat.rpartition(b")")[2].split()  # from the third on: the second, a name in brackets, may hold anything
    return int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK"), 0.005  # half of what a hidden name says it to


@functools.cache
def _kept_start(pid: int) -> float:  # by pid: a fork must not take over what was kept
    return start_of(pid)
