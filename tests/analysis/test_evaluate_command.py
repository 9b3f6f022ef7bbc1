"""`evaluate` and `perplexity` measure models side by side; speed is tokens over the median of the rounds."""

import ast
import builtins
import importlib.util
import json
import math
import shutil

import pandas as pd
import pytest
import torch

from analysis import latency, zero_shot
from analysis.evaluation import Evaluation, evaluate
from analysis.latency import PeakMemory, measure_latency
from pruning.errors import PruningError
from pruning.experiment_table import experiment_table
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.held_out import HeldOutText, perplexity
from pruning.runs.status import state_of
from pruning.settings import resolve
from tests.runs.quick_runs import write_text
from tests.tiny_models import tiny_model

MIB = 2**20


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "values.txt")


def reference(folder, text) -> float:
    """Perplexity of the six windows that the commands below measure."""
    loaded = load(open_checkpoint(str(folder)), resolve({}))
    return perplexity(loaded.model, HeldOutText.load(loaded.tokenizer, str(text), 16, 6).windows)


def test_two_models_side_by_side(analyse, cut, text, tmp_path):
    text_flags = ("--datasets", text, "--seq_len", 16, "--windows", 6)
    quick = ("--device", "cpu", "--prompt_tokens", 8, "--new_tokens", 4, "--repeats", 1, "--batch_sizes", "1,2")
    files = ("--csv", "table.csv", "--json", "all.json", "--output_root", cut.root)
    code, printed, complaint = analyse("evaluate", cut.source, "tiny-layer", *text_flags, *quick, *files)
    assert code == 0, complaint
    table = pd.read_csv(tmp_path / "table.csv")
    results = json.loads((tmp_path / "all.json").read_text())
    metrics = cut.experiment.metrics()["parameters"]
    assert table["parameters"].tolist() == [metrics["before"], metrics["after"]]
    expected = [reference(folder, text) for folder in (cut.source, cut.experiment.model_folder)]
    assert table["perplexity values.txt"].tolist() == pytest.approx(expected, rel=1e-6)
    for size in (1, 2):
        for phase in ("prefill", "decode"):
            assert (table[f"{phase} tokens/s, batch {size}"] > 0).all()
    assert (table["peak_bytes"] > 0).all()
    assert [result["basis"]["values.txt"]["windows"] for result in results] == [6, 6]
    assert f"{metrics['after']:,}" in printed and f"{expected[1]:,.2f}" in printed
    assert "seq 16, 6 windows, 90 predicted tokens" in printed
    # Compare takes the speed from the experiment's own metrics.
    [row] = experiment_table([cut.experiment], state_of).rows.to_dict("records")
    assert row["tokens_per_second"] == pytest.approx(table["decode tokens/s, batch 1"][1])
    basis = {"prompt_tokens": 8, "new_tokens": 4, "repeats": 1, "device": "cpu", "dtype": "float32"}
    assert cut.experiment.metrics()["latency"]["after"][0].items() >= basis.items()


def test_perplexity_prints_a_dictionary_and_its_basis(analyse, cut, text):
    arguments = ("--datasets", text, "--seq_len", 16, "--windows", 6, "--output_root", cut.root)
    code, printed, _ = analyse("perplexity", "tiny-layer", *arguments)
    line, basis = printed.splitlines()
    name, _, values = line.partition(": ")
    assert code == 0 and name == "tiny-layer"
    expected = reference(cut.experiment.model_folder, text)
    assert ast.literal_eval(values) == {"values.txt": pytest.approx(expected, rel=1e-6)}
    assert basis.startswith("values.txt: seq 16, 6 windows, 90 predicted tokens, text ")
    content = json.loads(analyse("perplexity", "tiny-layer", *arguments, "--stride", 8, "--json")[1])
    assert content["tiny-layer"]["basis"]["values.txt"]["stride"] == 8


def test_files_whose_folder_is_not_there_are_refused_before_anything_is_measured(analyse, cut):
    code, printed, complaint = analyse("evaluate", cut.source, "--csv", "nowhere/x.csv")
    assert (code, printed) == (2, "") and "nowhere/x.csv could not be written: its folder is not there" in complaint


def test_what_was_measured_is_told_where_a_later_model_fails(analyse, cut, monkeypatch):
    def fails_second(folders, wanted):
        yield {"model": str(cut.source)} | evaluate(str(cut.source), wanted)
        raise PruningError("worker_died", reason="it ended while it measured")

    monkeypatch.setattr("analysis.commands.evaluate.evaluate_all", fails_second)
    arguments = ("evaluate", cut.source, "tiny-layer", "--output_root", cut.root, "--no_perplexity", "--no_speed")
    code, printed, complaint = analyse(*arguments, "--csv", "all.csv")
    assert code == 2 and "The worker process died" in complaint
    assert "parameters" in printed and len(pd.read_csv("all.csv")) == 1


