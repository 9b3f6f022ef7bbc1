"""An export is compared with the files it was made from, read on a way of their own: what loading lost does not stay unseen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruning.errors import PruningError
from pruning.export.hugging_face import check_reload, save_model
from pruning.export.original import Original, OriginalFiles
from pruning.model.architecture.classes import load_trusted
from pruning.model.checkpoint import load_tokenizer
from pruning.model.model_source import DEMO_FOLDER
from pruning.model.surgery import cut
from pruning.planning.checkpoint_header import EMBEDDINGS, TIED_HEAD, CheckpointHeader
from pruning.planning.families import FAMILIES
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ATTENTION, MLP
from tests.tiny_models import plan_without, random_ids, tiny_model

DIFFERING = {(0, ATTENTION): {3}, (1, ATTENTION): range(4), (2, MLP): range(24), (4, MLP): {1, 5}}
UNIFORM = {(layer, kind): {1} for layer in range(5) for kind in (ATTENTION, MLP)}
WINDOWS = random_ids(2, 8)


def opened(folder: Path, **about) -> OriginalFiles:
    """As the fresh process reads it."""
    Original(folder, **about).write(folder.parent / "original.json")
    return OriginalFiles.read(folder.parent / "original.json")


def exported(model, plan: PruningPlan, tmp_path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder `export` with what the plan leaves, beside `source` with the whole model."""
    save_model(model, None, tmp_path / "source")
    save_model(cut(model, plan), None, tmp_path / "export", dtype=dtype)
    return tmp_path / "export"


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_trusted(folder, dtype=torch.float32).eval()(WINDOWS, use_cache=False).logits


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "of different sizes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_plan_leaves_of_the_files_is_the_export(tmp_path, family, kind, dtype):
    """Tensor by tensor, and in its logits; of a source whose layers differ already too."""
    model = tiny_model(family, bias=family in ("llama", "qwen3"))
    if kind == "of different sizes":
        model = cut(model, plan_without(model, {(3, MLP): {0}}))
    plan = plan_without(model, DIFFERING, remove_empty_layers=True)
    export = exported(model, plan, tmp_path, dtype)
    if kind == "bin":
        as_bin(tmp_path / "source")
    original = opened(tmp_path / "source", plan=plan)
    assert original.fault(CheckpointHeader.read(export), dtype) is None
    torch.testing.assert_close(original.logits(WINDOWS, dtype, "cpu"), logits(export), rtol=0, atol=1e-5)


