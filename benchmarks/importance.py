"""Time and memory of every importance method against its bare pass over the same batches; with flags, what settings rest on.

    (no flag)      method / bare pass: wall and CPU seconds, peak memory   demo model
    --attention    eager / sdpa                                            demo model, random models of larger heads
    --processes    memory allocator and waiting threads, with and without a busy neighbour

Everything is measured in fresh processes that are set up as the app's worker is. Bare passes are what a user of the model
writes: `model(input_ids)` with its logits in inference mode, or `model(input_ids, labels).loss.backward()`, gradients added
up over the batches for the parameters that groups are made of.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

from pruning import methods
from pruning.runs.environment import WORKER_ENVIRONMENT

from ._case import BARE, DEMO, FORWARD, LAYER_METHOD, Case, Measured, run_alone
from ._flags import add_names

TAYLOR = "taylor"
_LARGER_HEAD_DIMS = ("64", "128")
_PROCESSES = {
    "as the system sets it": {},
    "allocator alone": {name: value for name, value in WORKER_ENVIRONMENT.items() if name.startswith("MALLOC_")},
    "waiting alone": {name: value for name, value in WORKER_ENVIRONMENT.items() if name.startswith("GOMP_")},
    "the worker's": WORKER_ENVIRONMENT,
    "the worker's, threads never spin": WORKER_ENVIRONMENT | {"GOMP_SPINCOUNT": "0"},
}


@dataclass(frozen=True)
class _Bound:
    """At most `limit` times the bare pass in wall seconds; without one, at most `limit` seconds."""

    bare: str | None
    limit: float


_BY_PASSES = {
    methods.WEIGHTS_ONLY: _Bound(None, 1.0),
    methods.FORWARD: _Bound(FORWARD, 1.25),
    methods.BACKWARD_TO_ACTIVATIONS: _Bound(BARE, 1.0),
    methods.BACKWARD: _Bound(BARE, 1.25),
}
BOUNDS = {LAYER_METHOD: _BY_PASSES[methods.FORWARD]} | {
    method.name: _BY_PASSES[method.passes] for method in methods.IMPORTANCE_METHODS.values()
}
_MEMORY_BOUND = 1.1  # times the peak of the bare forward + backward
_MEMORY_BATCHES, _MEMORY_PROCESSES = 4, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=128, help="windows (default 128)")
    parser.add_argument("--seq_len", type=int, default=128, help="tokens of each (default 128)")
    parser.add_argument("--batch_size", type=int, default=8, help="windows per batch (default 8)")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turn; medians are shown (default 5)")
    add_names(parser, "--methods", BOUNDS)
    parser.add_argument("--attention", action="store_true", help="compare the attention implementations instead")
    parser.add_argument("--processes", action="store_true", help="compare ways to set up the process instead")


def run(args: argparse.Namespace) -> None:
    """Prints the figures of the section asked for."""
    case = Case((TAYLOR,), samples=args.samples, seq_len=args.seq_len, batch_size=args.batch_size, runs=args.runs)
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, load before the start {os.getloadavg()[0]:.1f}")
    print(f"{case.samples} x {case.seq_len} random tokens in batches of {case.batch_size}")
    if args.attention:
        _compare_attention(case)
    elif args.processes:
        _compare_processes(case)
    else:
        _methods_against_bare(replace(case, work=(FORWARD, BARE, *args.methods)))


def _methods_against_bare(case: Case) -> None:
    timed = run_alone(case, WORKER_ENVIRONMENT)
    print(f"demo model: {timed.description}\n")
    print(f"time, median of {case.runs} interleaved runs in one process (lowest to highest); load {os.getloadavg()[0]:.1f}:")
    wall, cpu = ({work: median(of[work]) for work in case.work} for of in (timed.seconds, timed.cpu_seconds))
    print(f"  {'':24s}{'wall s':>9s}{'':20s}{'CPU s':>8s}{'/ bare':>8s}{'CPU / bare':>11s}  bound (of wall seconds)")
    for work in case.work:
        spread = f"({min(timed.seconds[work]):.2f} to {max(timed.seconds[work]):.2f})"
        figures = f"  {work:24s}{wall[work]:9.3f}  {spread:18s}{cpu[work]:8.3f}"
        print(figures + (_verdict(work, wall, cpu) if work in BOUNDS else ""))
    _compare_memory(case)
    print(f"  {'one set of gradients':24s}{timed.gradient_bytes / 2**20:9.1f} of it")


def _verdict(method: str, wall: dict[str, float], cpu: dict[str, float]) -> str:
    bound = BOUNDS[method]
    if bound.bare is None:
        return f"{'':19s}  {_pass(wall[method] <= bound.limit)}  at most {bound.limit:.0f} s"
    ratios = [seconds[method] / seconds[bound.bare] for seconds in (wall, cpu)]
    return f"{ratios[0]:8.3f}{ratios[1]:11.3f}  {_pass(ratios[0] <= bound.limit)}  at most {bound.limit:.2f} x {bound.bare}"


def _compare_memory(case: Case) -> None:
    """A fresh process for each kind of work; a peak is reached within a few batches."""
    few = replace(case, samples=min(case.samples, _MEMORY_BATCHES * case.batch_size), runs=1)
    peaks = {work: [] for work in case.work}
    for _ in range(min(case.runs, _MEMORY_PROCESSES)):
        for work in case.work:
            peaks[work].append(run_alone(replace(few, work=(work,)), WORKER_ENVIRONMENT).peak_bytes)
    processes = len(peaks[BARE])
    print(f"\npeak memory beyond the loaded model, {few.samples} samples, median of {processes} fresh processes each:")
    print(f"  {'':24s}{'MiB':>9s}{'':20s}{'/ forward + backward':>20s}  bound")
    for work, values in peaks.items():
        spread = f"({min(values) / 2**20:.1f} to {max(values) / 2**20:.1f})"
        ratio = median(values) / median(peaks[BARE])
        verdict = f"{ratio:20.3f}  {_pass(ratio <= _MEMORY_BOUND)}  at most {_MEMORY_BOUND}" if work in BOUNDS else ""
        print(f"  {work:24s}{median(values) / 2**20:9.1f}  {spread:18s}{verdict}")


def _pass(holds: bool) -> str:
    return "pass" if holds else "MISS"


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
