"""`python -m pruning`: the whole road on the demo model, and one sentence for each thing that cannot be done."""

import contextlib
import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from pruning.__main__ import main
from pruning.experiment import Experiment
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.held_out import HeldOutText, perplexity
from pruning.planning.shape import ATTENTION, MLP
from pruning.runs.status import STEPS, read_status
from pruning.settings import GROUPS, OF_THE_PERSON, SETTINGS, resolve
from tests import fresh_python
from tests.runs.quick_runs import RESULT, files_of, save_tiny_model, wait_until, write_text

PROJECT = Path(__file__).parents[1]
DEMO_PARAMETERS = 6_561_920
PROTECTED = (0, 1, 2, 30, 31)
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
FILES = {
    *("description.txt", "global_group_table.csv", "global_group_table.csv.json", "groups_to_prune.csv"),
    *("groups_to_prune.csv.json", "plan.json", "metrics.json", "pruning_analysis.csv", "samples.json", "job.json"),
    *("<time>", "<time>/training.log", "model", "pruning_strategy.png", "request.json"),
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pruning", *map(str, arguments)]


# the whole road -------------------------------------------------------------------------------------------------------


class Road:
    """A finished run, in a process of its own if that is asked for: its experiment and what it printed."""

    def __init__(self, root: Path, name: str, *flags: str, in_its_own_process: bool):
        self.experiment = Experiment(root / name)
        fewer = ("--num_samples", "8", "--eval_windows", "8", "--output_root", root)
        fixed = ("--base_model", "demo", "--experiment_name", name, "--pruning_ratio", "0.25")
        wanted = ("--test_before_prune", "--test_after_prune", "--save_model")
        arguments = ["global", *map(str, (*fixed, *wanted, *fewer, *flags))]
        if in_its_own_process:
            done = subprocess.run(command(*arguments), cwd=PROJECT, capture_output=True, text=True)
            self.exit_code, self.printed, self.complaints = done.returncode, done.stdout, done.stderr
        else:
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
                self.exit_code = main(arguments)
            self.printed, self.complaints = out.getvalue(), errors.getvalue()
        self.metrics = self.experiment.metrics()
        self.plan = self.experiment.read_plan()


@pytest.fixture(scope="module", params=["auto", "3:7"])
def road(request, tmp_path_factory) -> Road:
    """The issue's command, on fewer samples; with scores alone, and with a split that takes attention groups too."""
    root, split = tmp_path_factory.mktemp("prune_log"), ("--pruning_distribution", request.param)
    return Road(root, "first", *split, in_its_own_process=request.param == "auto")


def test_it_ends_well_and_without_complaint(road):
    assert (road.exit_code, road.complaints) == (0, "")
    assert read_status(road.experiment).state == "done"


def test_all_files_are_there_and_nothing_else(road):
    files = files_of(road.experiment)
    assert {name for name in files if not name.startswith("model/")} == FILES
    in_model = {name.removeprefix("model/") for name in files if name.startswith("model/")}
    assert in_model == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("README.md", "plan.json", "configuration_pruned.py", "modeling_pruned.py"),
    }


def test_the_ratio_comes_within_a_fifth_of_a_point_below_the_target(road):
    ratio, parameters = road.metrics["ratio"], road.metrics["parameters"]
    assert parameters["before"] == DEMO_PARAMETERS
    assert ratio["actual"] == pytest.approx(1 - parameters["after"] / DEMO_PARAMETERS)
    assert (ratio["target"], ratio["target_basis"]) == (0.25, "model")
    assert 0.25 - 0.002 <= ratio["actual"] <= 0.25
    weights = load_file(road.experiment.path("model", "model.safetensors"))
    assert sum(weight.numel() for weight in weights.values()) == parameters["after"]


