"""Files and folders that are never half there: written beside their place, synced, and moved to it by one rename.

    .plan.json.part-4711-1764460000.25-5d02c1f3  --whole, and on the disk-->  plan.json

The hidden name says whose it is, so that a later look removes what a killed process left and nothing of a living one. `part`
is half-written or about to be removed; `aside` is complete, and is restored if nothing has replaced it.

Room is checked before what may not fit. Knows nothing about what the files hold.
"""

import contextlib
import csv
import ctypes
import errno
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from .errors import PruningError, first_line
from .process import is_alive, this_process
from .words import readable_size

# What reading a file that this program did not write may raise.
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError)

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PART, ASIDE = "part", "aside"
_HIDDEN = re.compile(r"\.(?P<target>.+)\.(?P<kind>part|aside)-(?P<pid>\d+)-(?P<started>\d+\.\d+)-[0-9a-f]{8}")
_EARLIER = re.compile(r"\.(?P<target>.+)\.deleted-[0-9a-f]{8}")  # a folder on its way out, as versions before named it
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HERE, _LINUX_EXCHANGE, _MACOS_SWAP = -100, 2, 2  # AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP


# writing --------------------------------------------------------------------------------------------------------------


def write_whole(path: Path, content: str | bytes, sync: bool = True, replace: bool = True) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part; raises PruningError if it cannot.

    With `sync` that holds for a power cut too. Without `replace` an existing file stays: FileExistsError.
    """
    temporary = hidden_name(path, PART)
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        _move(temporary, path, replace)
        if sync:
            _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise PruningError("disk_write", path=path, reason=error.strerror or error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def written_whole(target: Path, needed: int, replace: bool = True) -> Iterator[Path]:
    """Gives a path beside `target` to write a file or folder of `needed` bytes to; moves it there when the block ends well.

    Raises PruningError when the disk has no room or cannot be written, and without `replace` when `target` exists by then;
    whatever is raised, the part is removed.
    """
    part = hidden_name(target, PART)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.name)
        _require_room(target.parent, needed)
        yield part
        sync_tree(part)
        if replace:
            put(part, target)
        else:
            _move(part, target, replace)
            _sync_folder(target.parent)
    except FileExistsError as error:
        raise PruningError("target_exists", path=target) from error
    except (OSError, SafetensorError) as error:
        raise _explained(error, target, needed) from error
    finally:
        remove(part)


def copy_whole(source: Path, target: Path) -> None:
    """A copy of a file that appears whole, its times too. Raises PruningError."""
    with written_whole(target, source.stat().st_size) as part:
        shutil.copy2(source, part)


def copy_linked(source: Path, target: Path) -> None:
    """A copy of a folder that appears whole; its files are linked where the file system can. Raises PruningError."""
    part = hidden_name(target, PART)
    try:
        try:
            shutil.copytree(source, part, copy_function=os.link)
        except (OSError, shutil.Error):
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
        sync_tree(part)
        part.rename(target)
        _sync_folder(target.parent)
    except (OSError, shutil.Error) as error:
        raise PruningError("disk_write", path=target, reason=getattr(error, "strerror", None) or error) from error
    finally:
        remove(part)


# moving ---------------------------------------------------------------------------------------------------------------


def put(source: Path, target: Path, swap: bool = True) -> None:
    """Moves a file or a folder to `target`, replacing what is there. Raises OSError; both are then as they were.

    If this is killed, the old or the new one is at `target`, or, where folders cannot be exchanged, the old one is `aside`.
    Without `swap` the old one is removed first and never gets the name of `source`: for callers that resume by names.
    """
    if (old := take_place(source, target, swap)) is not None:
        remove(old)


def rename(source: Path, target: Path) -> None:
    """`os.rename`, on the disk before anything that is written later."""
    os.rename(source, target)
    _sync_folder(target.parent)


def take_place(source: Path, target: Path, swap: bool = True) -> Path | None:
    """As `put`, but what was there is kept; returns its path now: that of `source`, or aside."""
    old = None
    if not target.is_dir():
        os.replace(source, target)
    elif swap and _exchange(source, target):
        old = source
    else:
        old = hidden_name(target, ASIDE)
        os.rename(target, old)
        try:
            os.rename(source, target)
        except OSError:
            os.rename(old, target)
            raise
    _sync_folder(target.parent)
    return old


def _exchange(first: Path, second: Path) -> bool:
    """Has two folders change places in one step; False where the system cannot, and nothing happened."""
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    sys.audit("os.rename", first, second, -1, -1)  # as `os.rename` does: one can watch, and stop, each step
    if hasattr(libc, "renameat2"):
        return libc.renameat2(_HERE, names[0], _HERE, names[1], _LINUX_EXCHANGE) == 0
    if hasattr(libc, "renamex_np"):
        return libc.renamex_np(*names, _MACOS_SWAP) == 0
    return False


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there; a folder is gone at once, whatever happens to its files after that."""
    if path.is_dir() and not path.is_symlink():
        hidden = _HIDDEN.fullmatch(path.name)
        if hidden is None or hidden["kind"] != PART:
            doomed = hidden_name(path, PART)
            with suppress(OSError):
                os.rename(path, doomed)
                path = doomed
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block no other process or thread that takes this lock changes what is in `folder`. Not to be nested.

    The folder itself is locked: no file is left, and the lock ends with its process. A file system without locks goes without.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path, replace: bool) -> None:
    """A rename; without `replace` it raises FileExistsError if `target` exists."""
    if replace:
        os.replace(source, target)
        return
    try:
        os.link(source, target)  # of files only, and not everywhere
    except FileExistsError:
        raise
    except OSError:
        taken = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        if os.path.lexists(target):
            raise taken from None
        try:
            os.rename(source, target)
        except OSError as error:  # another one took the name since
            raise taken if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else error from None
    else:
        os.unlink(source)