def change(folder: Path, name: str, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_row_in_another_place_is_named_unless_a_repair_put_it_there(tmp_path):
    model = tiny_model("llama")
    plan = plan_without(model, DIFFERING)
    export = exported(model, plan, tmp_path)
    for name in ("model.layers.4.mlp.down_proj.weight", "model.layers.4.mlp.up_proj.weight"):
        change(export, name, lambda tensor: tensor.flip(1).contiguous())
    header = CheckpointHeader.read(export)
    repaired = frozenset({"model.layers.4.mlp.down_proj.weight"})
    fault = opened(tmp_path / "source", plan=plan).fault(header, torch.float32)
    assert fault.startswith("model.layers.4.mlp.down_proj.weight is not what is left")
    fault = opened(tmp_path / "source", plan=plan, changed=repaired).fault(header, torch.float32)
    assert fault.startswith("model.layers.4.mlp.up_proj.weight is not what is left")


def test_what_the_computing_dtype_rounded_away_is_no_fault(tmp_path):
    """A float32 model that is computed in bfloat16 is saved as it was computed."""
    model = tiny_model("llama")
    plan = plan_without(model, UNIFORM)
    save_model(model, None, tmp_path / "source")
    save_model(cut(model.bfloat16(), plan), None, tmp_path / "export", dtype=torch.float32)
    header = CheckpointHeader.read(tmp_path / "export")
    assert opened(tmp_path / "source", plan=plan).fault(header, torch.float32) is not None
    assert opened(tmp_path / "source", plan=plan, through=torch.bfloat16).fault(header, torch.float32) is None


@pytest.fixture
def with_another_head(tmp_path) -> Path:
    """A folder whose config ties the head to the embeddings, and whose files hold a head of its own."""
    save_model(tiny_model("llama", tied=False), None, tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return tmp_path / "source"


def test_a_head_that_loading_dropped_fails_the_check_though_memory_and_export_agree(with_another_head, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(with_another_head)  # ties, whatever the files hold
    plan = plan_without(loaded, UNIFORM)
    save_model(pruned := cut(loaded, plan), None, tmp_path / "export")
    plan = replace(plan, shape=replace(plan.shape, tie_word_embeddings=False))  # as the header knows it
    assert TIED_HEAD not in load_file(tmp_path / "export" / "model.safetensors")
    with pytest.raises(PruningError, match=f"{TIED_HEAD} is not what is left"):
        check_reload(tmp_path / "export", pruned, None, WINDOWS, Original(with_another_head, plan))


def test_a_position_code_that_is_not_the_original_s_fails_the_check_though_memory_and_export_agree(tmp_path):
    model = tiny_model("llama")
    plan = plan_without(model, UNIFORM)
    save_model(model, None, tmp_path / "source")
    save_model(cut(model, plan), None, tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = config["rope_theta"] = 50.0
    (tmp_path / "export" / "config.json").write_text(json.dumps(config))
    same_fault = load_trusted(tmp_path / "export", dtype=torch.float32)
    with pytest.raises(PruningError, match="logits differ by"):
        check_reload(tmp_path / "export", same_fault, None, WINDOWS, Original(tmp_path / "source", plan))


def test_a_run_says_how_far_its_export_is_from_the_original_files(tmp_path):
    model = tiny_model("llama")
    plan = plan_without(model, DIFFERING)
    export = exported(model, plan, tmp_path)
    found = check_reload(export, cut(model, plan), None, WINDOWS, Original(tmp_path / "source", plan))
    assert found["original_diff"] < 1e-5 and found["max_abs_diff"] < 1e-5


def test_a_tied_head_may_lie_in_the_files_or_not(tmp_path):
    model = tiny_model("llama", tied=True)
    plan = plan_without(model, UNIFORM)
    export = exported(model, plan, tmp_path)
    shutil.copytree(export, tmp_path / "more")
    tensors = load_file(export / "model.safetensors")
    save_file(tensors | {TIED_HEAD: tensors[EMBEDDINGS].clone()}, tmp_path / "more" / "model.safetensors", {"format": "pt"})
    for folder in (export, tmp_path / "more"):
        assert opened(tmp_path / "source", plan=plan).fault(CheckpointHeader.read(folder), torch.float32) is None
    change(tmp_path / "more", "model.norm.weight", lambda tensor: tensor + 1)
    assert "model.norm.weight" in opened(tmp_path / "source", plan=plan).fault(
        CheckpointHeader.read(tmp_path / "more"), torch.float32
    )


def test_a_model_whose_config_only_our_class_can_read_comes_back_with_its_tokenizer(tmp_path):
    """LongRoPE and layers of different sizes: transformers, which reads the config for the tokenizer, ends on the heads."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}
    rope |= {"original_max_position_embeddings": 64}
    model = tiny_model("llama", vocab_size=4096, rope_parameters=rope)
    plan = plan_without(model, DIFFERING)
    save_model(model, None, tmp_path / "source")
    save_model(pruned := cut(model, plan), tokenizer, tmp_path / "export")
    windows = random_ids(2, 8, 4096)
    found = check_reload(tmp_path / "export", pruned, tokenizer, windows, Original(tmp_path / "source", plan))
    assert found["original_diff"] < 1e-5
    again = load_tokenizer(tmp_path / "export")
    assert again("x = 1")["input_ids"] == tokenizer("x = 1")["input_ids"]