def test_query_heads_stay_four_to_one_and_protected_layers_whole(road):
    weights = load_file(road.experiment.path("model", "model.safetensors"))
    smaller = 0
    for layer in range(32):
        rows = {name: weights[f"model.layers.{layer}.{name}.weight"].shape[0] for name in MATRICES}
        assert rows["self_attn.q_proj"] == 4 * rows["self_attn.k_proj"] == 4 * rows["self_attn.v_proj"] > 0
        assert rows["mlp.gate_proj"] == rows["mlp.up_proj"] > 0
        whole = rows["self_attn.k_proj"] == 4 * 8 and rows["mlp.up_proj"] == 384
        assert whole or layer not in PROTECTED
        smaller += rows["self_attn.k_proj"] < 4 * 8
    if road.experiment.settings.pruning_distribution != "auto":
        assert smaller >= 10


def test_tables_and_plan_agree(road):
    with road.experiment.path("global_group_table.csv").open() as file:
        table = list(csv.DictReader(file))
    with road.experiment.path("groups_to_prune.csv").open() as file:
        going = list(csv.DictReader(file))
    assert list(table[0]) == ["layer_idx", "group_type", "group_idx", "importance", "cost", "score"]
    assert len(table) == 32 * (4 + 384)
    for rows in (table, going):
        scores = [float(row["score"]) for row in rows]
        assert scores == sorted(scores)
    removed = {(int(row["layer_idx"]), row["group_type"], int(row["group_idx"])) for row in going}
    assert removed == {
        (layer, kind, group)
        for layer in range(32)
        for kind, count in ((ATTENTION, 4), (MLP, 384))
        for group in set(range(count)) - set(road.plan.kept_groups(layer, kind).tolist())
    }
    assert sum(int(row["cost"]) for row in going) == DEMO_PARAMETERS - road.metrics["parameters"]["after"]
    sidecar = json.loads(road.experiment.path("global_group_table.csv.json").read_text())
    assert (sidecar["method"], sidecar["fingerprint"]) == ("taylor", road.metrics["fingerprint"])
    assert {"corpus": "python-stdlib", "num_samples": 8, "seq_len": 128, "seed": 0}.items() <= sidecar["calibration"].items()


def test_metrics_have_every_field(road):
    metrics = road.metrics
    assert metrics.keys() == {
        *(
            "format_version",
            "fingerprint",
            "basis",
            "parameters",
            "ratio",
            "size_bytes",
            "perplexity",
            "export_check",
            "seconds",
        )
    }
    assert metrics["basis"].keys() == {"dataset", "corpus_sha256", "python", "seq_len", "windows", "predicted_tokens"}
    assert (metrics["basis"]["windows"], metrics["basis"]["predicted_tokens"]) == (8, 8 * 127)
    assert metrics["perplexity"].keys() == {"before", "after"}
    assert 10 < metrics["perplexity"]["before"]["python-stdlib (held-out)"] < 30
    assert metrics["seconds"].keys() == STEPS.keys() - {"empty_layers", "recovery"}
    model = road.experiment.path("model", "model.safetensors")
    assert metrics["size_bytes"] == {"before": 13_155_360, "after": model.stat().st_size}
    check = metrics["export_check"]["hf"]
    assert check["max_abs_diff"] < 1e-4 and check["top1"] > 0.999


def test_perplexities_ratio_and_steps_are_printed_with_their_basis(road):
    for stage in ("before", "after"):
        value = road.metrics["perplexity"][stage]["python-stdlib (held-out)"]
        line = rf"^perplexity {stage}\s+{value:.2f} \(python-stdlib \(held-out\), seq 128, 8 windows\)$"
        assert re.search(line, road.printed, re.MULTILINE)
    after = road.metrics["parameters"]["after"]
    assert re.search(rf"^parameters\s+6,561,920 -> {after:,}$", road.printed, re.MULTILINE)
    actual = road.metrics["ratio"]["actual"]
    assert f"{actual:.2%} of all parameters (target 25.00% of all parameters)" in road.printed
    log = road.experiment.path(read_status(road.experiment).log).read_text()
    for number, name in enumerate(STEPS.values(), start=1):
        assert f"[Step {number}/11] {name}" in road.printed and f"[Step {number}/11] {name}" in log


