"""The layout of a model in a GGUF file of llama.cpp: architecture, sizes per layer, names of tensors.

    one size       llama, qwen2, qwen3        sizes differ   deci: arrays of head counts and MLP widths
    q, k           llama and deci rotate neighbouring pairs, so rows change places; qwen2 and qwen3 rotate halves, as here

Names and meaning: llama.cpp, src/models/{llama,deci,qwen2,qwen3}.cpp. Knows nothing about torch.
"""

from dataclasses import dataclass
from math import isclose, log, prod

import numpy as np

from ..errors import PruningError
from ..planning.families import FAMILIES
from ..planning.shape import LayerShape, ModelShape

GGUF_TYPES = ("F32", "F16", "BF16", "Q8_0")
_BLOCK, _BLOCK_BYTES = 32, 34  # values of Q8_0 that share a scale, and what they take with it
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_HEADER_BYTES = 32 * 2**20  # keys, tokens and merges take less
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ROPE_TYPES = {"llama": ("default", "linear", "yarn", "llama3"), "qwen": ("default", "linear", "yarn")}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file: its name, the checkpoint tensor it holds (None: zeros), and its shape as torch gives it.

    `heads`: rows are reordered head by head for this many heads; 0: they stay as they are.
    """

    name: str
    source: str | None
    shape: tuple[int, ...]
    heads: int = 0


@dataclass(frozen=True)
class GgufLayout:
    """`head_count`, `head_count_kv` and `feed_forward_length` have one entry per layer."""

    architecture: str
    tensors: tuple[GgufTensor, ...]
    head_count: tuple[int, ...]
    head_count_kv: tuple[int, ...]
    feed_forward_length: tuple[int, ...]

    def bytes_as(self, kind: str) -> int:
        """Bytes of all tensors in a file of this kind."""
        return sum(bytes_of(tensor.shape, type_of(tensor.shape, kind)) for tensor in self.tensors)


def gguf_layout(shape: ModelShape) -> GgufLayout:
    """The layout of a model of this shape; raises PruningError for a shape that llama.cpp cannot hold."""
    family = FAMILIES[shape.family]
    if not (shape.is_uniform or family.gguf_any_size):
        raise PruningError("gguf_qwen3_sizes")
    if shape.layers[0].o_bias and not family.gguf_o_bias:
        raise PruningError("gguf_qwen3_bias")
    architecture = _architecture(shape)
    layers = shape.layers if architecture != "deci" else tuple(_with_stand_ins(shape))
    embeddings = (shape.vocab_size, shape.hidden_size)
    tensors = [GgufTensor("token_embd.weight", "model.embed_tokens.weight", embeddings)]
    for index, (present, written) in enumerate(zip(shape.layers, layers, strict=True)):
        tensors += _layer_tensors(index, present, written, permuted=architecture in ("llama", "deci"))
    tensors.append(GgufTensor("output_norm.weight", "model.norm.weight", (shape.hidden_size,)))
    if not shape.tie_word_embeddings:
        tensors.append(GgufTensor("output.weight", "lm_head.weight", embeddings))
    return GgufLayout(
        architecture,
        tuple(tensors),
        tuple(layer.num_attention_heads for layer in layers),
        tuple(layer.num_key_value_heads for layer in layers),
        tuple(layer.intermediate_size for layer in layers),
    )


def gguf_bytes(shape: ModelShape, kind: str) -> int:
    """Bytes that a file of this kind takes at most; raises PruningError for a shape that llama.cpp cannot hold."""
    return _HEADER_BYTES + gguf_layout(shape).bytes_as(kind)


def type_of(shape: tuple[int, ...], kind: str) -> str:
    """What a tensor of this shape is written as in a file of this kind."""
    if len(shape) == 1:
        return "F32"
    return "F16" if kind == "Q8_0" and shape[-1] % _BLOCK else kind


def bytes_of(shape: tuple[int, ...], written: str) -> int:
    """Bytes of a tensor written as this type."""
    return prod(shape) // _BLOCK * _BLOCK_BYTES if written == "Q8_0" else prod(shape) * _WIDTHS[written]


def check_config(config: dict, shape: ModelShape) -> None:
    """Raises PruningError for what a config asks for and llama.cpp does not compute."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise PruningError("gguf_activation", found=activation)
    rope_type = rope_parameters(config).get("rope_type", "default")
    known = _ROPE_TYPES["qwen" if gguf_layout(shape).architecture.startswith("qwen") else "llama"]
    if rope_type not in known:
        raise PruningError("gguf_rope", found=rope_type, known=", ".join(known))
    # The file has no key for these, so each must be what llama.cpp computes anyway.
    given = {"partial_rotary_factor": config.get("partial_rotary_factor")} | rope_parameters(config)
    for name, neutral in _neutral_rope_settings(given).items():
        found = given.get(name)
        if found is not None and not isclose(found, neutral, rel_tol=1e-6):
            raise PruningError("gguf_rope_setting", name=name, found=found)


