"""`python -m benchmarks quality`: its rows, what it saves, and how it goes on."""

import argparse
import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks._quality_rows import Results, Row
from benchmarks.quality import _at_random
from pruning.planning.plan import PruningPlan
from tests.planning.examples import random_table, small_shape

TINY = ("--windows", "2", "--seq_len", "16", "--samples", "1", "--seeds", "2", "--ratios", "0.1,0.9")
ROW = Row("global", "none", 0.25, "l1", 0.2499, "0123456789abcdef", 20.0, 30.0, 1.0, 29.0, 31.0)
BASIS = {"compared": {"windows": 2}, "noted": {"load": 0.5}}


@pytest.mark.parametrize(("perplexity", "verdict"), [(28.9, "yes"), (29.0, "unclear"), (30.0, "no"), (math.inf, "no")])
def test_a_plan_beats_random_cuts_only_if_it_is_better_than_every_one(perplexity, verdict):
    assert replace(ROW, perplexity=perplexity).beats_random == verdict


def test_rows_and_perplexities_come_back_as_they_were_saved(tmp_path):
    results = Results(tmp_path, BASIS)
    results.perplexities = {"0123456789abcdef": 20.0, "fedcba9876543210": math.inf}
    refused = Row("global", "default", 0.9, "l1", refused="`pruning_ratio` is 0.9, too much")
    for row in (ROW, refused, replace(ROW, ratio=0.4, perplexity=math.inf)):
        results.add(row)
    again = Results.resumed(tmp_path, BASIS)
    assert again.rows == results.rows
    assert again.perplexities == results.perplexities


def test_figures_on_another_basis_are_not_gone_on_from(tmp_path):
    Results(tmp_path, BASIS).add(ROW)
    with pytest.raises(SystemExit, match="another windows"):
        Results.resumed(tmp_path, BASIS | {"compared": {"windows": 3}})


def test_measured_anew_rows_keep_what_a_recovery_of_their_plan_gave(tmp_path):
    before = Results(tmp_path, BASIS)
    before.recovery_basis = {"tokens": 256}
    not_asked, other_plan = replace(ROW, ratio=0.4, lora=24.0), replace(ROW, method="l2", lora=25.0)
    for row in (replace(ROW, lora=19.0), not_asked, other_plan, replace(ROW, method="wanda")):
        before.add(row)
    results = Results.anew(tmp_path, BASIS)
    assert not results.rows  # all that is asked for is measured
    results.add(replace(ROW, perplexity=20.5))
    results.add(replace(ROW, method="l2", plan="fedcba9876543210"))
    held = Results.resumed(tmp_path, BASIS)
    expected = [replace(ROW, perplexity=20.5, lora=19.0), replace(ROW, method="l2", plan="fedcba9876543210"), not_asked]
    assert list(held.rows.values()) == expected and held.recovery_basis == {"tokens": 256}


def test_what_a_recovery_gave_on_another_basis_is_said_to_be_dropped(tmp_path, capsys):
    Results(tmp_path, BASIS).add(replace(ROW, lora=19.0))
    results = Results.anew(tmp_path, BASIS | {"compared": {"windows": 3}})
    assert "columns of 1 recovered rows are dropped: they were measured on another windows" in capsys.readouterr().out
    results.add(ROW)
    assert (tmp_path / "quality.csv").read_text().count("\n") == 2 and "19.0" not in (tmp_path / "quality.csv").read_text()


def test_a_cut_at_random_keeps_the_sizes_and_differs_by_seed():
    table = random_table(small_shape())
    kept = np.ones(table.groups.size, dtype=bool)
    kept[table.order[: len(table.order) // 2]] = False
    kept[table.rank_from_best == 0] = True
    plan = PruningPlan(table.shape, kept)
    first, again, second = (_at_random(plan, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.kept_counts, plan.kept_counts)
    assert first.digest == again.digest
    assert len({plan.digest, first.digest, second.digest}) == 3


def test_it_saves_its_rows_and_goes_on_with_what_is_missing(tmp_path, capsys):
    run_here(tmp_path, "--methods", "l1", "--strategies", "uniform,layer")
    assert "6 rows" in capsys.readouterr().out
    run_here(tmp_path, "--methods", "l1,l2", "--strategies", "uniform", "--resume")
    again = capsys.readouterr().out
    assert "2 rows" in again  # l2 alone; the sizes at random are those of l1
    assert "importance of groups by l1" not in again
    with (tmp_path / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategy"], row["protection"], row["ratio"], row["method"]) for row in rows] == [
        ("uniform", "none", "0.1", "l1"),
        ("uniform", "none", "0.9", "l1"),
        ("layer", "default", "0.1", "l1"),
        ("layer", "default", "0.9", "l1"),
        ("layer", "none", "0.1", "l1"),
        ("layer", "none", "0.9", "l1"),
        ("uniform", "none", "0.1", "l2"),
        ("uniform", "none", "0.9", "l2"),
    ]
    assert float(rows[0]["actual_ratio"]) == pytest.approx(0.1, abs=0.002)
    assert rows[0]["random_mean"] == rows[6]["random_mean"]
    assert "0.9" in rows[1]["refused"] and not rows[1]["perplexity"]
    saved = json.loads((tmp_path / "quality.json").read_text())
    assert saved["basis"]["compared"]["windows"] == 2
    assert rows[0]["plan"] in saved["perplexities"]
    assert "uniform, protection none" in again and "no such plan" in again


def test_recovery_adds_its_columns_to_the_rows_that_are_there(tmp_path):
    flags = ("--methods", "taylor", "--strategies", "global", "--ratios", "0.1", "--windows", "4", "--seq_len", "32")
    run_here(tmp_path, *flags)
    before = Results.resumed(tmp_path, {"compared": {}})
    asked = ("--recovery", "reconstruct,lora", "--recovery_ratios", "0.1", "--tokens", "256", "--finetune_samples", "8")
    run_here(tmp_path, *flags, *asked)
    after = Results.resumed(tmp_path, {"compared": {}})
    assert after.perplexities == before.perplexities and after.rows.keys() == before.rows.keys()
    key = ("global", "default", 0.1, "taylor")
    recovered = after.rows[key]
    assert recovered.reconstruct > 1 and recovered.lora > 1 and recovered.lora_cut is None
    assert replace(recovered, reconstruct=None, lora=None) == before.rows[key]
    assert after.recovery_basis["finetune_samples"] == 8


def run_here(folder: Path, *flags: str) -> None:
    """As `python -m benchmarks quality`, without the time that a process takes to start."""
    parser = argparse.ArgumentParser()
    quality.add_arguments(parser)
    quality.run(parser.parse_args([*TINY, "--output", str(folder), *flags]))