def test_the_saved_model_has_the_perplexity_that_was_measured_in_memory(road):
    saved = load(open_checkpoint(str(road.experiment.model_folder)), resolve({}))
    text = HeldOutText.load(saved.tokenizer, "python-stdlib", 128, 8)
    # The files are in bfloat16, as the demo model's are, and the cut changes no value: rounding changes nothing.
    measured = road.metrics["perplexity"]["after"][text.basis["dataset"]]
    assert perplexity(saved.model, text.windows) == pytest.approx(measured, rel=1e-5)


def test_description_says_every_setting_and_what_ran(road):
    description = road.experiment.description()
    assert description["settings"].keys() == SETTINGS.keys() - set(OF_THE_PERSON) | {"strategy"}
    assert description["settings"]["pruning_ratio"] == 0.25
    assert description["fingerprint"] == road.metrics["fingerprint"]
    assert {"python", "torch", "transformers"} <= description["versions"].keys()


# shorter runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A tiny model and a text."""
    folder = tmp_path_factory.mktemp("source")
    save_tiny_model(folder / "tiny")
    write_text(folder / "values.txt")
    return folder


@pytest.fixture
def prune(source, tmp_path, capsys):
    """Runs `global` (or another command) on the tiny model in this process: exit code, standard output, standard error."""
    quick = {"base_model": source / "tiny", "corpus": source / "values.txt", "eval_corpus": source / "values.txt"}
    quick |= {"experiment_name": "run", "output_root": tmp_path / "log", "pruning_ratio": 0.03}
    quick |= {"num_samples": 4, "seq_len": 16, "eval_seq_len": 16, "eval_windows": 4}

    def run(*flags: object, command: str = "global", without: tuple[str, ...] = (), **changes) -> tuple[int, str, str]:
        values = {name: value for name, value in (quick | changes).items() if name not in without}
        arguments = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        code = main([command, *arguments, *map(str, flags)])
        return code, *capsys.readouterr()

    run.root = tmp_path / "log"
    return run


def assert_refused(result: tuple[int, str, str], root: Path) -> str:
    """Exit code 2, one sentence, nothing left behind; gives the sentence."""
    code, _, complaint = result
    assert code == 2, result
    assert complaint.startswith("Error: ") and complaint.endswith("\n") and complaint.count("\n") == 1, complaint
    assert not root.exists() or not any(root.iterdir())
    return complaint.removeprefix("Error: ").strip()


def test_a_short_run_says_how_it_ended(prune):
    code, printed, complaint = prune()
    assert (code, complaint) == (0, "")
    assert re.search(rf"^experiment\s+{re.escape(str(prune.root / 'run'))}$", printed, re.MULTILINE)
    assert "perplexity" not in printed.split("[Step 11/11]")[1]
    assert not (prune.root / "run" / "model").exists()


def test_without_a_ratio_it_measures_the_model_as_it_is_and_stops(prune):
    code, printed, _ = prune("--test_before_prune", without=("pruning_ratio",))
    assert code == 0 and "perplexity before" in printed and "[Step 3/11]" not in printed
    experiment = Experiment(prune.root / "run")
    assert experiment.metrics()["perplexity"].keys() == {"before"}
    assert not experiment.has("global_group_table.csv")


def test_the_name_of_an_experiment_is_made_from_model_strategy_ratio_and_time(prune):
    assert prune(without=("experiment_name",))[0] == 0
    assert [re.sub(r"\d{8}-\d{6}", "<time>", f.name) for f in prune.root.iterdir()] == ["tiny-global-0.03-<time>"]


