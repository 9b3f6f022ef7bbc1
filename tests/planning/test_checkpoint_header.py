"""A model folder is read by its headers alone, and every damage is named."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from pruning.errors import PruningError
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.shape import ModelShape
from tests.planning.examples import small_config

EMBEDDINGS = "model.embed_tokens.weight"
DEMO = Path(__file__).parents[2] / "assets" / "demo_model"


def weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = ModelShape.from_config(config).tensor_shapes()
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def model_folder(folder: Path, config: dict | None = None, tensors: dict | None = None) -> Path:
    config = config or small_config()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights(config) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def sharded_folder(folder: Path) -> Path:
    config = small_config()
    (folder / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for i, name in enumerate(weights(config)):
        weight_map[name] = f"model-0000{i % 2 + 1}-of-00002.safetensors"
    for file in set(weight_map.values()):
        save_file({n: t for n, t in weights(config).items() if weight_map[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_the_demo_model_is_whole():
    header = CheckpointHeader.read(DEMO)
    header.check()
    assert sum(np.prod(t.shape) for t in header.tensors.values()) == header.shape.parameters
    assert header.dtype in ("BF16", "F32", "F16")
    assert header.weight_bytes == (DEMO / "model.safetensors").stat().st_size


def test_shards_hold_what_one_file_holds(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = CheckpointHeader.read(model_folder(tmp_path / "one"))
    two = CheckpointHeader.read(sharded_folder(tmp_path / "two"))
    two.check()
    assert len(two.weight_files) == 2
    assert {n: t.shape for n, t in one.tensors.items()} == {n: t.shape for n, t in two.tensors.items()}
    assert one.fingerprint == two.fingerprint


def test_offsets_point_at_the_values(tmp_path):
    header = CheckpointHeader.read(model_folder(tmp_path))
    expected = weights(small_config())["model.layers.1.self_attn.k_proj.weight"]
    tensor = header.tensors["model.layers.1.self_attn.k_proj.weight"]
    content = tensor.file.read_bytes()[tensor.start : tensor.end]
    np.testing.assert_array_equal(np.frombuffer(content, np.float32).reshape(tensor.shape), expected)


def test_fingerprint_changes_with_weights_and_sizes_but_not_with_place_or_other_settings(tmp_path):
    prints = {}
    for name, config, seed in (
        ("same", small_config(), 0),
        ("moved", small_config(rope_theta=5.0, torch_dtype="float32"), 0),
        ("trained", small_config(), 1),
        ("reshaped", small_config(head_dim=2, num_key_value_heads=4), 0),
    ):
        (tmp_path / name).mkdir()
        prints[name] = CheckpointHeader.read(model_folder(tmp_path / name, config, weights(config, seed))).fingerprint
    assert prints["same"] == prints["moved"]
    assert len(set(prints.values())) == 3
    assert all(len(p) == 64 for p in prints.values())


def test_a_bin_folder_is_sized_up_by_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    header = CheckpointHeader.read(tmp_path)
    header.check()
    assert (header.tensors, header.weight_bytes, header.dtype) == ({}, 8, None)
    assert header.fingerprint


@pytest.mark.parametrize("extra", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_a_tied_copy_and_old_buffers_are_no_fault(tmp_path, extra):
    config = small_config(tie_word_embeddings=True)
    tensors = weights(config)
    tensors |= {extra: tensors[EMBEDDINGS].copy()}
    header = CheckpointHeader.read(model_folder(tmp_path, config, tensors))
    header.check()
    assert header.shape.tie_word_embeddings


def bfloat16(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).to(torch.bfloat16)


def last_changed(values: np.ndarray) -> torch.Tensor:
    changed = torch.from_numpy(values.copy())
    changed[-1, -1] += 1e-3
    return changed


@pytest.mark.parametrize(
    ("head", "embeddings", "tied"),
    [
        (torch.from_numpy, torch.from_numpy, True),
        (bfloat16, bfloat16, True),
        (bfloat16, lambda values: bfloat16(values).float(), True),
        (bfloat16, torch.from_numpy, False),
        (last_changed, torch.from_numpy, False),
        (lambda values: torch.from_numpy(values[:-1].copy()), torch.from_numpy, False),
    ],
    ids=["copy", "copy in BF16", "same numbers in another format", "rounded", "one value", "smaller"],
)
@pytest.mark.parametrize("form", ["safetensors", "bin", "bin, one block"])
def test_a_tied_config_over_another_head_is_read_as_untied(tmp_path, form, head, embeddings, tied):
    config = small_config(tie_word_embeddings=True)
    tensors = {name: torch.from_numpy(values) for name, values in weights(config).items()}
    values = weights(config)[EMBEDDINGS]
    tensors |= {EMBEDDINGS: embeddings(values), "lm_head.weight": head(values.copy())}
    folder = model_folder(tmp_path, config)
    if form == "safetensors":
        save_torch_file(tensors, folder / "model.safetensors")
    else:
        (folder / "model.safetensors").unlink()
        if form == "bin, one block" and tensors[EMBEDDINGS].dtype == tensors["lm_head.weight"].dtype:
            block = torch.cat([tensors[EMBEDDINGS].flatten(), tensors["lm_head.weight"].flatten()])
            tensors[EMBEDDINGS], tensors["lm_head.weight"] = block[:88].view(11, 8), block[88:].view(-1, 8)
        torch.save(tensors, folder / "pytorch_model.bin")
    header = CheckpointHeader.read(folder)
    assert (header.keeps_head, header.shape.tie_word_embeddings) == (not tied, tied)
    assert header.shape.parameters == ModelShape.from_config(config).parameters + (0 if tied else 88)


# faults ---------------------------------------------------------------------------------------------------------------


def read_error(folder: Path) -> str:
    with pytest.raises(PruningError) as caught:
        CheckpointHeader.read(folder).check()
    assert str(folder) in str(caught.value) or caught.value.code.startswith("weights_")
    return str(caught.value)


def test_a_folder_without_config_is_no_model_folder(tmp_path):
    assert "has no config.json" in read_error(tmp_path)
    assert "has no config.json" in read_error(tmp_path / "missing")


@pytest.mark.parametrize("content", ["{", "[1]", "\x00", '"llama"'])
def test_a_broken_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json is not valid JSON" in read_error(tmp_path)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    assert "holds no weights" in read_error(tmp_path)


def test_gpt2_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 768}))
    save_file({"wte.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(PruningError, match="'gpt2' is not supported"):
        CheckpointHeader.read(tmp_path).check()


def test_a_missing_shard_is_named(tmp_path):
    folder = sharded_folder(tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "lists the weight file model-00002-of-00002.safetensors, but it is not there" in read_error(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "modeling_own.py"])
def test_an_index_cannot_point_outside_its_folder(tmp_path, name):
    folder = sharded_folder(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "it is not there" in read_error(folder)


def test_a_file_that_the_config_names_is_read_before_all_others(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    model_folder(tmp_path, small_config(transformers_weights="other.safetensors"), weights(small_config(), seed=1))
    assert CheckpointHeader.read(folder).weight_files == (folder / "other.safetensors",)
    (folder / "other.safetensors").unlink()
    assert "lists the weight file other.safetensors, but it is not there" in read_error(folder)


def test_distributed_shards_are_refused(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "shard-00001-model-00001-of-00002.safetensors").write_bytes(b"")  # transformers would load these
    assert "holds the shards of a distributed checkpoint" in read_error(folder)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": 3}', '["weight_map"]', '{"weight_map": {"a": 1, "b": "c"}}']
)
def test_a_broken_index_is_named(tmp_path, content):
    folder = sharded_folder(tmp_path)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "index.json is not valid JSON" in read_error(folder)


@pytest.mark.parametrize("left", [0, 5, 8, 200, -100, -1])
def test_a_truncated_file_is_named(tmp_path, left):
    file = model_folder(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    message = read_error(tmp_path)
    assert "is cut short or damaged" in message
    assert "model.safetensors" in message


@pytest.mark.parametrize("header", [b"{", b"\xff\xff", b"[]", b"3", b'{"a": 1}', b'{"a": {"dtype": "F32"}}'])
def test_a_damaged_header_is_named(tmp_path, header):
    file = model_folder(tmp_path) / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "is cut short or damaged" in read_error(tmp_path)


def test_a_config_that_contradicts_the_weights_names_the_first_tensor(tmp_path):
    model_folder(tmp_path, small_config(intermediate_size=7), weights(small_config()))
    assert read_error(tmp_path) == (
        "The weights contradict config.json: model.layers.0.mlp.gate_proj.weight has shape [6, 8], the config says [7, 8]."
    )


def test_missing_and_unexpected_tensors_are_counted(tmp_path):
    tensors = weights(small_config())
    del tensors["model.norm.weight"], tensors["model.layers.3.mlp.up_proj.weight"]
    model_folder(tmp_path, tensors=tensors)
    assert "lack model.layers.3.mlp.up_proj.weight, which config.json asks for (and 1 more)" in read_error(tmp_path)
    model_folder(tmp_path, tensors=weights(small_config(num_hidden_layers=5)))
    assert "hold model.layers.4.input_layernorm.weight, which config.json does not provide for (and 8 more)" in read_error(
        tmp_path
    )


def test_an_untied_config_over_tied_weights_is_found(tmp_path):
    model_folder(tmp_path, small_config(), weights(small_config(tie_word_embeddings=True)))
    assert "lack lm_head.weight" in read_error(tmp_path)
