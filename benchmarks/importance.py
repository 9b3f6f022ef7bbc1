"""Time and memory of `taylor` against a bare forward + backward over the same batches; with flags, what settings rest on.

    (no flag)      taylor / bare: seconds, ratio, peak memory              demo model
    --attention    eager / sdpa                                            demo model, random models of larger heads
    --processes    memory allocator and waiting threads, with and without a busy neighbour

Everything is measured in fresh processes that are set up as the app's worker is. Bare: the model's forward, cross entropy,
`backward`, gradients added up over the batches for the same parameters.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

from pruning.runs.environment import WORKER_ENVIRONMENT

from ._case import BARE, DEMO, FORWARD, TAYLOR, Case, Measured, run_alone

_NAMES = {BARE: "bare forward + backward", TAYLOR: "taylor", FORWARD: "forward"}
_BOUND = 1.2
_LARGER_HEAD_DIMS = ("64", "128")
_PROCESSES = {
    "as the system sets it": {},
    "allocator alone": {name: value for name, value in WORKER_ENVIRONMENT.items() if name.startswith("MALLOC_")},
    "waiting alone": {name: value for name, value in WORKER_ENVIRONMENT.items() if name.startswith("GOMP_")},
    "the worker's": WORKER_ENVIRONMENT,
    "the worker's, threads never spin": WORKER_ENVIRONMENT | {"GOMP_SPINCOUNT": "0"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=128, help="windows (default 128)")
    parser.add_argument("--seq_len", type=int, default=128, help="tokens of each (default 128)")
    parser.add_argument("--batch_size", type=int, default=8, help="windows per batch (default 8)")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turn; medians are shown (default 5)")
    parser.add_argument("--attention", action="store_true", help="compare the attention implementations instead")
    parser.add_argument("--processes", action="store_true", help="compare ways to set up the process instead")


def run(args: argparse.Namespace) -> None:
    """Prints the figures of the section asked for."""
    case = Case((BARE, TAYLOR), samples=args.samples, seq_len=args.seq_len, batch_size=args.batch_size, runs=args.runs)
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, load before the start {os.getloadavg()[0]:.1f}")
    print(f"{case.samples} x {case.seq_len} random tokens in batches of {case.batch_size}")
    if args.attention:
        _compare_attention(case)
    elif args.processes:
        _compare_processes(case)
    else:
        _taylor_against_bare(case)


def _taylor_against_bare(case: Case) -> None:
    timed = run_alone(case, WORKER_ENVIRONMENT)
    print(f"demo model: {timed.description}\n")
    print(f"time, median of {case.runs} interleaved runs in one process (lowest to highest; seconds on all cores together):")
    for work in case.work:
        seconds, cpu_seconds = timed.seconds[work], median(timed.cpu_seconds[work])
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}; CPU {cpu_seconds:.2f}"
        print(f"  {_NAMES[work]:24s}{median(seconds):8.2f} s  ({spread})  {case.samples / median(seconds):6.1f} samples/s")
    wall, cpu = (median(figures[TAYLOR]) / median(figures[BARE]) for figures in (timed.seconds, timed.cpu_seconds))
    print(f"  ratio {wall:.3f}  (bound {_BOUND}); of CPU seconds, which a busy machine changes less, {cpu:.3f}\n")
    print(f"peak memory beyond the loaded model, median of {case.runs} fresh processes each:")
    peaks = _peaks(replace(case, runs=1), case.runs)
    for work, values in peaks.items():
        print(
            f"  {_NAMES[work]:24s}{median(values) / 2**20:8.1f} MiB  ({min(values) / 2**20:.1f} to {max(values) / 2**20:.1f})"
        )
    print(f"  ratio {median(peaks[TAYLOR]) / median(peaks[BARE]):.3f}  (bound 1.1)")
    print(f"  {'one set of gradients':24s}{timed.gradient_bytes / 2**20:8.1f} MiB of it")


def _peaks(case: Case, processes: int) -> dict[str, list[int]]:
    """Peak bytes of each kind of work, each in processes of its own."""
    peaks = {work: [] for work in case.work}
    for _ in range(processes):
        for work in case.work:
            peaks[work].append(run_alone(replace(case, work=(work,)), WORKER_ENVIRONMENT).peak_bytes)
    return peaks


def _compare_attention(case: Case) -> None:
    for model in (DEMO, *_LARGER_HEAD_DIMS):
        title = "demo model, head dim 8" if model == DEMO else f"random model, 4 layers, hidden size 1024, head dim {model}"
        cases = {name: (replace(case, model=model, attention=name), WORKER_ENVIRONMENT) for name in ("eager", "sdpa")}
        _print_table(title, cases, case.runs)


def _compare_processes(case: Case) -> None:
    for model in (DEMO, _LARGER_HEAD_DIMS[0]):
        cases = {name: (replace(case, model=model), environment) for name, environment in _PROCESSES.items()}
        title = "demo model" if model == DEMO else f"random model, 4 layers, hidden size 1024, head dim {model}"
        _print_table(title, cases, case.runs)
        with _busy_neighbour():
            _print_table(f"{title}, beside a process that keeps one core busy", cases, case.runs)


def _print_table(title: str, cases: dict[str, tuple[Case, dict[str, str]]], rounds: int) -> None:
    """One line per case, medians over rounds; each round is a fresh process for each case."""
    found: dict[str, list[Measured]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (case, environment) in cases.items():
            found[name].append(run_alone(replace(case, work=(TAYLOR, FORWARD), runs=1), environment))
    print(f"\n{title}; wall seconds (CPU seconds, page faults), median of {rounds} fresh processes:")
    for name, rounds_of in found.items():
        shown = "   ".join(f"{work} {_cell(rounds_of, work)}" for work in (TAYLOR, FORWARD))
        peak = median(measured.peak_bytes for measured in rounds_of)
        print(f"  {name:34s}{shown}   peak {peak / 2**20:6.0f} MiB")


def _cell(rounds_of: list[Measured], work: str) -> str:
    seconds, cpu, faults = (
        median(getattr(measured, figure)[work][0] for measured in rounds_of)
        for figure in ("seconds", "cpu_seconds", "page_faults")
    )
    return f"{seconds:7.2f} ({cpu:6.2f}, {faults:9,.0f})"


@contextmanager
def _busy_neighbour() -> Iterator[None]:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()