def test_old_names_are_accepted_with_a_note(prune):
    code, printed, complaint = prune("--num_examples", 3, "--max_seq_len", 12, without=("num_samples", "seq_len"))
    assert code == 0
    assert complaint == "Note: --num_examples is now called --num_samples.\nNote: --max_seq_len is now called --seq_len.\n"
    experiment = Experiment(prune.root / "run")
    assert (experiment.settings.num_samples, experiment.settings.seq_len) == (3, 12)
    assert (
        experiment.path(read_status(experiment).log).read_text().endswith(complaint + printed[printed.index("experiment  ") :])
    )


def test_an_experiment_that_exists_is_replaced_only_when_told(prune):
    assert prune()[0] == 0
    plan = (prune.root / "run" / "plan.json").read_bytes()
    code, _, complaint = prune(pruning_ratio=0.02)
    assert code == 2 and complaint.startswith("Error: The experiment 'run' exists already. Choose another name, or pass --over")
    assert (prune.root / "run" / "plan.json").read_bytes() == plan
    assert prune("--overwrite", pruning_ratio=0.02)[0] == 0
    assert (prune.root / "run" / "plan.json").read_bytes() != plan


# what cannot be done --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pruning_ratio": 0}, "`pruning_ratio` is 0; it must be a number above 0 and below 1."),
        ({"pruning_ratio": 1}, "`pruning_ratio` is 1; it must be a number above 0 and below 1."),
        ({"pruning_ratio": 1.4}, "`pruning_ratio` is 1.4; it must be a number above 0 and below 1."),
        ({"pruning_ratio": "much"}, "`pruning_ratio` is 'much'; it must be a number above 0 and below 1."),
        (
            {"pruning_ratio": 0.5},
            "0.5 of all parameters cannot be removed: with this protection and these floors at most 0.0467",
        ),
        ({"protected_layers": "99"}, "There is no layer 99: this model has the layers 0 to 4."),
        ({"protected_layers": "0-4"}, "Every layer is protected, so nothing can be cut. Protect fewer layers."),
        ({"protected_layers": "first"}, "'first' is not a list of layers. Write for example 0-2,17,30-31, or none."),
        ({"block_mlp_layer_start": 4, "block_mlp_layer_end": 3}, "`block_mlp_layer_start` is 4 and `block_mlp_layer_end` is 3"),
        ({"pruning_distribution": "10:0"}, "The split 10:0 asks for "),
        ({"pruning_distribution": "all"}, "`pruning_distribution` is 'all'; write auto, or attention:MLP shares such as 2:8."),
        ({"experiment_name": "../x"}, "The experiment name '../x' cannot be a folder name"),
        ({"base_model": "no such folder"}, "'no such folder' is neither a folder here nor a Hugging Face id"),
        ({"base_model": "./demo"}, "'./demo' is neither a folder here nor a Hugging Face id"),
        ({"device": "cuda:9"}, "The device 'cuda:9' is not available here"),
        ({"seq_len": 64}, "`seq_len` is 64; this model sees at most 48 tokens at once."),
        ({"corpus": "wikipedia"}, "There is no corpus 'wikipedia'. Use python-stdlib"),
        ({"corpus": "gone.txt"}, "The text file gone.txt is not there."),
        ({"importance_method": "magic"}, "`importance_method` is 'magic'; it must be one of: taylor"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(prune, changes, sentence):
    assert sentence in assert_refused(prune(**changes), prune.root)


@pytest.mark.parametrize(
    ("command", "changes", "sentence"),
    [
        (
            "layer",
            {"layer_min_pruning_rate": 0.6, "layer_max_pruning_rate": 0.4},
            "`layer_min_pruning_rate` is 0.6 and `layer_max_pruning_rate` is 0.4; the least rate cannot be above the largest.",
        ),
        ("layer", {"pruning_distribution": "0:0"}, "`pruning_distribution` is '0:0'; write auto, or attention:MLP shares"),
        ("layer", {"pruning_distribution": "2-8"}, "`pruning_distribution` is '2-8'; write auto, or attention:MLP shares"),
        ("layer", {"pruning_distribution": "auto"}, "`pruning_distribution` is auto, which only `global` knows; write"),
        ("uniform", {"pruning_distribution": "auto"}, "`pruning_distribution` is auto, which only `global` knows; write"),
        ("layer", {"importance_weight": -1}, "`importance_weight` is -1; it must be a number at least 0 and at most 10."),
        (
            "layer",
            {"freeze_top_n_layers": 40},
            "`freeze_top_n_layers` is 40, but this model has 5 layers: at least one must stay to be cut.",
        ),
        ("global", {"freeze_top_n_layers": 5}, "`freeze_top_n_layers` is 5, but this model has 5 layers"),
        (
            "global",
            {"layer_start": 3, "layer_end": 2},
            "`layer_start` is 3 and `layer_end` is 2; they must satisfy 0 <= layer_start < layer_end <= 5.",
        ),
        ("layer", {"layer_end": 6}, "`layer_start` is 0 and `layer_end` is 6; they must satisfy"),
        (
            "layer",
            {"block_attention_layer_start": 3, "block_attention_layer_end": 3},
            "`block_attention_layer_start` is 3 and `block_attention_layer_end` is 3; they must satisfy",
        ),
        (
            "global",
            {"layer_start": 1, "block_mlp_layer_start": 1},
            "`layer_start / layer_end` and `block_mlp_layer_start` cannot be used together",
        ),
        (
            "uniform",
            {"protected_layers": "0"},
            "This strategy cuts every layer alike, so `protected_layers` cannot be used with it.",
        ),
        ("uniform", {"block_mlp_layer_start": 1}, "This strategy cuts every layer alike, so `block_mlp_layer_start` cannot be"),
        (
            "uniform",
            {"freeze_top_n_layers": 1},
            "This strategy cuts every layer alike, so `freeze_top_n_layers` cannot be used",
        ),
        ("uniform", {"ratio_basis": "selected"}, "`uniform` and `ratio_basis selected` cannot be used together."),
        ("uniform", {"pruning_ratio": 0.5}, "0.5 of all parameters cannot be removed"),
        (
            "layer",
            {"layer_importance_samples": 0},
            "This plan needs the importance of layers, and it was not measured. Measure again with layer_importance_samples",
        ),
        ("layer", {"layer_importance_config": "gone.json"}, "The file gone.json is not there."),
        ("layer", {"layer_importance_method": "taylor"}, "`layer_importance_method` is 'taylor'; it must be one of: removal"),
        ("global", {"cut_groups": "3x"}, "'3x' does not name groups. Write for example 3a1,5m20-29"),
        ("global", {"keep_groups": "1a1", "cut_groups": "1a0-1"}, "1a1 is both kept and cut by hand. Keep one."),
        ("global", {"cut_groups": "1a0-3"}, "layer 1 would keep 0 groups of kind attention; at least 1 must stay."),
        ("global", {"min_kv_groups": 0}, "`min_kv_groups` is 0; it must be a whole number at least 1."),
        ("global", {"groups": "x.csv"}, "--groups is no flag of `global` (only of apply). See --help."),
        ("apply", {}, "Give one of --groups, --table or --plan: the file that says what is cut."),
        ("apply", {"groups": "a.csv", "table": "b.csv"}, "Give one of --groups, --table or --plan"),
        ("apply", {"table": "gone.csv"}, "The file gone.csv is not there."),
        ("apply", {"plan": "gone.json"}, "The file gone.json is not there."),
    ],
)
def test_plans_that_cannot_be_are_one_sentence(prune, command, changes, sentence):
    refused = prune(command=command, **changes)
    assert sentence in assert_refused(refused, prune.root) and "[Step" not in refused[1]


@pytest.mark.parametrize("command", ["global", "uniform"])
def test_only_rates_can_match_the_target(prune, command):
    sentence = assert_refused(prune("--match_target", command=command), prune.root)
    assert sentence == f"`{command}` and `match_target` cannot be used together. Leave one of them out."


def test_notes_about_names_are_left_out_where_something_is_refused(prune):
    assert "1.5; it must be" in assert_refused(prune("--alpha", 1, "--min_pruning_rate", 1.5, command="layer"), prune.root)


def test_layer_once_called_its_layer_method_importance_method(prune):
    code, _, complaint = prune(command="layer", importance_method="block_influence", layer_importance_samples=2)
    assert code == 0
    assert complaint == "Note: --importance_method with a layer method is now called --layer_importance_method.\n"
    settings = Experiment(prune.root / "run").settings
    assert (settings.layer_importance_method, settings.importance_method) == ("block_influence", "taylor")
    twice = {"importance_method": "removal", "layer_importance_method": "activation", "experiment_name": "other"}
    code, _, complaint = prune(command="layer", **twice)
    assert code == 2 and complaint.startswith("Error: `layer_importance_method` was given twice") and complaint.count("\n") == 1


# files that a person gives --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Experiment:
    """A run whose tables can be taken, edited and given back."""
    root = tmp_path_factory.mktemp("finished")
    where = ["--base_model", source / "tiny", "--experiment_name", "run", "--output_root", root]
    fewer = ["--num_samples", 2, "--seq_len", 16, "--corpus", source / "values.txt", "--pruning_ratio", 0.03]
    assert main(["global", *map(str, [*where, *fewer])]) == 0
    return Experiment(root / "run")


@pytest.mark.parametrize(
    ("flag", "file"),
    [("table", "global_group_table.csv"), ("groups", "groups_to_prune.csv")],
)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda lines: [line.rpartition(",")[0] for line in lines],
            "lacks the column 'score'; it needs: layer_idx, group_type",
        ),
        (lambda lines: [*lines[:3], "9" + lines[3], *lines[4:]], "row 4: layer_idx 9"),
        (
            lambda lines: [*lines[:3], lines[3].replace("mlp", "heads").replace("attention", "heads"), *lines[4:]],
            "row 4: group_",
        ),
        (lambda lines: [*lines, lines[2]], "is in the table twice"),
        (
            lambda lines: [lines[0], *(re.sub(r",(96|768|1536),", ",95,", line) for line in lines[1:])],
            "is not the cost of this",
        ),
        (lambda lines: lines[:1], "has no rows, so it says nothing about what to cut."),
        (lambda lines: ["", *lines[:0]], "cannot be read"),
    ],
)
def test_a_faulty_table_is_one_sentence_that_names_the_row(prune, finished, tmp_path, flag, file, change, sentence):
    edited = tmp_path / file
    edited.write_text("\n".join(change(finished.path(file).read_text().splitlines())) + "\n")
    refused = prune(command="apply", **{flag: edited})
    assert sentence in assert_refused(refused, prune.root) and "[Step" not in refused[1]


