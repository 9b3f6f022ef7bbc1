"""`python -m analysis size`: files and parameters as they are on disk, from headers alone."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from analysis.model_files import open_files
from benchmarks._sparse_model import sparse_model
from pruning.model.checkpoint import load, open_checkpoint
from pruning.settings import resolve
from tests.tiny_models import tiny_model

PARAMETERS_8B = 8_030_261_248
DEMO_PARAMETERS, DEMO_BYTES = 6_561_920, 13_155_360


def test_the_demo_model_in_parameters_and_bytes(analyse):
    code, printed, complaint = analyse("size", "demo")
    assert (code, complaint) == (0, "")
    assert "6,561,920" in printed and "12.5 MiB" in printed
    (model,) = json.loads(analyse("size", "demo", "--json")[1])["models"]
    assert (model["parameters"], model["weight_bytes"]) == (DEMO_PARAMETERS, DEMO_BYTES)
    assert model["files"] == {"model.safetensors": DEMO_BYTES}


def test_tokenizer_and_config_are_counted_apart(cut):
    files, folder = open_files(str(cut.source), cut.root), cut.source
    tokenizer = sum((folder / name).stat().st_size for name in ("tokenizer.json", "tokenizer_config.json"))
    assert files.tokenizer_bytes == tokenizer
    assert files.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert files.weight_bytes + tokenizer + files.other_bytes == sum(f.stat().st_size for f in folder.iterdir())


def test_original_against_pruned_is_what_the_weights_hold(analyse, cut):
    pair = ("--original_model", cut.source, "--pruned_model", "tiny-layer", "--output_root", cut.root)
    content = json.loads(analyse("size", *pair, "--json")[1])
    before, after = (
        sum(t.numel() for t in load_file(folder / "model.safetensors").values())
        for folder in (cut.source, cut.experiment.model_folder)
    )
    change = content["change"][0]
    assert (change["original"], change["pruned"], change["removed"]) == (before, after, before - after)
    assert change["removed_share"] == pytest.approx(1 - after / before)
    assert f"{before:,} -> {after:,}  (-{before - after:,}, -{1 - after / before:.2%})" in analyse("size", *pair)[1]


def test_an_experiment_by_name_by_folder_and_by_its_model_is_one_model(cut):
    names = ("tiny-layer", str(cut.experiment.folder), str(cut.experiment.model_folder))
    assert len({open_files(name, cut.root).parameters for name in names}) == 1


def test_without_models_every_experiment_is_listed(analyse, cut):
    code, printed, _ = analyse("size", "--output_root", cut.root)
    ratio = cut.experiment.metrics()["ratio"]["actual"]
    assert code == 0 and "tiny-layer" in printed and f"{ratio:.2%}" in printed
    (row,) = json.loads(analyse("size", "--output_root", cut.root, "--json")[1])["experiments"]
    assert row["parameters_after"] == cut.experiment.metrics()["parameters"]["after"]
    assert "There are no experiments under" in analyse("size", "--output_root", "nowhere")[1]


def test_a_bin_counts_as_its_safetensors_do(analyse, cut, tmp_path):
    weights = load_file(cut.source / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (model,) = json.loads(analyse("size", tmp_path / "pytorch_model.bin", "--json")[1])["models"]
    assert model["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert model["weight_bytes"] == (tmp_path / "pytorch_model.bin").stat().st_size


def test_a_pickled_module_is_refused_in_one_sentence(analyse, tmp_path):
    torch.save(tiny_model("llama"), tmp_path / "old.bin")
    code, printed, complaint = analyse("size", tmp_path / "old.bin")
    assert (code, printed) == (2, "") and complaint.count("\n") == 1
    assert "pickled Python objects, which can run code, so it is not opened" in complaint


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
def test_another_file_of_a_model_is_named_for_what_it_is(analyse, cut, name):
    code, _, complaint = analyse("size", cut.experiment.path("model", name))
    assert code == 2 and "is neither a model folder, a pytorch_model.bin, demo" in complaint


def test_demo_is_the_demo_model_whatever_experiments_are_called(analyse, cut):
    shutil.copytree(cut.experiment.folder, cut.root / "demo")
    try:
        shown = analyse("details", "demo", "--pruning_ratio", "0.2", "--output_root", cut.root)[1]
        assert shown.startswith("demo: 6,561,920 parameters, 32 layers")
    finally:
        shutil.rmtree(cut.root / "demo")


def test_a_tied_head_stored_twice_counts_once(tmp_path, cut):
    model = load(open_checkpoint("demo"), resolve({"base_model": "demo"})).model
    state = {**{n: p.detach() for n, p in model.named_parameters()}, "lm_head.weight": model.lm_head.weight.detach().clone()}
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert open_files(str(tmp_path), cut.root).parameters == DEMO_PARAMETERS


def test_a_bin_that_stands_alone_counts_a_tied_head_once(tmp_path, cut):
    model = tiny_model("llama", tied=True)
    torch.save(model.state_dict(), tmp_path / "alone.bin")
    assert open_files(str(tmp_path / "alone.bin"), cut.root).parameters == model.num_parameters()


def test_figures_that_grow_have_a_plus(analyse, cut):
    pair = ("--original_model", "tiny-layer", "--pruned_model", cut.source, "--output_root", cut.root)
    printed = analyse("size", *pair)[1]
    before, after = (cut.experiment.metrics()["parameters"][name] for name in ("after", "before"))
    assert f"{before:,} -> {after:,}  (+{after - before:,}, +{after / before - 1:.2%})" in printed
    assert re.search(r"^weights +\S+ MiB -> \S+ MiB  \(\+\S+ KiB, \+\S+%\)$", printed, re.MULTILINE)


def test_a_sharded_model_of_16_gb_is_sized_without_its_weights(analyse, tmp_path):
    """Sparse files: they announce 16 GB and take no room."""
    folder = sparse_model(tmp_path / "8b")
    (model,) = json.loads(analyse("size", folder, "--json")[1])["models"]
    assert model["parameters"] == PARAMETERS_8B
    assert 2 * PARAMETERS_8B < model["weight_bytes"] < 2 * PARAMETERS_8B + 100_000
    assert len(model["files"]) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["size", "nothing"],
            "'nothing' is neither a model folder, a pytorch_model.bin, demo, nor an experiment under prune_log.",
        ),
        (["size", "--original_model", "demo"], "--original_model was given, --pruned_model was not: both are needed"),
        (["size", "--orignal_model", "demo"], "--orignal_model is no flag of `size` (did you mean --original_model?). See"),
        (["siez"], "There is no command 'siez' (did you mean size?). See --help."),
        (["perplexity", "demo", "--seq_len", "1"], "`seq_len` is 1; it must be a whole number, at least 2."),
        (["perplexity", "demo", "--device", "cuda:9"], "The device 'cuda:9' is not available here"),
        (["evaluate", "demo", "--batch_sizes", "1,x"], "`batch_sizes` is x; it must be a whole number, at least 1."),
        (["evaluate", "demo", "--stride", "500"], "`stride` is 500; it must be a whole number from 1 to seq_len (128)."),
        (["flow", "nothing"], "'nothing' is neither"),
        (["all"], "the following arguments are required: --experiment. See --help."),
        (["details", "demo"], "Give --plan, or settings such as --pruning_ratio 0.25."),
        (["details", "demo", "--pruning_ratio", "1.4"], "`pruning_ratio` is 1.4; it must be"),
        (["details", "demo", "--strategy", "global"], "`global` decides by scores: give --table, or --strategy layer."),
        (["diff", "--config", "gone.json", "--pruning_ratio", "0.2"], "The file gone.json is not there."),
        (["diff"], "Give --original_model or --config, and --pruned_model or --plan."),
        (["details", "demo", "--pruning_ratio", "0.2", "--alpha", "1", "--importance_weight", "2"], "was given twice"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(analyse, arguments, sentence):
    code, _, complaint = analyse(*arguments)
    assert code == 2 and complaint.startswith("Error: ") and complaint.count("\n") == 1
    assert sentence in complaint


def test_help_lists_the_commands_and_their_options(analyse, capsys):
    assert analyse()[1] == analyse("--help")[1]
    for name in ("size", "diff", "details", "flow", "perplexity", "evaluate", "report", "all"):
        assert f"\n  {name} " in analyse()[1]
        with pytest.raises(SystemExit) as end:
            analyse(name, "--help")
        assert end.value.code == 0
        assert "Exit codes: 0 done" in capsys.readouterr().out