def _neutral_rope_settings(rope: dict) -> dict[str, float]:
    """The values that mean what llama.cpp computes anyway."""
    neutral = {"partial_rotary_factor": 1.0}
    if rope.get("rope_type") == "yarn":
        if not (factor := rope.get("factor")):  # transformers then derives one
            raise PruningError("gguf_rope_setting", name="factor", found=factor)
        neutral |= {"attention_factor": 0.1 * log(max(factor, 1.0)) + 1.0, "truncate": 1, "mscale": 0, "mscale_all_dim": 0}
    return neutral


def rope_parameters(config: dict) -> dict:
    """The rule of the rotary embedding; where a config.json gives it under the older names too, transformers prefers those."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    named = {"rope_type": rope["type"]} if "type" in rope and "rope_type" not in rope else {}
    return {"rope_theta": config.get("rope_theta", 10000.0)} | rope | named


def context_length(config: dict) -> int:
    """Tokens for which the file computes what the model computes: these architectures know no sliding window."""
    longest = config.get("max_position_embeddings") or 2048
    window = config.get("sliding_window")
    kinds = config.get("layer_types") or ["sliding_attention"]
    slides = config.get("use_sliding_window", True) and "sliding_attention" in kinds
    return min(longest, window) if window and slides else longest


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k projection, [heads * d, ...], from rotation by halves to rotation of neighbouring pairs."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def halved(rows: np.ndarray, heads: int) -> np.ndarray:
    """The reverse of `interleaved`."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _architecture(shape: ModelShape) -> str:
    layer, family = shape.layers[0], FAMILIES[shape.family]
    if not shape.is_uniform:
        return family.gguf_any_size
    # `qwen2` takes heads * d = hidden size for granted; `llama` does not, and has the same biases.
    is_whole = layer.num_attention_heads * layer.head_dim == shape.hidden_size
    return family.gguf_whole if family.gguf_whole and is_whole else family.gguf


def _with_stand_ins(shape: ModelShape):
    """Layers as they are written: where llama.cpp would leave a layer half computed, the smallest block of zeros."""
    for index, layer in enumerate(shape.layers):
        groups = layer.num_key_value_heads or int(layer.o_bias)
        # Without an MLP it drops the attention's output; after the last layer it also drops the choice of positions.
        needs_mlp = groups > 0 or layer.mlp_bias or index == len(shape.layers) - 1
        yield layer.resized(groups, layer.intermediate_size or int(needs_mlp))


def _layer_tensors(index: int, present: LayerShape, written: LayerShape, permuted: bool):
    held = present.tensor_shapes()
    for inner, size in written.tensor_shapes().items():
        module, _, parameter = inner.rpartition(".")
        # llama.cpp refuses a file with tensors that it does not read, such as norms before a block that is gone.
        is_of_attention = module == "input_layernorm" or module.startswith("self_attn")
        if not (written.num_key_value_heads if is_of_attention else written.intermediate_size):
            continue
        rotated = {"self_attn.q_proj": written.num_attention_heads, "self_attn.k_proj": written.num_key_value_heads}
        heads = rotated.get(module, 0) if permuted else 0
        source = f"model.layers.{index}.{inner}" if inner in held else None
        yield GgufTensor(f"blk.{index}.{_NAMES[module]}.{parameter}", source, size, heads)