# leftovers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leftover:
    """A hidden entry of a process that is gone; `target` is the name that it was made for."""

    path: Path
    target: str
    is_aside: bool


def hidden_name(target: Path, kind: str) -> Path:
    """A free name beside `target` that says whose it is."""
    pid, started = this_process()
    return target.with_name(f".{target.name}.{kind}-{pid}-{started:.2f}-{secrets.token_hex(4)}")


def leftovers(folder: Path, target: str | None = None) -> list[Leftover]:
    """What processes that are gone left in `folder`: all of it, or what they made for one name."""
    with suppress(OSError), os.scandir(folder) as entries:
        found = [_leftover(Path(entry.path)) for entry in entries if entry.name.startswith(".")]
        return [each for each in found if each is not None and target in (None, each.target)]
    return []


def asides(target: Path) -> list[Path]:
    """What any process moved aside for what is at `target` now."""
    found = ((path, _HIDDEN.fullmatch(path.name)) for path in target.parent.glob(f".{target.name}.{ASIDE}-*"))
    return [path for path, name in found if name and name["target"] == target.name]


def sweep(folder: Path, target: str | None = None) -> list[Path]:
    """Removes `leftovers`, but restores what is complete and was not replaced; returns the removed paths."""
    gone = []
    for each in leftovers(folder, target):
        place = each.path.with_name(each.target)
        with suppress(OSError):
            if each.is_aside and not os.path.lexists(place):
                os.rename(each.path, place)
            else:
                remove(each.path)
                gone.append(each.path)
    return gone


def _leftover(path: Path) -> Leftover | None:
    if name := _HIDDEN.fullmatch(path.name):
        is_gone = not is_alive(int(name["pid"]), float(name["started"]))
        return Leftover(path, name["target"], name["kind"] == ASIDE) if is_gone else None
    name = _EARLIER.fullmatch(path.name)
    return Leftover(path, name["target"], is_aside=False) if name else None


# the disk -------------------------------------------------------------------------------------------------------------


def room(folder: Path, needed: int) -> str:
    """What is needed and what is free, in words; raises PruningError when it does not fit."""
    _require_room(folder, needed)
    return f"{readable_size(needed)} needed, {readable_size(shutil.disk_usage(folder).free)} free"


def sync_tree(path: Path) -> None:
    """Has a file, or a folder with all in it, on the disk before anything that is written later."""
    folders = [path] if path.is_dir() else []
    for file in path.rglob("*") if folders else [path]:
        if file.is_dir():
            folders.append(file)
        elif not file.is_symlink():
            _sync(file)
    for folder in reversed(folders):
        _sync_folder(folder)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can
        _sync(folder)


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PruningError("disk_full", folder=folder, needed=readable_size(needed), free=readable_size(free))


def _explained(error: Exception, target: Path, needed: int) -> PruningError:
    # safetensors gives its own error type, with the operating system's only in its text.
    full = getattr(error, "errno", None) in _FULL or "No space left" in str(error)
    if full:
        with suppress(OSError):
            free = shutil.disk_usage(target.parent).free
            return PruningError("disk_full", folder=target.parent, needed=readable_size(needed), free=readable_size(free))
    return PruningError("disk_write", path=target, reason=getattr(error, "strerror", None) or error)


def read_json(path: Path, version: int | None) -> dict:
    """A JSON object with its format version checked (None: left to the caller)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number, parse_float=_finite)
    except FileNotFoundError as error:
        raise PruningError("file_missing", path=path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise PruningError("file_broken", path=path, reason=first_line(error)) from error
    if not isinstance(content, dict) or (version is not None and content.get("format_version") != version):
        found = content.get("format_version") if isinstance(content, dict) else None
        raise PruningError("format_version", path=path, found=found, expected=version)
    return content


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"the number {number} is too large")
    return value


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """JSON that this program did not write is a damaged file: raises PruningError for any error of reading it."""
    try:
        yield
    except DAMAGE as error:
        raise PruningError("file_broken", path=path, reason=repr(error)) from error


def write_json(path: Path, content: dict, sync: bool = True, replace: bool = True) -> None:
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", sync, replace)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_whole(path, csv_text(frame))


def csv_text(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
