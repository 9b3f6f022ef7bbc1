"""A model folder as one GGUF file for llama.cpp, written one tensor at a time, and read back.

    model/*.safetensors --float32--> rows reordered for llama.cpp's rotation --> F32, F16, BF16 or Q8_0 --> model-Q8_0.gguf

Vectors (norms, biases) stay F32. Order and names of tensors: gguf_layout.py.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import torch
from gguf import (
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    dequantize,
)
from gguf import quantize as quantize_rows
from transformers import MistralConfig, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..errors import PruningError
from ..planning.checkpoint_header import CheckpointHeader
from .gguf_layout import (
    GgufLayout,
    GgufTensor,
    bytes_of,
    check_config,
    context_length,
    gguf_layout,
    halved,
    interleaved,
    rope_parameters,
    type_of,
)
from .gguf_tokenizer import add_tokenizer
from .stored_tensors import StoredTensors, stored_tensors

_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_CHUNK = 2**24  # values turned into float32 at a time
_ROPE_FACTORS = "rope_freqs.weight"

Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise Cancelled


def write_gguf(
    folder: Path, tokenizer: PreTrainedTokenizerBase, path: Path, kind: str, on_progress: Progress | None = None
) -> None:
    """Writes `path` from a model folder, its matrices as `kind`, one of gguf_layout.GGUF_TYPES; Q8_0 leaves rows whose length
    is no multiple of 32 as F16. Use within `files.written_whole`: an error leaves the file unfinished.

    Raises PruningError for a model or tokenizer that llama.cpp cannot hold, and for values too large for F16.
    """
    header = CheckpointHeader.read(folder)
    layout = gguf_layout(header.shape)
    check_config(header.config, header.shape)
    with stored_tensors(header) as stored, _writer(path, layout.architecture) as writer:
        _add_sizes(writer, header, layout)
        writer.add_file_type(_FILE_TYPES[kind])
        writer.add_quantization_version(2)
        add_tokenizer(writer, tokenizer, header.shape.vocab_size)
        _write_tensors(writer, layout, kind, stored, _rope_factors(header), on_progress)


@contextmanager
def _writer(path: Path, architecture: str) -> Iterator[GGUFWriter]:
    writer = GGUFWriter(path, architecture)
    try:
        yield writer
    finally:
        writer.close()


def read_gguf(path: Path, header: CheckpointHeader) -> Iterator[tuple[GgufTensor, np.ndarray, str]]:
    """Each tensor as the file holds it: float32 values with rows in the checkpoint's order, and its type.

    Raises PruningError when the file holds other tensors, other shapes or other settings than the model folder asks for.
    """
    reader, layout = GGUFReader(path), gguf_layout(header.shape)
    _check_keys(path, reader, header, layout)
    found = {tensor.name: tensor for tensor in reader.tensors}
    factors, expected = found.pop(_ROPE_FACTORS, None), _rope_factors(header)
    if (factors is None) != (expected is None) or (factors is not None and not np.array_equal(factors.data, expected)):
        raise PruningError("gguf_differs", path=path, what=_ROPE_FACTORS)
    if missing := sorted({tensor.name for tensor in layout.tensors} ^ found.keys()):
        raise PruningError("gguf_differs", path=path, what=missing[0])
    for tensor in layout.tensors:
        stored = found[tensor.name]
        if tuple(reversed(stored.shape.tolist())) != tensor.shape:
            raise PruningError("gguf_differs", path=path, what=tensor.name)
        values = dequantize(stored.data, stored.tensor_type).reshape(tensor.shape)
        yield tensor, halved(values, tensor.heads) if tensor.heads else values, stored.tensor_type.name


def _check_keys(path: Path, reader: GGUFReader, header: CheckpointHeader, layout: GgufLayout) -> None:
    """Holds the architecture and every key of it against what is written for this model."""
    writer = GGUFWriter(None, layout.architecture)
    _add_sizes(writer, header, layout)
    expected = {name: entry.value for name, entry in writer.kv_data[0].items()}
    held = {name for name in reader.fields if name.startswith(f"{layout.architecture}.")} | {"general.architecture"}
    for name in sorted(held | expected.keys()):
        field, value = reader.get_field(name), expected.get(name)
        value = float(np.float32(value)) if isinstance(value, float) else value
        if field is None or field.contents() != value:
            raise PruningError("gguf_differs", path=path, what=name)


def _add_sizes(writer: GGUFWriter, header: CheckpointHeader, layout: GgufLayout) -> None:
    shape, config = header.shape, header.config
    head_dim = shape.layers[0].head_dim
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(shape.hidden_size)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_head_count(_one_or_all(layout.head_count))
    writer.add_head_count_kv(_one_or_all(layout.head_count_kv))
    writer.add_feed_forward_length(_one_or_all(layout.feed_forward_length))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    _add_rope(writer, rope_parameters(config))


def _one_or_all(counts: tuple[int, ...]) -> int | list[int]:
    """One number where all layers agree: what the architectures for one size read."""
    return counts[0] if len(set(counts)) == 1 else list(counts)


def _add_rope(writer: GGUFWriter, rope: dict) -> None:
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType[kind.upper()])
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        if "original_max_position_embeddings" in rope:
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for name in ("beta_fast", "beta_slow"):
            if rope.get(name) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{name}")(rope[name])


def _rope_factors(header: CheckpointHeader) -> np.ndarray | None:
    """What Llama 3.1's rule divides each rotary frequency by, [head_dim / 2] float32; None for other rules."""
    rope = rope_parameters(header.config)
    if rope.get("rope_type") != "llama3":
        return None
    head_dim = header.shape.layers[0].head_dim
    config = MistralConfig(hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return (plain / scaled).numpy()


def _write_tensors(
    writer: GGUFWriter,
    layout: GgufLayout,
    kind: str,
    stored: StoredTensors,
    rope_factors: np.ndarray | None,
    on_progress: Progress | None,
) -> None:
    if rope_factors is not None:
        writer.add_tensor_info(_ROPE_FACTORS, rope_factors.shape, rope_factors.dtype, rope_factors.nbytes)
    for tensor in layout.tensors:
        written = GGMLQuantizationType[type_of(tensor.shape, kind)]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), bytes_of(tensor.shape, written.name), written)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if rope_factors is not None:
        writer.write_tensor_data(rope_factors)
    done, total = 0, layout.bytes_as(kind)
    for tensor in layout.tensors:
        content = _content(tensor, GGMLQuantizationType[type_of(tensor.shape, kind)], stored)
        writer.write_tensor_data(content)
        done += content.nbytes
        if on_progress:
            on_progress(done, total)


def _content(tensor: GgufTensor, written: GGMLQuantizationType, stored: StoredTensors) -> np.ndarray:
    """The bytes of one tensor; float32 exists for a part of its rows at a time."""
    source = torch.zeros(tensor.shape) if tensor.source is None else stored[tensor.source]
    if tensor.heads:
        order = interleaved(np.arange(tensor.shape[0]), tensor.heads)
        source = source[torch.from_numpy(order)]
    rows = max(_CHUNK // prod(tensor.shape[1:]), 1)
    with np.errstate(over="ignore"):  # looked for below
        parts = [quantize_rows(part.to(torch.float32).numpy(), written) for part in source.split(rows)]
    content = np.concatenate(parts)
    if written == GGMLQuantizationType.F16 and not np.isfinite(content).all():
        raise PruningError("gguf_overflow", name=tensor.source)
    return content
