"""The process that checks an export, without loading torch and transformers anew each time: one process holds the libraries,
knows of no model, and forks itself for each check.

    this process, or a fork of it: arguments -> socket -> fork of the one that knows no model -> answer
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[1]


@contextlib.contextmanager
def forked_checks() -> Iterator[Callable[..., dict]]:
    """Within the block the checks of this process, and of those it forks, are made so; gives what makes them otherwise."""
    from pruning.errors import PruningError
    from pruning.export import reload_check

    started = []  # the process and its address; forks know of it too

    def check(path: Path, reference: Path, device: str, *source: str | Path) -> dict:
        if not started:
            started.extend(_start(str(Path(folder, str(os.getpid())))))
        said = _ask(started[1], list(map(str, (reference.parent / "modules", path, reference, device, *source))))
        if "complaint" in said:
            raise PruningError("export_reload", reason=said["complaint"])
        return said

    with tempfile.TemporaryDirectory(prefix="checks-") as folder, pytest.MonkeyPatch.context() as patch:
        own_check = reload_check._in_fresh_process
        patch.setattr(reload_check, "_in_fresh_process", check)
        yield own_check
        if started:
            started[0].communicate()  # the end of what it reads is its sign to stop


def _start(address: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "tests.fresh_checks", address]
    process = subprocess.Popen(command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process, address


def _ask(address: str, arguments: list[str]) -> dict:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(json.dumps(arguments).encode() + b"\n")
        return json.loads(connection.makefile().read() or '{"complaint": "it died"}')


def _serve(address: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    from pruning.export import reload_check  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                _check(connection)
            connection.close()


def _check(connection: socket.socket) -> None:
    from transformers import dynamic_module_utils

    from pruning.export import reload_check

    modules, *arguments = json.loads(connection.makefile().readline())
    dynamic_module_utils.HF_MODULES_CACHE = modules  # empty, as of a fresh process
    try:
        answer = reload_check.compare(*arguments)
    except SystemExit as error:
        answer = {"complaint": str(error)}
    except BaseException as error:
        answer = {"complaint": traceback.format_exception_only(error)[-1].strip()}
    connection.sendall(json.dumps(answer).encode())
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
