"""Cutting from file to file gives the bytes that cutting in memory gives, and holds one tensor's part at a time."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pruning.errors import Cancelled, PruningError
from pruning.export.hugging_face import save_model
from pruning.export.streamed_cut import cut_streamed, rewrite
from pruning.model.architecture.classes import load_trusted
from pruning.model.surgery import cut
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.shape import MLP
from tests.export.shapes import CUTS, DEMO
from tests.tiny_models import FAMILIES, plan_without, tiny_model

BIASED = [(family, {"bias": True}) for family in ("llama", "qwen3")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


@pytest.mark.parametrize(("family", "options"), [(f, {"tied": t}) for f in FAMILIES for t in (False, True)] + BIASED)
def test_the_bytes_are_those_of_cutting_in_memory(tmp_path, tokenizer, family, options):
    save_model(tiny_model(family, **options), None, tmp_path / "source", dtype=torch.bfloat16, max_shard_size="30KB")
    (tmp_path / "source" / "LICENSE.txt").write_text("for all to use")
    header = CheckpointHeader.read(tmp_path / "source")
    for name, removed in CUTS.items():
        plan = plan_without(load_trusted(tmp_path / "source"), removed, remove_empty_layers=True)
        # As a run has it: float32 while computing, saved as the files were.
        pruned = cut(load_trusted(tmp_path / "source", dtype=torch.float32), plan)
        save_model(pruned, tokenizer, tmp_path / "memory", "20KB", torch.bfloat16, source=header.folder)
        cut_streamed(header, plan, tokenizer, tmp_path / "streamed", torch.bfloat16, "20KB")
        expected, found = files_of(tmp_path / "memory"), files_of(tmp_path / "streamed")
        assert expected.keys() == found.keys() and "LICENSE.txt" in found
        assert not [file for file in expected if expected[file] != found[file]], name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_different_sizes_is_cut_again_to_the_same_bytes(tmp_path, tokenizer, family):
    once = cut(tiny_model(family), plan_without(tiny_model(family), CUTS["different sizes"]))
    save_model(once, None, tmp_path / "source", dtype=torch.bfloat16)
    assert "auto_map" in (tmp_path / "source" / "config.json").read_text()
    header = CheckpointHeader.read(tmp_path / "source")
    plan = plan_without(load_trusted(tmp_path / "source"), {(2, MLP): range(8)})
    again = cut(load_trusted(tmp_path / "source", dtype=torch.float32), plan)
    save_model(again, tokenizer, tmp_path / "memory", "20KB", torch.bfloat16, source=header.folder)
    cut_streamed(header, plan, tokenizer, tmp_path / "streamed", torch.bfloat16, "20KB")
    assert files_of(tmp_path / "memory") == files_of(tmp_path / "streamed")


def test_mixed_number_formats_become_one_and_leftovers_of_old_files_go(tmp_path):
    save_model(tiny_model("llama", tied=True), None, tmp_path / "source", dtype=torch.bfloat16)
    file = tmp_path / "source" / "model.safetensors"
    weights = load_file(file)
    weights |= {name: weight.float() + 0.001 for name, weight in weights.items() if "norm" in name}
    weights |= {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    weights |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    save_file(weights, file, metadata={"format": "pt"})
    plan = plan_without(tiny_model("llama"), CUTS["different sizes"])
    cut_streamed(CheckpointHeader.read(tmp_path / "source"), plan, None, tmp_path / "out", torch.bfloat16)
    written = CheckpointHeader.read(tmp_path / "out")
    written.check()
    assert {tensor.dtype for tensor in written.tensors.values()} == {"BF16"}
    expected = weights["model.norm.weight"].to(torch.bfloat16)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"], expected)


def test_a_folder_is_rewritten_in_another_number_format(tmp_path):
    plan = plan_without(tiny_model("qwen2"), CUTS["different sizes"])
    model = cut(tiny_model("qwen2"), plan)
    save_model(model, None, tmp_path / "model")
    save_model(model, None, tmp_path / "expected", "20KB", torch.float16)
    rewrite(CheckpointHeader.read(tmp_path / "model"), None, tmp_path / "half", torch.float16, "20KB")
    assert files_of(tmp_path / "half") == files_of(tmp_path / "expected")


def test_a_cancelled_cut_leaves_nothing(tmp_path):
    def cancel(done: int, total: int) -> None:
        raise Cancelled

    save_model(tiny_model("llama"), None, tmp_path / "source")
    header, plan = CheckpointHeader.read(tmp_path / "source"), plan_without(tiny_model("llama"), CUTS["uniform"])
    with pytest.raises(Cancelled):
        cut_streamed(header, plan, None, tmp_path / "out", torch.float32, on_progress=cancel)
    assert os.listdir(tmp_path) == ["source"]


def test_a_source_without_safetensors_is_refused(tmp_path):
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PruningError, match="holds no safetensors files"):
        cut_streamed(CheckpointHeader.read(tmp_path), plan_without(model, {}), None, tmp_path / "out", torch.float32)


def test_anonymous_memory_does_not_grow_with_the_model(tmp_path):
    """A matrix of 256 MB, cut by columns: the process holds parts of it."""
    program = """
        import json, sys, threading
        import numpy as np
        from pathlib import Path
        from pruning.export.shards import kept_pieces
        from pruning.planning.checkpoint_header import TensorHeader
        from pruning.planning.kept_indices import TensorCut
        import torch
        def anonymous():
            return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
        path = Path(sys.argv[1])
        with path.open("wb") as file:
            file.truncate(256 * 2**20)
        tensor = TensorHeader("BF16", (8192, 16384), path, 0, 256 * 2**20)
        before, most, written = anonymous(), 0, 0
        for piece in kept_pieces(tensor, TensorCut("x", 1, np.arange(0, 16384, 2)), torch.bfloat16):
            most, written = max(most, anonymous()), written + piece.nbytes
        print(json.dumps([written, (most - before) / 1024]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "x")], capture_output=True, text=True)
    written, grown = json.loads(done.stdout)
    assert written == 128 * 2**20 and grown < 150
