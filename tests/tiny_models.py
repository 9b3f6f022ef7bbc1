"""Small random models of the four families: two query heads per KV head, nothing at its default value."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ModelShape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}

# Rotary scalings of a model that was trained for 32 tokens; LongRoPE names a factor for each pair of 8 dimensions.
_TRAINED = {"original_max_position_embeddings": 32}
SCALINGS = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0} | _TRAINED,
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | _TRAINED,
    "longrope": {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 4.0, 8.0, 16.0]} | _TRAINED,
}


def with_rope(rope_type: str) -> dict:
    """Options of a model with this rotary scaling, or the default rule, at a base that is no default."""
    parameters = SCALINGS.get(rope_type, {}) | {"rope_type": rope_type, "rope_theta": 5000.0}
    return {"head_dim": 8, "rope_parameters": parameters, "max_position_embeddings": 32 if rope_type == "dynamic" else 128}


def tiny_config(family: str, tied: bool = False, head_dim: int | None = None, bias: bool = False, layers: int = 5, **values):
    """A config of `layers` layers with 4 KV heads, 8 query heads and 24 MLP channels, hidden size 32.

    `head_dim` None leaves it to the family's default rule. `bias` switches on the biases that the family knows as options.
    """
    optional = {}
    if head_dim is not None:
        optional["head_dim"] = head_dim
    elif family == "qwen3":
        optional["head_dim"] = 8  # the default of this family is 128
    if bias:
        optional |= {"llama": {"attention_bias": True, "mlp_bias": True}, "qwen3": {"attention_bias": True}}.get(family, {})
    sizes = {
        "vocab_size": 67,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
    }
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return _CONFIGS[family](**(sizes | tokens | optional | {"tie_word_embeddings": tied} | values))


def tiny_model(
    family: str, tied: bool = False, head_dim: int | None = None, bias: bool = False, seed: int = 0, **values
) -> PreTrainedModel:
    """A float32 model in eval mode whose weights, biases and norms are all random."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, tied, head_dim, bias, **values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.5 if name.endswith("bias") else 0.2)
    model.generation_config.eos_token_id = None  # generate to the length that is asked for
    return model.eval()


def plan_without(
    model: PreTrainedModel, removed: dict[tuple[int, str], Iterable[int]], remove_empty_layers: bool = False
) -> PruningPlan:
    """The plan that removes the named groups, given per (layer, "attention" or "mlp")."""
    whole = PruningPlan.keep_all(ModelShape.from_config(model.config.to_dict()))
    kept = whole.kept.copy()
    for (layer_idx, group_type), groups in removed.items():
        kept[np.arange(len(kept))[whole.groups.slice_of(layer_idx, group_type)][list(groups)]] = False
    return replace(whole, kept=kept, remove_empty_layers=remove_empty_layers)


def random_ids(rows: int, length: int, vocab_size: int = 67, seed: int = 1) -> torch.Tensor:
    """Token ids without special ones, [rows, length] int64."""
    return torch.randint(3, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))
