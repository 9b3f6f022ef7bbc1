"""`python -m benchmarks importance` runs as the README says; what its figures are depends on the machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ("--samples", "2", "--seq_len", "16", "--batch_size", "1", "--runs", "1")


def output_of(*flags: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "importance", *flags]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_it_names_its_basis_both_times_and_both_peaks():
    output = output_of(*TINY)
    assert "2 x 16 random tokens in batches of 1" in output
    assert "6,561,920 parameters, 32 layers, head dim 8, float32, sdpa attention" in output
    assert "median of 1 interleaved runs" in output
    for name in ("bare forward \\+ backward", "taylor"):
        assert re.search(rf"{name} +[\d.]+ s .* samples/s", output)
        assert re.search(rf"{name} +[\d.]+ MiB", output)
    assert re.search(r"ratio [\d.]+  \(bound 1\.2\)", output)
    assert re.search(r"ratio [\d.]+  \(bound 1\.1\)", output)
    assert "one set of gradients        23.0 MiB" in output


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_it_compares_attention_code_on_three_models():
    output = output_of(*TINY, "--attention")
    for model in ("demo model, head dim 8", "head dim 64", "head dim 128"):
        table = output.split(model)[1].splitlines()[1:3]
        assert [line.split()[0] for line in table] == ["eager", "sdpa"]
        assert all("taylor" in line and "forward" in line and "MiB" in line for line in table)
