"""An exported folder is the model: it loads by itself, gives the same logits, and is there whole or not at all."""

import errno
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruning import files, settings
from pruning.errors import Cancelled, PruningError
from pruning.experiment import Experiment
from pruning.export import hugging_face, reload_check
from pruning.export.bin_file import write_bin
from pruning.export.gguf_file import write_gguf
from pruning.export.hugging_face import check_reload, model_card, save_model, write_zip
from pruning.files import write_json
from pruning.model.architecture.classes import load_trusted
from pruning.model.surgery import cut
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.shape import ATTENTION, MLP
from tests import fresh_python
from tests.tiny_models import FAMILIES, plan_without, random_ids, tiny_model

DEMO = Path(__file__).parents[2] / "assets" / "demo_model"
VOCABULARY = 4096
LAYERS, HEADS, CHANNELS = range(5), range(4), range(24)
UNIFORM = {(i, ATTENTION): {i % 4} for i in LAYERS} | {(i, MLP): range(i, i + 8) for i in LAYERS}
DIFFERENT = {(0, ATTENTION): {3}, (1, ATTENTION): HEADS, (1, MLP): {1}, (2, MLP): CHANNELS, (2, ATTENTION): {0, 2}}
DIFFERENT |= {(3, ATTENTION): HEADS, (3, MLP): CHANNELS}
MODELS = [(family, {"tied": tied}) for family in FAMILIES for tied in (False, True)]
MODELS += [("llama", {"bias": True}), ("qwen3", {"bias": True}), ("qwen2", {"head_dim": 12})]


def pruned(family: str, removed: dict, **options):
    """The plan that removes these groups (emptied layers too), and the model it gives."""
    model = tiny_model(family, vocab_size=VOCABULARY, **options)
    plan = plan_without(model, removed, remove_empty_layers=True)
    return plan, cut(model, plan)


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def windows() -> torch.Tensor:
    return random_ids(4, 16, VOCABULARY)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(windows()).logits


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


# the folder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [UNIFORM, DIFFERENT], ids=["uniform", "sizes differ"])
@pytest.mark.parametrize(("family", "options"), MODELS)
def test_saved_loaded_and_saved_again_gives_the_same_bytes(tmp_path, tokenizer, family, options, removed):
    plan, model = pruned(family, removed, **options)
    save_model(model, tokenizer, tmp_path / "first")
    loaded, info = load_trusted(tmp_path / "first", output_loading_info=True)
    assert not any(info[fault] for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(loaded), logits(model))
    save_model(loaded, tokenizer, tmp_path / "second")
    assert files_of(tmp_path / "first") == files_of(tmp_path / "second")

    header = CheckpointHeader.read(tmp_path / "first")
    header.check()
    assert header.shape.layers == plan.shape_after.layers
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == plan.shape_after.tensor_shapes()


def test_shards_hold_what_one_file_holds(tmp_path):
    _, model = pruned("llama", DIFFERENT)
    save_model(model, None, tmp_path / "one")
    save_model(model, None, tmp_path / "many", max_shard_size="300KB")
    header = CheckpointHeader.read(tmp_path / "many")
    header.check()
    assert len(header.weight_files) > 2
    assert torch.equal(logits(load_trusted(tmp_path / "many")), logits(load_trusted(tmp_path / "one")))


def test_float32_copy_of_a_bfloat16_checkpoint_is_saved_back_without_loss(tmp_path):
    _, model = pruned("qwen3", DIFFERENT)
    save_model(model.to(torch.bfloat16), None, tmp_path / "bfloat16")
    working_copy = load_trusted(tmp_path / "bfloat16", dtype=torch.float32)
    save_model(working_copy, None, tmp_path / "again", dtype=torch.bfloat16)
    assert files_of(tmp_path / "bfloat16") == files_of(tmp_path / "again")
    assert working_copy.dtype == torch.float32 and working_copy.config.dtype == torch.float32


def test_nobody_learns_where_the_model_came_from_or_went(tmp_path, tokenizer):
    _, model = pruned("llama", DIFFERENT)
    model.config.name_or_path = model.name_or_path = str(tmp_path / "source")
    save_model(model, tokenizer, tmp_path / "model")
    assert not [name for name, content in files_of(tmp_path / "model").items() if str(tmp_path).encode() in content]


def test_weights_are_as_readable_as_the_config(tmp_path):
    save_model(tiny_model("llama"), None, tmp_path / "model")
    assert len({file.stat().st_mode for file in (tmp_path / "model").iterdir()}) == 1


