"""The command line in a process of its own, and two processes that find each other, as a launcher starts them."""

import multiprocessing
import socket

from pruning.__main__ import main
from tests.runs import quick_runs

FORK = multiprocessing.get_context("fork")  # not started anew: torch is loaded already, and a test file must stay quick


def in_two_processes(do, *arguments) -> list[int]:
    """Runs `do(rank, port, *arguments)` in both, at once; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [FORK.Process(target=do, args=(rank, port, *arguments)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        process.kill()
    return [process.exitcode for process in both]


def in_a_process_of_its_own(*args: str) -> int:
    """Runs the command line there, with the faults that were planned for it; its exit code."""
    process = FORK.Process(target=_run, args=(list(args),))
    process.start()
    process.join(120)
    return process.exitcode


def _run(args: list[str]) -> None:
    quick_runs.look_for_faults()
    raise SystemExit(main(args))
