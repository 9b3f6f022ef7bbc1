"""A model folder loads as what it says it is, or is refused with the fault named; nobody's code runs unasked."""

import json
import pickle
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from pruning.errors import PruningError
from pruning.export.hugging_face import save_model
from pruning.model.checkpoint import LoadedModel, load, open_checkpoint
from pruning.model.surgery import cut
from pruning.planning.shape import ATTENTION, MLP
from pruning.settings import resolve
from tests.tiny_models import FAMILIES, plan_without, random_ids, tiny_model
from tests.trap import set_trap

DEMO = Path(__file__).parents[2] / "assets" / "demo_model"
VOCABULARY = 4096  # the demo tokenizer's
WIDTH = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture
def saved(tmp_path, tokenizer):
    """Makes a model folder and gives the model that is in it."""

    def make(family: str = "llama", **options):
        model = tiny_model(family, vocab_size=VOCABULARY, **options)
        save_model(model, tokenizer, tmp_path / "model")
        return tmp_path / "model", model

    return make


def load_folder(folder: Path, trust_remote_code: bool = False, **settings) -> LoadedModel:
    return load(open_checkpoint(str(folder)), resolve(settings), trust_remote_code)


def refusal(folder: Path, **settings) -> str:
    with pytest.raises(PruningError) as error:
        load_folder(folder, **settings)
    return str(error.value)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(random_ids(3, 12, VOCABULARY)).logits


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # attention code may differ


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def as_bin(folder: Path, content) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


# what loads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_as_it_was_saved(saved, family, tied):
    folder, model = saved(family, tied=tied)
    loaded = load_folder(folder)
    assert_same(logits(loaded.model), logits(model))
    assert not loaded.model.training and loaded.model.dtype == torch.float32
    assert loaded.header.shape.parameters == sum(p.numel() for p in model.parameters())
    assert loaded.tokenizer("def f():")["input_ids"] == AutoTokenizer.from_pretrained(DEMO)("def f():")["input_ids"]


@pytest.mark.parametrize(
    ("family", "options"), [("llama", {"bias": True}), ("qwen3", {"bias": True}), ("qwen2", {"head_dim": 12})]
)
def test_biases_and_explicit_head_dimensions_load(saved, family, options):
    folder, model = saved(family, **options)
    assert_same(logits(load_folder(folder).model), logits(model))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bin_with_plain_tensors_loads(saved, family, tied):
    folder, model = saved(family, tied=tied)
    as_bin(folder, model.state_dict())
    assert_same(logits(load_folder(folder).model), logits(model))


def test_of_several_sets_of_weights_the_header_reads_the_one_that_transformers_loads(tmp_path, tokenizer):
    model = tiny_model("llama", vocab_size=VOCABULARY, layers=1)
    folder = tmp_path / "model"
    kinds = {"model.safetensors": None, "model.safetensors.index.json": "model-1-of-1.safetensors"}
    kinds |= {"pytorch_model.bin": None, "pytorch_model.bin.index.json": "pytorch_model-1-of-1.bin"}
    for there in (names for count in (1, 2, 3, 4) for names in combinations(kinds, count)):
        shutil.rmtree(folder, ignore_errors=True)
        save_model(model, tokenizer, folder)
        (folder / "model.safetensors").unlink()
        for number, name in enumerate(there):
            weights = {key: torch.full_like(weight, number + 1) for key, weight in model.state_dict().items()}
            if kinds[name]:
                (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, kinds[name])}))
            file = folder / (kinds[name] or name)
            torch.save(weights, file) if file.suffix == ".bin" else save_file(weights, file, metadata={"format": "pt"})
        expected = next(folder / (kinds[name] or name) for name in kinds if name in there)
        assert open_checkpoint(str(folder)).weight_files == (expected,)
        for loaded in (load_folder(folder).model, AutoModelForCausalLM.from_pretrained(folder)):
            assert (loaded.lm_head.weight == 1).all(), there  # the first of those that are there