def test_a_bin_beside_other_weights_is_not_taken_for_them(analyse, cut, tmp_path):
    folder = shutil.copytree(cut.source, tmp_path / "both")
    torch.save({"weight": torch.zeros(2)}, folder / "pytorch_model.bin")
    code, _, complaint = analyse("evaluate", folder / "pytorch_model.bin")
    assert code == 2 and "holds other weights too" in complaint


@pytest.mark.parametrize("command", ["perplexity", "evaluate"])
def test_a_text_must_be_named(analyse, command):
    code, _, complaint = analyse(command, "demo", "--datasets", ",")
    assert code == 2 and "--datasets names no text" in complaint


def test_what_is_left_out_is_not_measured(cut):
    result = evaluate(str(cut.source), Evaluation(datasets=(), batch_sizes=()))
    assert result.keys() == {"parameters", "weight_bytes", "dtype", "device", "latency"} and result["latency"] == []


# speed and memory -----------------------------------------------------------------------------------------------------


def test_speed_is_tokens_over_the_median_of_the_rounds_after_one_to_warm_up(monkeypatch):
    # Seconds of (prefill, decode) of each round; the first is the warm-up.
    rounds = iter([(99.0, 99.0), (1.0, 4.0), (50.0, 2.0), (2.0, 70.0)])
    monkeypatch.setattr(latency, "_round", lambda *_: next(rounds))
    found = measure_latency(tiny_model("llama"), batch_size=3, prompt_tokens=10, new_tokens=6, repeats=3)
    assert found.prefill_tokens_per_second == 3 * 10 / 2.0
    assert found.decode_tokens_per_second == 3 * 6 / 4.0
    assert next(rounds, None) is None


def test_prompt_and_new_tokens_stay_within_what_the_model_sees():
    found = measure_latency(tiny_model("llama", max_position_embeddings=20), prompt_tokens=64, new_tokens=32, repeats=1)
    assert (found.prompt_tokens, found.new_tokens) == (10, 10)
    assert math.isfinite(found.decode_tokens_per_second)


def test_decoding_goes_through_the_cache_one_token_at_a_time():
    model, lengths = tiny_model("llama"), []
    model.register_forward_pre_hook(lambda _, __, given: lengths.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    measure_latency(model, batch_size=2, prompt_tokens=7, new_tokens=3, repeats=1)
    assert lengths == [(2, 7), (2, 1), (2, 1), (2, 1)] * 2


def test_peak_memory_is_what_was_held_at_once_since_then():
    torch.zeros(10 * MIB).add_(1)  # 40 MiB, gone before
    peak = PeakMemory(torch.device("cpu"))
    held = torch.ones(50 * MIB // 4)
    del held
    found = peak.bytes
    if found is None:
        pytest.skip("this system does not tell the memory of a process")
    assert 40 * MIB < found < 120 * MIB


# zero-shot tasks ------------------------------------------------------------------------------------------------------


def test_without_lm_eval_one_sentence_says_what_to_install(analyse, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "lm_eval" else builtins.object())
    code, printed, complaint = analyse("evaluate", "demo", "--tasks", "hellaswag")
    assert (code, printed) == (2, "")
    assert complaint == (
        "Error: Zero-shot tasks need lm-eval, which is not installed. Install it: pip install -r requirements-eval.txt\n"
    )


TASK = """task: colours
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {data}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def task_file(tmp_path):
    rows = [{"question": "def f(x):\n    return", "choices": [" x", " purple"], "answer": answer} for answer in (0, 0, 1, 0)]
    (tmp_path / "colours.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(TASK.format(data=tmp_path / "colours.jsonl"))
    return tmp_path / "tasks" / "colours.yaml"


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (requirements-eval.txt)")
def test_a_local_task_file_is_scored_as_the_model_scores_it(task_file):
    demo = load(open_checkpoint("demo"), resolve({"base_model": "demo"}))
    found = zero_shot.zero_shot(demo.model, demo.tokenizer, [str(task_file)])
    assert found == {"colours acc": 0.75}  # the demo model writes ` x`; the third row says otherwise
    assert zero_shot.zero_shot(demo.model, demo.tokenizer, [str(task_file.parent)]) == found


def test_task_files_and_folders_are_named_by_what_they_hold(task_file):
    folder = str(task_file.parent.resolve())
    assert zero_shot._named([str(task_file), "hellaswag"]) == (["colours", "hellaswag"], [folder])
    assert zero_shot._named([folder]) == (["colours"], [folder])
    task_file.write_text("group: x\n")
    with pytest.raises(PruningError, match="has no line `task: <name>`"):
        zero_shot._named([str(task_file)])