@pytest.mark.parametrize(
    ("flag", "file"),
    [("table", "global_group_table.csv"), ("groups", "groups_to_prune.csv"), ("plan", "plan.json")],
)
def test_a_file_of_another_model_is_one_sentence(prune, finished, source, tmp_path, flag, file):
    other = tmp_path / "other"
    shutil.copytree(source / "tiny", other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    refused = prune(command="apply", base_model=other, **{flag: finished.path(file)})
    assert f"{file} was made for another model (fingerprint " in assert_refused(refused, prune.root)


def test_a_list_that_breaks_a_floor_is_one_sentence_that_names_the_row(prune, finished, tmp_path):
    header, *lines = finished.path("global_group_table.csv").read_text().splitlines()
    (tmp_path / "heads.csv").write_text("\n".join([header, *(line for line in lines if line.startswith("2,attention"))]))
    sentence = assert_refused(prune(command="apply", groups=tmp_path / "heads.csv"), prune.root)
    assert sentence.endswith("row 5: cut too, layer 2 keeps fewer than 1 group of kind attention, which must stay.")


def test_rows_without_a_sidecar_are_cut_with_a_warning_that_is_printed(prune, finished, tmp_path):
    shutil.copy(finished.path("groups_to_prune.csv"), tmp_path / "mine.csv")
    code, printed, _ = prune(command="apply", groups=tmp_path / "mine.csv")
    assert code == 0 and "mine.csv does not say which model it was made for" in printed
    assert "[Step 3/11] gradients or activations: skipped (a file says what goes)" in printed
    assert Experiment(prune.root / "run").read_plan().digest == finished.read_plan().digest


def test_an_edited_table_is_cut_as_it_says(prune, finished, tmp_path):
    """What a spreadsheet does: rows dropped, a score changed."""
    with finished.path("global_group_table.csv").open() as file:
        rows = list(csv.DictReader(file))
    dropped = [row for row in rows if (row["layer_idx"], row["group_type"]) != ("2", "mlp")]
    last = next(row for row in reversed(dropped) if (row["layer_idx"], row["group_type"]) == ("3", "mlp"))
    last["score"] = "0"
    with (tmp_path / "edited.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(dropped)
    assert prune(command="apply", table=tmp_path / "edited.csv", pruning_ratio=0.02)[0] == 0
    plan = Experiment(prune.root / "run").read_plan()
    assert len(plan.kept_groups(2, MLP)) == 24
    assert int(last["group_idx"]) not in plan.kept_groups(3, MLP)
    assert 0 < plan.actual_ratio <= 0.02


def test_a_held_out_text_that_cannot_be_used_is_refused_before_anything_is_measured(prune):
    assert "seq_len" in assert_refused(prune("--test_after_prune", eval_seq_len=64), prune.root)
    refused = prune("--test_after_prune", eval_corpus="gone.txt")
    assert "gone.txt is not there" in assert_refused(refused, prune.root) and "[Step 3/11]" not in refused[1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prunning_ratio", "0.2"], "--prunning_ratio is no flag of `global` (did you mean --pruning_ratio?). See --help."),
        (["--xyzzy=1"], "--xyzzy is no flag of `global`. See --help."),
        (["--num_examples", "5"], "`num_samples` was given twice with different values: "),
        (["--pruning_ratio"], "argument --pruning_ratio: expected one argument. See --help."),
        (["extra"], "unexpected argument 'extra'. See --help."),
        (["--save"], "--save is no flag of `global`"),
    ],
)
def test_flags_that_are_none_are_one_sentence(prune, flags, sentence):
    assert sentence in assert_refused(prune(*flags), prune.root)


def test_a_model_must_be_named(prune):
    assert assert_refused(prune(without=("base_model",)), prune.root) == "`base_model` is required."


def test_an_unknown_command_is_one_sentence(capsys):
    assert main(["globe"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2


def test_a_model_that_cannot_be_used_is_one_sentence(prune, source, tmp_path):
    def broken(change) -> str:
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source / "tiny", folder)
        change(folder)
        return assert_refused(prune(base_model=folder), prune.root)

    def cut_short(folder: Path) -> None:
        weights = folder / "model.safetensors"
        os.truncate(weights, weights.stat().st_size // 2)

    def contradict(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 2}))

    def lose_a_weight(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "has no config.json, so it is not a model folder" in broken(lambda folder: (folder / "config.json").unlink())
    assert "model.safetensors is cut short or damaged" in broken(cut_short)
    assert "The weights contradict config.json: model.layers.0.self_attn.k_proj.weight" in broken(contradict)
    assert "The weights lack model.norm.weight" in broken(lose_a_weight)


def test_gpt2_is_refused_by_name(prune, tmp_path):
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50, n_positions=16)).save_pretrained(tmp_path / "gpt2")
    sentence = assert_refused(prune(base_model=tmp_path / "gpt2"), prune.root)
    assert sentence == "The architecture 'gpt2' is not supported. Supported are: llama, mistral, qwen2, qwen3."


