"""`python -m benchmarks importance` runs as the README says; what its figures are depends on the machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.importance import BOUNDS
from pruning.settings import SETTINGS

ROOT = Path(__file__).parents[2]
TINY = ("--samples", "2", "--seq_len", "16", "--batch_size", "1", "--runs", "1")


def output_of(*flags: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "importance", *flags]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_every_method_of_groups_has_a_bound():
    assert set(BOUNDS) == {*SETTINGS["importance_method"].choices, "activation"}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_it_names_its_basis_and_holds_time_and_memory_against_bounds():
    output = output_of(*TINY, "--methods", "l1")
    assert "2 x 16 random tokens in batches of 1" in output
    assert "6,561,920 parameters, 32 layers, head dim 8, float32, sdpa attention" in output
    assert "median of 1 interleaved runs" in output
    times, peaks = output.split("peak memory")
    for bare in ("bare forward", "bare forward \\+ backward"):
        assert re.search(rf"{bare} +[\d.]+  \([\d.]+ to [\d.]+\)", times)
        assert re.search(rf"{bare} +[\d.]+  \([\d.]+ to [\d.]+\)", peaks)
    assert re.search(r"l1 .*(pass|MISS)  at most 1 s\n", times)
    assert re.search(r"l1 .*(pass|MISS)  at most 1\.1\n", peaks)
    assert re.search(r"one set of gradients +23\.0 of it", peaks)