def test_bfloat16_is_computed_in_when_asked_for(saved):
    folder, model = saved("mistral")
    loaded = load_folder(folder, dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16 and loaded.saved_dtype == torch.float32
    torch.testing.assert_close(logits(loaded.model).float(), logits(model), atol=0.5, rtol=0.2)


def test_the_demo_model_is_in_bfloat16_and_computed_in_float32():
    loaded = load_folder("demo")
    assert loaded.model.dtype == torch.float32 and loaded.saved_dtype == torch.bfloat16
    assert sum(p.numel() for p in loaded.model.parameters()) == 6_561_920


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_code_is_as_asked(saved, name):
    folder, _ = saved()
    assert load_folder(folder, attn_implementation=name).model.config._attn_implementation == name


# what is refused ------------------------------------------------------------------------------------------------------


def test_another_architecture_is_refused_by_name(tmp_path):
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    assert refusal(tmp_path / "gpt2") == (
        "The architecture 'gpt2' is not supported. Supported are: llama, mistral, qwen2, qwen3."
    )


@pytest.mark.parametrize("kept", [3, 40, 0.5, 0.999])
def test_safetensors_cut_short_are_refused(saved, kept):
    folder, _ = saved()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert "model.safetensors is cut short or damaged" in refusal(folder)


def test_a_bin_cut_short_is_refused(saved):
    folder, model = saved()
    as_bin(folder, model.state_dict())
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    assert "is cut short or damaged" in refusal(folder)


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_a_config_that_contradicts_the_weights_is_refused(saved, format):
    folder, model = saved()
    if format == "bin":
        as_bin(folder, model.state_dict())
    change_config(folder, intermediate_size=25)
    sentence = refusal(folder)
    assert sentence.startswith("The weights contradict config.json: model.layers.0.mlp.")
    assert "24" in sentence and "25" in sentence


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_a_missing_weight_is_named(saved, format):
    folder, _ = saved()
    change_weights(folder, lambda weights: weights.pop(WIDTH))
    if format == "bin":
        as_bin(folder, load_file(folder / "model.safetensors"))
    assert refusal(folder) == f"The weights lack {WIDTH}, which config.json asks for."


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_a_weight_too_many_is_named(saved, format):
    folder, _ = saved()
    change_weights(folder, lambda weights: weights.update({"model.layers.2.mlp.router.weight": torch.zeros(2)}))
    if format == "bin":
        as_bin(folder, load_file(folder / "model.safetensors"))
    assert refusal(folder) == "The weights hold model.layers.2.mlp.router.weight, which config.json does not provide for."


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_more_layers_in_the_weights_than_in_the_config_are_refused(saved, format):
    folder, model = saved()
    if format == "bin":
        as_bin(folder, model.state_dict())
    change_config(folder, num_hidden_layers=4)
    assert refusal(folder).startswith("The weights hold model.layers.4.")


def test_a_folder_without_a_tokenizer_is_refused(saved):
    folder, _ = saved()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert refusal(folder).startswith(f"{folder} holds no tokenizer. ")


@pytest.mark.parametrize("device", ["cuda:7", "gpu", "meta", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused(saved, device):
    folder, _ = saved()
    assert refusal(folder, device=device).startswith(f"The device {device!r} is not available here; this machine has ")


# whose code runs ------------------------------------------------------------------------------------------------------


class _Trap:
    """Pickled so that unpickling creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_objects_are_refused_and_their_code_does_not_run(saved, tmp_path):
    folder, model = saved()
    sentence = f"{folder / 'pytorch_model.bin'} holds pickled Python objects, which can run code, so it is not opened."
    as_bin(folder, model)
    assert refusal(folder).startswith(sentence)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Trap(tmp_path / "sprung")}, protocol=2))
    refusal(folder)
    torch.save({"weight": _Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    assert refusal(folder).startswith(sentence)
    assert not (tmp_path / "sprung").exists()


def test_code_in_a_model_folder_runs_only_when_allowed(saved, tmp_path):
    folder, model = saved()
    set_trap(folder, tmp_path / "sprung")
    assert_same(logits(load_folder(folder).model), logits(model))
    assert not (tmp_path / "sprung").exists()
    load_folder(folder, trust_remote_code=True)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_this_project_loads_without_running_the_code_in_it(tmp_path, tokenizer, family):
    model = tiny_model(family, vocab_size=VOCABULARY)
    removed = {(0, ATTENTION): {3}, (1, ATTENTION): range(4), (2, MLP): range(24), (4, MLP): {1, 5}}
    pruned = cut(model, plan_without(model, removed, remove_empty_layers=True))
    folder = tmp_path / "pruned"
    save_model(pruned, tokenizer, folder)
    for file in folder.glob("*_pruned.py"):
        file.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\n")
    for trust in (False, True):
        loaded = load_folder(folder, trust_remote_code=trust)
        assert_same(logits(loaded.model), logits(pruned))
        assert type(loaded.model) is type(pruned)
        assert loaded.tokenizer("x = 1")["input_ids"] == tokenizer("x = 1")["input_ids"]
    assert not (tmp_path / "sprung").exists()
