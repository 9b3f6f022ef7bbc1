"""A Llama-3-8B folder whose weight files announce 16 GB and take no room: headers, then holes."""

import json
import os
import struct
from pathlib import Path

from pruning.planning.shape import ModelShape

from .planning import LLAMA_3_8B

_SHARDS, _WIDTH = 4, 2


def sparse_model(folder: Path, config: dict = LLAMA_3_8B, shapes: dict[str, tuple[int, ...]] | None = None) -> Path:
    """A sharded bfloat16 folder with these tensors (default: the config's own); every byte of a weight is a hole."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    shapes = shapes or ModelShape.from_config(config).tensor_shapes()
    names = list(shapes)
    weight_map = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors"
        mine = names[shard * len(names) // _SHARDS : (shard + 1) * len(names) // _SHARDS]
        weight_map |= dict.fromkeys(mine, file)
        _write(folder / file, {name: shapes[name] for name in mine})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _write(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = _WIDTH
        for side in shape:
            size *= side
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(file, 8 + len(header) + end)
