"""`python -m benchmarks planning` runs as the README says, without torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_names_its_basis_and_its_times():
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks", "planning", "--positions", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "8,030,261,248 parameters, random scores" in result.stdout
    assert "256 attention groups, 458,752 MLP channels" in result.stdout
    assert result.stdout.count("median") == 6
    assert not any(line.endswith(("| torch", "| streamlit")) for line in result.stderr.splitlines())


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    result = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "planning" in result.stderr