@pytest.mark.parametrize(
    ("content", "sentence"), [("", "holds no text"), ("x = 1", "has 4 tokens, less than one window of 16"), ("  \n", "no text")]
)
def test_text_that_is_not_enough_is_one_sentence(prune, tmp_path, content, sentence):
    (tmp_path / "text.txt").write_text(content)
    assert sentence in assert_refused(prune(corpus=tmp_path / "text.txt"), prune.root)


def test_an_output_folder_that_cannot_be_made_is_one_sentence(prune, tmp_path):
    (tmp_path / "file").touch()
    code, _, complaint = prune(output_root=tmp_path / "file" / "log")
    assert (code, complaint.count("\n")) == (2, 1) and "could not be written: Not a directory" in complaint


# a full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files_only():
    """No file of this process can grow beyond 100 kB while the test runs: tables fit, the model does not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_model_that_does_not_fit_on_the_disk_is_one_sentence_and_the_measurements_stay(prune, small_files_only):
    code, _, complaint = prune("--save_model")
    assert (code, complaint.count("\n")) == (2, 1) and f"{prune.root / 'run' / 'model'} could not be written: " in complaint
    experiment = Experiment(prune.root / "run")
    assert files_of(experiment) == FILES - {"model"} - RESULT
    assert read_status(experiment).state == "failed"


@contextlib.contextmanager
def full_disk(folder: Path, kilobytes: int):
    """A disk of its own for `folder`; skips the test where mounting is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kilobytes", [16, 64, 400])
