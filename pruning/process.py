"""Which process made something: its pid and when it started, which together name it for good. A pid alone is used again."""

import functools
import os

import psutil


def this_process() -> tuple[int, float]:
    """The pid of this process and when it started, Unix seconds."""
    return os.getpid(), _started(os.getpid())


def is_alive(pid: int, started: float) -> bool:
    """Whether the process of this pid is there and is the one that started then, to the second."""
    try:
        found = psutil.Process(pid)
        # A zombie has ended; where nobody waits for it (an orphan in a container) it stays in the process table.
        return abs(found.create_time() - started) < 1 and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # gone, or no number of a process
        return False


@functools.cache
def _started(pid: int) -> float:  # by pid: a fork must not take over what was kept
    return psutil.Process(pid).create_time()
