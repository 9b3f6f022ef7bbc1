"""What recovery costs before it is started: rows of the table, and the time that a measurement promises."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import recovery_cost
from analysis.recovery_cost import AT_MOST, EXACT, UNKNOWN, computes_in_ram, cost_table, repair_bytes, tokens_of_batch
from pruning.errors import PruningError
from pruning.experiment import COST_FILE, Experiment
from pruning.files import write_json
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ModelShape
from pruning.runs.measured_cost import Measured, read_measured
from pruning.settings import resolve

CONFIG = Path(__file__).parents[2] / "assets" / "demo_model" / "config.json"
SETTINGS = resolve({"finetune": True, "reconstruct": True, "finetune_samples": 500, "seq_len": 64, "lora_r": 8})
MEASURED = Measured(SETTINGS.as_dict(), of_step=0.5, of_evaluation=2.0, of_repair=30.0, windows=500)
GIB = 2**30


@pytest.fixture(scope="module")
def plan() -> PruningPlan:
    return PruningPlan.keep_all(ModelShape.from_config(json.loads(CONFIG.read_text())))


def test_each_way_has_a_row_and_the_chosen_ones_are_marked(plan):
    table = cost_table(plan, SETTINGS, is_repaired=False, memory_here=GIB, measured=None).set_index("way")
    assert list(table.index) == ["repair", "lora", "full"] and list(table["is_chosen"]) == [True, True, False]
    lora = 8 * 32 * (2 * (128 + 128) + 2 * (128 + 32) + 3 * (128 + 384))  # q, o; k, v; gate, up, down
    assert table.loc["lora", "trained"] == lora and table.loc["full", "trained"] == 6_561_920
    assert table.loc["full", "share"] == 1 and table.loc["repair", "tokens"] == 65536
    assert list(table["steps"]) == [0, 63, 63] and table.loc["lora", "tokens"] == 63 * 8 * 64
    assert table["fits"].all() and table["seconds"].isna().all() and set(table["length"]) == {AT_MOST}
    assert list(cost_table(plan, SETTINGS, True, GIB, None)["way"]) == ["lora", "full"]  # what is repaired stays so


def test_memory_grows_with_what_is_trained_and_may_not_be_there(plan):
    table = cost_table(plan, SETTINGS, False, memory_here=1, measured=None).set_index("way")
    assert not table["fits"].any()
    assert table.loc["full", "memory"] > table.loc["lora", "memory"]
    distilled = cost_table(plan, replace(SETTINGS, distill_weight=0.5), False, 1, None).set_index("way")
    assert distilled["distils"].to_dict() == {"repair": False, "lora": True, "full": True}
    assert distilled.loc["lora", "memory"] >= table.loc["lora", "memory"] + 6_561_920 * 4
    assert repair_bytes(plan.shape, 4) == 2 * 6_561_920 * 4 + 4 * 384**2 * 4


def test_a_measured_time_holds_for_other_lengths_of_the_same_training(plan):
    table = cost_table(plan, replace(SETTINGS, finetune_steps=100), False, GIB, MEASURED).set_index("way")
    assert table.loc["lora", "seconds"] == 100 * 0.5 + 7 * 2.0  # evaluated before, every 20 steps, and after
    assert table.loc["repair", "seconds"] == 30 and np.isnan(table.loc["full", "seconds"])
    longer = cost_table(plan, replace(SETTINGS, reconstruct_tokens=10**6), False, GIB, MEASURED).set_index("way")
    assert np.isnan(longer.loc["repair", "seconds"])


@pytest.mark.parametrize("corpus", ["python-stdlib", "wikitext2", "text.txt"])
def test_how_long_a_text_is_shows_when_it_is_read(plan, tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("short")
    settings = replace(SETTINGS, corpus=corpus)
    row = cost_table(plan, settings, True, GIB, None).set_index("way").loc["lora"]
    assert (row["length"], row["steps"]) == (AT_MOST, 63)
    read = Measured(settings.as_dict(), of_step=0.5, of_evaluation=2.0, windows=20)
    row = cost_table(plan, settings, True, GIB, read).set_index("way").loc["lora"]
    assert (row["length"], row["steps"], row["tokens"], row["seconds"]) == (EXACT, 3, 3 * 8 * 64, 3 * 0.5 + 2 * 2.0)
    row = cost_table(plan, replace(settings, finetune_samples=400), True, GIB, read).set_index("way").loc["lora"]
    assert (row["length"], row["steps"]) == (AT_MOST, 50)
    row = cost_table(plan, replace(settings, finetune_steps=7), True, GIB, None).set_index("way").loc["lora"]
    assert (row["length"], row["steps"], row["tokens"]) == (EXACT, 7, 7 * 8 * 64)


@pytest.mark.parametrize("corpus", ["yahma/alpaca-cleaned", "set.jsonl", "set.json"])
def test_of_instructions_nobody_knows_how_many_windows_they_fill(plan, tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    Path("set.jsonl").touch(), Path("set.json").touch()
    settings = replace(SETTINGS, finetune_corpus=corpus)
    measured = Measured(replace(settings, finetune_samples=9).as_dict(), of_step=0.5, of_evaluation=2.0, windows=20)
    table = cost_table(plan, settings, True, GIB, measured)
    assert set(table["length"]) == {UNKNOWN} and table[["steps", "tokens", "seconds"]].isna().all(axis=None)
    read = Measured(settings.as_dict(), of_step=0.5, of_evaluation=2.0, windows=20)
    assert cost_table(plan, settings, True, GIB, read).set_index("way").loc["lora", "steps"] == 3


def test_what_is_free_on_a_gpu_is_not_what_is_free_in_memory(plan, monkeypatch):
    assert cost_table(plan, SETTINGS, False, None, None)["fits"].tolist() == [None] * 3
    assert computes_in_ram(replace(SETTINGS, device="cpu")) and not computes_in_ram(replace(SETTINGS, device="cuda:1"))
    monkeypatch.setattr(recovery_cost, "version", lambda _: "2.13.0")
    monkeypatch.setattr(recovery_cost, "_GPU_DRIVERS", (str(CONFIG),))  # something that is there
    assert not computes_in_ram(replace(SETTINGS, device="auto"))
    monkeypatch.setattr(recovery_cost, "_GPU_DRIVERS", ("/nowhere",))
    assert computes_in_ram(replace(SETTINGS, device="auto"))


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"finetune_lr": 1e-3, "finetune_samples": 2000}, True),
        ({"finetune_batch_size": 2}, False),
        ({"finetune_accumulation": 2}, False),
        ({"seq_len": 32}, False),
        ({"finetune_seq_len": 32}, False),
        ({"finetune_seq_len": 64}, True),  # as it was
        ({"lora_r": 16}, False),
        ({"eval_windows": 1000}, False),
        ({"gradient_batch_size": 1}, False),
        ({"gradient_checkpointing": True}, False),
        ({"distill_weight": 0.5}, False),
        ({"device": "cuda"}, False),
    ],
)
def test_a_measurement_is_of_what_makes_a_step_long(changes, holds):
    assert MEASURED.is_of(replace(SETTINGS, **changes)) == holds
    distilled = Measured(replace(SETTINGS, distill_weight=0.5).as_dict(), 0.5, 2.0)
    assert distilled.is_of(replace(SETTINGS, distill_weight=0.9))  # the other model is asked either way


def test_the_file_of_a_measurement(tmp_path):
    experiment = Experiment.create(tmp_path, "one")
    assert read_measured(experiment) is None
    write_json(experiment.path(COST_FILE), {"format_version": 1, "settings": SETTINGS.as_dict()})
    assert read_measured(experiment) is None  # asked for, and not measured yet
    content = {"format_version": 1, "settings": SETTINGS.as_dict(), "seconds_per_step": 0.5, "seconds_per_evaluation": 2.0}
    write_json(experiment.path(COST_FILE), content | {"repair_seconds": 30.0, "windows": 500})
    assert read_measured(experiment) == MEASURED
    write_json(experiment.path(COST_FILE), {"format_version": 1})
    with pytest.raises(PruningError, match=r"recovery_cost\.json cannot be read"):
        read_measured(experiment)


def test_tokens_of_a_batch():
    assert tokens_of_batch(SETTINGS) == 8 * 64
    assert tokens_of_batch(replace(SETTINGS, finetune_seq_len=32, finetune_batch_size=2)) == 64