def test_a_disk_that_is_full_sooner_or_later_is_one_sentence(prune, tmp_path, kilobytes):
    with full_disk(tmp_path / "disk", kilobytes):
        code, _, complaint = prune("--save_model", output_root=tmp_path / "disk")
        assert code == 2 and complaint.count("\n") == 1, complaint
        assert "could not be written" in complaint or "not enough space" in complaint
        for experiment in (tmp_path / "disk").iterdir():
            assert files_of(Experiment(experiment)) <= FILES - {"model"} - RESULT


# stopping -------------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_a_run_and_says_so(source, tmp_path):
    (tmp_path / "long.txt").write_text("x = 1\n" * 100_000)
    endless = ("--num_samples", 10**5, "--seq_len", 2, "--gradient_batch_size", 1, "--corpus", tmp_path / "long.txt")
    where = ("--base_model", source / "tiny", "--experiment_name", "run", "--output_root", tmp_path / "log")
    run = fresh_python.start_module("pruning", "global", *where, "--pruning_ratio", 0.03, *endless)
    experiment = Experiment(tmp_path / "log" / "run")
    wait_until(lambda: experiment.has("job.json") and read_status(experiment).done > 0)
    os.kill(run.pid, signal.SIGINT)
    ended = run.wait()
    goes_on = f"--experiment_name run --output_root {tmp_path / 'log'} --resume"
    assert ended.returncode == 130 and ended.stderr == f"Continue with: python -m pruning global {goes_on}\nStopped.\n"
    status = read_status(experiment)
    assert (status.state, status.step) == ("cancelled", "gradients")
    assert files_of(experiment) == {"description.txt", "request.json", "job.json", "<time>", "<time>/training.log"}


# help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length", "split"),
    [("global", 128, "auto"), ("layer", 64, "2:8"), ("uniform", 128, "2:8"), ("apply", 128, "auto")],
)
def test_help_names_every_setting_with_its_unit_and_default(capsys, name, length, split):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS.values():
        if setting.commands and name not in setting.commands:
            assert f"{setting.flag} " not in shown
            continue
        assert setting.flag in shown and " ".join(setting.help.split()) in shown
        assert all(f"--{old}" not in shown for old in setting.old_names)
        if setting.choices:
            assert f"{setting.flag} {'|'.join(setting.choices)} " in shown
        elif setting.unit:
            assert f"{setting.flag} {setting.unit.upper()} " in shown
    for group in GROUPS:
        assert f" {group}: --" in shown
    assert f"Length of a calibration window. At least 2. Default: {length}." in shown and "Default: 0.25." in shown
    assert f"auto (global only) lets the scores decide. Default: {split}." in shown
    assert "None" not in shown
