"""`python -m benchmarks planning` runs as the README says, without torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELL = r"[\d.]+ \([\d.]+\) +"


@pytest.fixture(scope="module")
def result() -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks", "planning", "--changes", "3"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_it_names_its_basis(result):
    assert "8,030,261,248 parameters, random scores" in result.stdout
    assert "256 attention groups, 458,752 MLP channels" in result.stdout
    assert "3 changes of mixed settings for each strategy" in result.stdout


@pytest.mark.parametrize(
    "strategy", ["global, auto", "global, fixed split", "layer, inverse", "layer, match_target", "uniform"]
)
def test_every_strategy_has_three_parts_their_sum_and_a_verdict(result, strategy):
    assert re.search(rf"  {strategy} +(?:{CELL}){{4}}(pass|MISS)", result.stdout)


def test_it_needs_neither_torch_nor_streamlit(result):
    assert not any(line.endswith(("| torch", "| streamlit")) for line in result.stderr.splitlines())


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    result = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert all(name in result.stderr for name in ("importance", "planning", "quality"))
