"""Seconds and memory of `python -m analysis size` and `diff` on a 16 GB model that is not there: sparse files, headers only.

Each command runs in a process of its own, started like from a terminal: imports count. Peak memory is that of the process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ._sparse_model import sparse_model
from .planning import _cpu_name

_ROOT = Path(__file__).parents[1]
# The process reports its own peak: what the system counts for a child (ru_maxrss) includes the parent it was forked from.
_MEASURED = """
import sys
from analysis.__main__ import main
code = main(sys.argv[1:])
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""
_PLAN = ["--strategy", "layer", "--pruning_ratio", "0.25", "--pruning_distribution", "2:8"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; the median is printed (default 3)")


def run(args: argparse.Namespace) -> None:
    """Prints median and worst seconds and peak MB of each command."""
    print(f"machine: {_cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        before = sparse_model(Path(folder) / "before")
        after = sparse_model(Path(folder) / "after")
        sizes = [file.stat() for file in before.glob("*.safetensors")]
        held = sum(stat.st_blocks * 512 for stat in sizes)
        print(f"model: {sum(stat.st_size for stat in sizes):,} bytes announced in {len(sizes)} files, {held:,} on the disk")
        output = ["--output", str(Path(folder) / "table.csv")]
        pair = ["--original_model", str(before), "--pruned_model", str(after)]
        for name, command in {
            "size": ["size", str(before)],
            "size, original and pruned": ["size", *pair],
            "diff, two folders": ["diff", *pair, *output],
            "diff, folder and settings": ["diff", "--original_model", str(before), *_PLAN, *output],
            "diff, config alone": ["diff", "--config", str(before / "config.json"), *_PLAN, *output],
            "details": ["details", "--config", str(before / "config.json"), *_PLAN],
        }.items():
            seconds, peaks = zip(*(_measured(command) for _ in range(args.runs)), strict=True)
            median, worst = statistics.median(seconds), max(seconds)
            print(f"  {name:26s} median {median:5.2f} s   worst {worst:5.2f} s   peak {max(peaks) / 1e6:5.0f} MB")


def _measured(command: list[str]) -> tuple[float, int]:
    """Seconds from start to end, and the peak memory of the process in bytes."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _MEASURED, *command], cwd=_ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"python -m analysis {' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return seconds, int(done.stderr.split()[-2]) * 1024
