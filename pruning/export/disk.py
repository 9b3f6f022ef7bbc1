"""Writing what may not fit: room is checked first, nothing half-written stands under the final name or stays behind.

model.part-4711  --all written-->  model            an error, a cancelled job: the part is removed
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import PruningError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def written_whole(target: Path, needed: int) -> Iterator[Path]:
    """Gives a path beside `target` to write a file or folder of `needed` bytes to, and renames it when the block ends well.

    Raises PruningError when the disk has no room or cannot be written; whatever is raised, the part is removed.
    """
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_parts(target)
        _require_room(target.parent, needed)
        yield part
        _rename(part, target)
    except (OSError, SafetensorError) as error:
        raise _explained(error, target, needed) from error
    finally:
        _remove(part)


def room(folder: Path, needed: int) -> str:
    """What is needed and what is free, in words; raises PruningError when it does not fit."""
    _require_room(folder, needed)
    return f"{_size(needed)} needed, {_size(shutil.disk_usage(folder).free)} free"


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PruningError("disk_full", folder=folder, needed=_size(needed), free=_size(free))


def _explained(error: Exception, target: Path, needed: int) -> PruningError:
    # safetensors gives its own error type, with the operating system's only in its text.
    full = getattr(error, "errno", None) in _FULL or "No space left" in str(error)
    if full:
        with suppress(OSError):
            free = shutil.disk_usage(target.parent).free
            return PruningError("disk_full", folder=target.parent, needed=_size(needed), free=_size(free))
    return PruningError("disk_write", path=target, reason=getattr(error, "strerror", None) or error)


def _rename(part: Path, target: Path) -> None:
    """Puts `part` in the place of `target`; a folder that stands there is moved aside first and removed last."""
    if not target.is_dir():
        os.replace(part, target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    _remove(old)
    os.rename(target, old)
    try:
        os.rename(part, target)
    except OSError:
        os.rename(old, target)
        raise
    _remove(old)


def _remove_parts(target: Path) -> None:
    """Removes what processes that are gone (killed while writing) left beside `target`."""
    for part in target.parent.glob(f".{target.name}.part-*"):
        pid = part.name.rpartition("-")[2]
        if not (pid.isdecimal() and _is_running(int(pid))) or int(pid) == os.getpid():
            _remove(part)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs, as somebody else
    return True


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"
