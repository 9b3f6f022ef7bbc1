"""Every model family as a record: defaults of its config, biases and norms, classes that hold it, its names in GGUF.

    config.json  --family-->  LayerShape  --cut-->  stock class, or our own for layers that differ in size

A new family is its record here, and its two classes in `model/architecture/` (configuration_pruned.py, modeling_pruned.py).
Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRUNED_PREFIX = "pruned_"  # model_type of an exported model whose layers differ in size: pruned_llama, ...


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers.

    `defaults` are what its config class fills in when config.json does not say (transformers/models/<name>/
    configuration_<name>.py; a test compares them). A bias is always there (True), never (False), or where the config value of
    this name says so. `stock` names the class of transformers.
    """

    name: str
    stock: str
    defaults: Mapping[str, Any]
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False  # a norm for each query and key head
    # The stock class refuses a number of heads that does not divide the hidden size; the one of family `twin` computes the
    # same, but has no bias of o_proj or the MLP.
    heads_divide_hidden: bool = False
    twin: str | None = None
    # Architecture of llama.cpp for layers of one size; `gguf_whole` where it holds only heads * head_dim = hidden size.
    gguf: str = "llama"
    gguf_whole: str | None = None
    gguf_any_size: str | None = "deci"  # for layers that differ in size; None: there is none
    gguf_o_bias: bool = True

    @property
    def own(self) -> str:
        """The class of `model/architecture/modeling_pruned.py` for layers that differ in size."""
        return f"Pruned{self.stock}"

    def has(self, bias: bool | str, config: Mapping[str, Any]) -> bool:
        """Whether models of this config have the bias, a field of this record."""
        return bool(config.get(bias, False)) if isinstance(bias, str) else bias


_COMMON = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "tie_word_embeddings": False}
_QWEN = _COMMON | {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32}
_ALL = (
    Family(
        "llama",
        "LlamaForCausalLM",
        _COMMON | {"vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": None},
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        heads_divide_hidden=True,
        twin="mistral",
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        _COMMON | {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8},
    ),
    Family("qwen2", "Qwen2ForCausalLM", _QWEN, qkv_bias=True, gguf_whole="qwen2"),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        _QWEN | {"head_dim": 128},
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        qk_norm=True,
        gguf="qwen3",
        gguf_any_size=None,
        gguf_o_bias=False,
    ),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