def test_generation_settings_that_transformers_would_refuse_to_write_are_written(tmp_path):
    model = tiny_model("llama")
    model.generation_config.temperature, model.generation_config.do_sample = 0.6, False
    save_model(model, None, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["temperature"] == 0.6


# loading ------------------------------------------------------------------------------------------------------------


def test_a_program_that_knows_only_transformers_loads_all_families(tmp_path):
    for family in FAMILIES:
        _, model = pruned(family, DIFFERENT)
        save_model(model, None, tmp_path / family)
        save_file({"logits": logits(model)}, tmp_path / f"{family}.safetensors")
    save_file({"windows": windows()}, tmp_path / "windows.safetensors")
    program = """
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
        windows = load_file("windows.safetensors")["windows"]
        for family in ("llama", "mistral", "qwen2", "qwen3"):
            try:
                AutoModelForCausalLM.from_pretrained(family)
                raise SystemExit(f"{family} was loaded without asking")
            except ValueError as error:
                assert "trust_remote_code=True" in str(error), error
            assert AutoConfig.from_pretrained(family, trust_remote_code=True).model_type == f"pruned_{family}"
            model = AutoModelForCausalLM.from_pretrained(family, trust_remote_code=True)
            expected = load_file(f"{family}.safetensors")["logits"]
            assert (model(windows).logits - expected).abs().max() < 1e-4
            decoder = AutoModel.from_pretrained(family, trust_remote_code=True)
            assert (model.lm_head(decoder(windows).last_hidden_state) - expected).abs().max() < 1e-4
            model.save_pretrained(f"{family}-again")
            AutoModelForCausalLM.from_pretrained(f"{family}-again", trust_remote_code=True)
        print("all loaded")
    """
    done = fresh_python.run(program, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
    assert done.stdout.endswith("all loaded\n"), done.stderr[-2000:]


def test_trusted_loading_runs_no_code_of_the_folder(tmp_path):
    _, model = pruned("llama", DIFFERENT)
    save_model(model, None, tmp_path / "model")
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w').close()"
    for file in ("configuration_pruned.py", "modeling_pruned.py"):
        (tmp_path / "model" / file).write_text(trap)
    assert torch.equal(logits(load_trusted(tmp_path / "model")), logits(model))
    assert not (tmp_path / "sprung").exists()


def test_trusted_loading_refuses_other_architectures(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "pruned_gpt2"})
    with pytest.raises(PruningError, match=r"pruned_gpt2.* is not supported"):
        load_trusted(tmp_path)


# the check in a fresh process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "removed"), [("qwen3", DIFFERENT), ("llama", UNIFORM)], ids=["own class", "as mistral"])
def test_fresh_process_gives_the_logits_of_the_model(request, tmp_path, tokenizer, family, removed):
    if removed == DIFFERENT:  # once as the product does
        request.getfixturevalue("own_check")
    _, model = pruned(family, removed, tied=True)
    save_model(model, tokenizer, tmp_path / "model", dtype=torch.bfloat16)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    result = check_reload(tmp_path / "model", model, tokenizer, windows())
    assert result["max_abs_diff"] < 1e-4 and result["top1"] == 1.0
    # Rounding to the folder's bfloat16 was for the comparison only.
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())


@pytest.fixture
def same_process(monkeypatch):
    """Compares in this process, which is faster; fine for stock classes."""
    monkeypatch.setattr(reload_check, "_in_fresh_process", lambda *args: reload_check.compare(*map(str, args)))


@pytest.mark.parametrize("damage", [1e-2, float("nan")])
def test_a_folder_with_other_weights_is_not_offered(tmp_path, same_process, damage):
    model = tiny_model("llama")
    save_model(model, None, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 3] += damage
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PruningError, match="not offered for download"):
        check_reload(tmp_path / "model", model, None, random_ids(4, 16))


def test_a_folder_that_lacks_a_weight_does_not_pass(tmp_path, same_process):
    model = tiny_model("llama")
    save_model(model, None, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="missing keys"):
        check_reload(tmp_path / "model", model, None, random_ids(4, 16))


