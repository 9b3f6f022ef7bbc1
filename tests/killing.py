"""Kills a process at one of its file operations: at the first, at the second, and so on, each time in a process of its own.

An operation is a file opened for writing (killed before it, and with half of its content written), a folder made, and anything
renamed, linked or removed. The processes are forks, so that torch is loaded once.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.processes import FORK

_WRITING = os.O_WRONLY | os.O_RDWR
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_HALF = b'{"half": '


class _Counter:
    """Counts operations below `root`, and kills the process at number `at`."""

    def __init__(self, root: Path, at: int | None):
        self.root, self.at, self.count, self.is_busy = str(root), at, 0, False

    def hook(self, event: str, arguments: tuple) -> None:
        if self.is_busy or (event != "open" and event not in _CHANGES):
            return
        path = arguments[0]
        if event == "open":
            flags = arguments[2]
            if isinstance(path, int) or not flags & _WRITING or not self._is_below(path):
                return
            self.next()
            if not flags & os.O_APPEND:
                self.next(lambda: Path(os.fsdecode(path)).write_bytes(_HALF))
        elif self._is_below(path) or not os.path.isabs(os.fsdecode(path)):  # relative: to a folder that is being removed
            self.next()

    def next(self, before_death: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self.at:
            self.is_busy = True
            before_death()
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_below(self, path) -> bool:
        return os.fsdecode(path).startswith(self.root + os.sep)


def operations(do: Callable[[], object], root: Path) -> int:
    """Runs `do` to its end in a process of its own; how many operations it took below `root`."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_run, args=(do, root, None, sender))
    process.start()
    process.join(300)
    assert process.exitcode == 0, process.exitcode
    return receiver.recv()


def kill_at(number: int, do: Callable[[], object], root: Path) -> None:
    """Runs `do` in a process of its own that dies at this operation."""
    process = FORK.Process(target=_run, args=(do, root, number))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL, f"operation {number}: ended with {process.exitcode}"


def _run(do: Callable[[], object], root: Path, at: int | None, sender=None) -> None:
    counter = _Counter(root, at)
    _count_safetensors(counter)
    sys.addaudithook(counter.hook)
    do()
    counter.is_busy = True
    if sender is not None:
        sender.send(counter.count)
    os._exit(0)


def _count_safetensors(counter: _Counter) -> None:
    """safetensors opens its files where no hook sees it."""
    from pruning.export import hugging_face

    save_file = hugging_face.save_file

    def counted(tensors, path, *args, **options) -> None:
        counter.next()
        counter.next(lambda: Path(path).write_bytes(_HALF))
        save_file(tensors, path, *args, **options)

    hugging_face.save_file = counted
