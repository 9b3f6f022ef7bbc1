"""Configurations of Llama, Mistral, Qwen2 and Qwen3 models whose layers differ in size.

    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336,
    "per_layer_config": {
      "3": {"num_attention_heads": 20, "num_key_value_heads": 5, "intermediate_size": 9000},
      "7": {"skip": ["self_attn"], "intermediate_size": 4096}
    }

A layer that is not named has the sizes given at the top; `skip` names blocks that are gone (`self_attn`, `mlp`).
"""

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

BLOCKS = {"self_attn", "mlp"}


class LayersOfAnySize:
    """Checks of the sizes; they replace those that hold only for layers of one size."""

    def validate_architecture(self):
        """Raises ValueError for sizes that no model can be built from."""
        if getattr(self, "head_dim", None) is None:
            raise ValueError("`head_dim` must be given: it cannot be derived once heads are removed.")
        for index, layer in enumerate(self.per_layer_config):
            skip = set(getattr(layer, "skip", ()))
            if not skip <= BLOCKS:
                raise ValueError(f"Layer {index} skips {sorted(skip - BLOCKS)}; it can only skip {sorted(BLOCKS)}.")
            if layer.num_attention_heads % layer.num_key_value_heads:
                heads = f"{layer.num_attention_heads} query heads and {layer.num_key_value_heads} KV heads"
                raise ValueError(f"Layer {index} has {heads}; the first must be a multiple of the second.")
            # A key-value cache asks layer 0 how many tokens it holds, so this layer must fill it.
            if index == 0 and "self_attn" in skip:
                raise ValueError("Layer 0 must keep its attention.")

    def _validate_longrope_rope_parameters(self, rope_parameters, ignore_keys=None):
        # The parent's check asks for the number of heads, even where `head_dim` is given; one layer alone can answer.
        layer = self.per_layer_config[0]
        super(LayersOfAnySize, layer)._validate_longrope_rope_parameters(rope_parameters, ignore_keys=ignore_keys)


# `@strict` is not inherited: without it on the class itself the parent's checks run instead of the ones above.
@strict
class PrunedLlamaConfig(LayersOfAnySize, LlamaConfig):
    model_type = "pruned_llama"


@strict
class PrunedMistralConfig(LayersOfAnySize, MistralConfig):
    model_type = "pruned_mistral"


@strict
class PrunedQwen2Config(LayersOfAnySize, Qwen2Config):
    model_type = "pruned_qwen2"

    head_dim: int | None = None


@strict
class PrunedQwen3Config(LayersOfAnySize, Qwen3Config):
    model_type = "pruned_qwen3"
