"""Fresh processes without loading torch and transformers anew each time: two processes hold what is loaded, one the libraries
alone, the other what checks an export too, and each forks itself for what is to be run. Neither has opened a model.

    this process, or a fork of it: program, arguments -> socket -> fork of the one that holds -> output, exit code

A fork shares with what it was forked from: limits of the process, and the time that loading takes.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_PROJECT = Path(__file__).resolve().parents[1]
_LIBRARIES, _CHECKS = "libraries", "checks"

_running: list[tuple[subprocess.Popen, Path]] = []  # what holds, and the folder of its addresses; forks know of it too


# what tests call ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """A process that runs."""

    pid: int
    end: IO[str]  # its exit code is written here
    outputs: tuple[IO[bytes], ...]

    def wait(self) -> subprocess.CompletedProcess:
        """Its exit code, what it printed and what it complained about, once it has ended."""
        with self.end:
            ended = self.end.read()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.pid).wait()  # what it held is closed before it is gone
        return subprocess.CompletedProcess(self.pid, int(ended) if ended else -signal.SIGKILL, *map(_text_in, self.outputs))


def run(program: str, *arguments: object, cwd: Path | None = None, **environment: object) -> subprocess.CompletedProcess:
    """As `python -c PROGRAM ARGUMENTS`, with these variables and those of this process."""
    return _start(_LIBRARIES, ("-c", textwrap.dedent(program)), arguments, cwd or Path.cwd(), environment).wait()


def run_module(name: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess:
    """As `python -m NAME ARGUMENTS` in the project's folder."""
    return start_module(name, *arguments, **environment).wait()


def start_module(name: str, *arguments: object, **environment: object) -> Started:
    """As `run_module`, but the caller waits for its end."""
    return _start(_CHECKS, ("-m", name), arguments, _PROJECT, environment)


@contextlib.contextmanager
def forked_checks() -> Iterator[None]:
    """Within the block exports are checked so, by this process and those that it forks; ends what holds with the block."""
    from pruning.export import reload_check

    def check(command: list[str], *, env: dict[str, str], **options) -> subprocess.CompletedProcess:
        _, _, name, *arguments = command
        return _start(_CHECKS, ("-m", name), tuple(arguments), _PROJECT, env).wait()

    own = types.SimpleNamespace(run=check, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
    before, reload_check.subprocess = reload_check.subprocess, own
    try:
        yield
    finally:
        reload_check.subprocess = before
        for process, _ in _running:
            process.communicate()  # the end of what it reads is its sign to stop
        _running.clear()


def _text_in(output: IO[bytes]) -> str:
    with output:
        output.seek(0)
        return output.read().decode()


def _start(holder: str, what: tuple[str, str], arguments: tuple, cwd: Path, environment: dict[str, object]) -> Started:
    outputs = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed when they are read
    asked = {"what": what, "arguments": list(map(str, arguments)), "cwd": str(cwd)}
    asked["environment"] = os.environ | {name: str(value) for name, value in environment.items()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(_addresses() / holder))
        socket.send_fds(connection, [b"!"], [output.fileno() for output in outputs])
        connection.sendall(json.dumps(asked).encode() + b"\n")
        end = connection.makefile()
    return Started(int(end.readline()), end, outputs)


def _addresses() -> Path:
    if not _running:
        folder = Path(tempfile.mkdtemp(prefix="fresh-"))
        command = [sys.executable, __file__, str(folder)]
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.read(2) == b"+" * 2  # both listen
        _running.append((process, folder))
    return _running[0][1]


# in the processes that hold -------------------------------------------------------------------------------------------


def _hold(folder: Path) -> None:
    sys.path.pop(0)  # of this file; what is run finds the project only if it is told where
    sys.path[:] = [entry for entry in sys.path if entry not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    from safetensors.torch import load_file  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    holder = _LIBRARIES
    if os.fork() == 0:
        holder = _CHECKS
        sys.path.insert(0, str(_PROJECT))
        from pruning.export import reload_check  # noqa: F401

        sys.path.pop(0)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / holder))
        listener.listen()
        os.write(1, b"+")
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _become(connection)
            connection.close()


def _become(connection: socket.socket) -> None:
    """Turns this fork into the process that was asked for, and ends with it."""
    _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
    asked = json.loads(connection.makefile().readline())
    connection.sendall(f"{os.getpid()}\n".encode())
    for target, source in enumerate((os.open(os.devnull, os.O_RDONLY), *outputs)):
        os.dup2(source, target)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    sys.path[:0] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    _use_modules_cache(os.environ["HF_MODULES_CACHE"])
    code = _exit_code_of(asked["what"], asked["arguments"])
    for output in (sys.stdout, sys.stderr):
        output.flush()
    connection.sendall(str(code).encode())
    os._exit(0)


def _use_modules_cache(folder: str) -> None:
    """transformers has read the variable already."""
    from transformers import dynamic_module_utils
    from transformers.utils import hub

    dynamic_module_utils.HF_MODULES_CACHE = hub.HF_MODULES_CACHE = folder


def _exit_code_of(what: tuple[str, str], arguments: list[str]) -> int:
    """Runs it as Python itself would, what is to be done at the end included."""
    sys.argv = [what[0], *arguments]
    try:
        if what[0] == "-m":
            runpy.run_module(what[1], run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = module = types.ModuleType("__main__")
            exec(compile(what[1], "<string>", "exec"), module.__dict__)
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    return code or 0


if __name__ == "__main__":
    _hold(Path(sys.argv[1]))