def test_a_bfloat16_model_is_compared_in_float32_and_left_as_it_was(tmp_path, same_process):
    save_model(tiny_model("qwen2"), None, tmp_path / "model", dtype=torch.bfloat16)
    model = load_trusted(tmp_path / "model").train()
    assert check_reload(tmp_path / "model", model, None, random_ids(4, 16))["max_abs_diff"] < 1e-4
    assert model.dtype == torch.bfloat16 and model.training


def test_a_broken_folder_is_reported_with_the_reason(tmp_path):
    model = tiny_model("llama")
    save_model(model, None, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(PruningError, match=r"could not be loaded again in a fresh process: .*model\.safetensors"):
        check_reload(tmp_path / "model", model, None, random_ids(4, 16))


# whole or not at all ------------------------------------------------------------------------------------------------


def cancel(done: int, total: int) -> None:
    raise Cancelled


def test_a_cancelled_export_leaves_the_old_folder_and_nothing_else(tmp_path):
    old, new = tiny_model("llama"), tiny_model("llama", seed=1)
    save_model(old, None, tmp_path / "model")
    before = files_of(tmp_path / "model")
    with pytest.raises(Cancelled):
        save_model(new, None, tmp_path / "model", on_progress=cancel)
    assert os.listdir(tmp_path) == ["model"] and files_of(tmp_path / "model") == before
    save_model(new, None, tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"] and files_of(tmp_path / "model") != before


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * 2**20))
    with pytest.raises(PruningError, match=r"MiB needed, 3\.0 MiB free"):
        save_model(tiny_model("llama"), None, tmp_path / "model")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(hugging_face, "save_file", fail)
    with pytest.raises(PruningError, match="not enough space"):
        save_model(tiny_model("llama"), None, tmp_path / "model")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def files_of_16_kb():
    """No file of this process can grow beyond 16 KB while the test runs."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_leaves_nothing(tmp_path, files_of_16_kb):
    with pytest.raises(PruningError, match=r"could not be written: .*File too large"):
        save_model(tiny_model("llama"), None, tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    make = "import sys, pathlib; from pruning import files; files.hidden_name(pathlib.Path(sys.argv[1]), 'part').mkdir()"
    subprocess.run([sys.executable, "-c", make, tmp_path / "model"], check=True, cwd=Path(__file__).parents[2])
    running = files.hidden_name(tmp_path / "model", files.PART)
    running.mkdir()
    save_model(tiny_model("llama"), None, tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == [running.name, "model"]


# the zip ------------------------------------------------------------------------------------------------------------


def test_zip_holds_the_folder(tmp_path):
    save_model(tiny_model("llama"), None, tmp_path / "model")
    told = []
    write_zip(tmp_path / "model", tmp_path / "model.zip", lambda done, total: told.append((done, total)))
    before = files_of(tmp_path / "model")
    assert told[-1] == (sum(map(len, before.values())),) * 2
    shutil.rmtree(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path)
    assert files_of(tmp_path / "model") == before


def test_a_cancelled_zip_leaves_nothing(tmp_path):
    save_model(tiny_model("llama"), None, tmp_path / "model")
    with pytest.raises(Cancelled):
        write_zip(tmp_path / "model", tmp_path / "model.zip", cancel)
    assert os.listdir(tmp_path) == ["model"]


# the model card -----------------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path):
    """An experiment with a plan for a tiny llama that lay in a folder of this machine."""
    model = tiny_model("llama")
    save_model(model, None, tmp_path / "source" / "tiny-llama")
    header = CheckpointHeader.read(tmp_path / "source" / "tiny-llama")
    given = {"base_model": str(header.folder), "pruning_ratio": 0.2, "ratio_basis": "selected"}
    experiment = Experiment.create(tmp_path, "trial")
    experiment.write_settings(settings.resolve(given))
    experiment.write_model(header, {})
    plan = plan_without(model, DIFFERENT, remove_empty_layers=True)
    made_by = {"fingerprint": header.fingerprint, "settings": {"strategy": "uniform"}}
    write_json(experiment.path("plan.json"), plan.to_json() | made_by)
    save_model(cut(model, plan), None, experiment.model_folder)
    return experiment


def test_card_says_what_was_cut_and_on_what_basis(experiment, tmp_path):
    card = model_card(experiment)
    plan = experiment.read_plan()
    assert f"| parameters | {plan.shape.parameters:,} before, {plan.shape_after.parameters:,} after |" in card
    assert "| ratio, target | 20.00% of the parameters of the layers that may be cut |" in card
    assert f"| ratio, actual | {plan.actual_ratio:.2%} of all parameters |" in card
    assert "| strategy | `uniform` |" in card and "| importance | `taylor` |" in card
    assert "| 0 | 6 / 3 of 8 / 4 | 24 of 24 |" in card
    assert "| 1 | 0 / 0 of 8 / 4 | 23 of 24 |" in card
    assert "| 3 | deleted | deleted |" in card
    assert "`tiny-llama`" in card and str(tmp_path) not in card
    assert "Perplexity" not in card  # none was measured


def test_card_shows_the_perplexity_that_the_metrics_hold(experiment):
    key = "python-stdlib (held-out)"
    experiment.update_metrics(
        perplexity={"before": {key: 22.184}, "after": {key: 28.321}, "recovered": {key: 24.5}},
        basis={"dataset": key, "windows": 256, "seq_len": 128, "predicted_tokens": 32512},
        size_bytes={"before": 2**30, "after": 2**29},
    )
    card = model_card(experiment)
    assert "| dataset | before the cut | after the cut | recovered |" in card
    assert f"| `{key}` | 22.18 | 28.32 | 24.50 |" in card
    assert "256 windows of 128 tokens each, 32,512 predicted tokens" in card
    assert "1.00 GiB before, 512.0 MiB after" in card


def test_every_sample_of_the_card_runs_as_it_is_written(experiment, tokenizer, tmp_path):
    _, model = pruned("llama", DIFFERENT)
    save_model(model, tokenizer, experiment.model_folder)
    write_bin(experiment.model_folder, None, experiment.path("pytorch_model.bin"))
    write_gguf(experiment.model_folder, tokenizer, experiment.path("model-F16.gguf"), "F16")
    agreed = {"max_abs_diff": 0.0, "top1": 1.0}
    experiment.update_metrics(export_check={"hf": agreed, "bin": agreed, "gguf-f16": agreed})
    samples = [part.split("```")[0] for part in model_card(experiment).split("```python\n")[1:]]
    assert len(samples) == 3 and "trust_remote_code=True" in samples[0]
    can_run = [sample for sample in samples if "llama_cpp" not in sample or importlib.util.find_spec("llama_cpp")]
    told = in_fresh_process(can_run, experiment.folder, tmp_path / "modules")
    assert len(told) == len(can_run)
    assert told[0].startswith("Once upon a time") and told[-1].endswith(" parameters\n")


def in_fresh_process(samples: list[str], folder: Path, modules: Path) -> list[str]:
    """What each prints in this folder, with the project found as its comment says; none sees a name of another."""
    code = f"for sample in {samples!r}:\n    exec(sample, {{'__name__': '__main__'}})\n    print(end='\\0')"
    done = fresh_python.run(code, cwd=folder, PYTHONPATH=DEMO.parents[1], HF_MODULES_CACHE=modules)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\0")[:-1]


def test_card_says_what_the_checks_found(experiment):
    compared = {"max_abs_diff": 1.5e-6, "top1": 0.984375}
    told = {"hf": compared, "gguf-f32": compared | {"llama_cpp": {"tokens": 32, "equal": 31}}, "plan": {"parameters": 3}}
    experiment.update_metrics(export_check=told)
    card = model_card(experiment)
    assert "| `hf` | 1.5e-06 | 98.44% | - |" in card
    assert "| `gguf-f32` | 1.5e-06 | 98.44% | 31 of 32 greedy tokens equal |" in card and "`plan`" not in card


def test_the_card_of_the_hub_names_its_place_there(experiment):
    assert 'from_pretrained("owner/small"' in model_card(experiment, place="owner/small")


def test_the_card_of_the_hub_lists_what_is_uploaded_and_nothing_else(experiment):
    agreed = {"max_abs_diff": 0.0, "top1": 1.0}
    experiment.update_metrics(export_check=dict.fromkeys(("hf", "hf-float16", "bin", "gguf-f16", "gguf-q8_0"), agreed))
    card = model_card(experiment, place="owner/small", beside=("gguf-f16",))
    assert "`model-F16.gguf`" in card and "| `gguf-f16` |" in card and "| `hf` |" in card
    assert not any(other in card for other in ("pytorch_model.bin", "Q8_0", "q8_0", "| `bin`", "float16`"))


def test_stock_folders_ask_for_no_trust(experiment):
    save_model(AutoModelForCausalLM.from_pretrained(DEMO), None, experiment.model_folder)
    assert "trust_remote_code" not in model_card(experiment)
