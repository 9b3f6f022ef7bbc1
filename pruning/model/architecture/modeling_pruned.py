"""Llama, Mistral, Qwen2 and Qwen3 models whose layers differ in size, or lack attention or MLP.

    stock layer            self_attn: q, k, v, o_proj       mlp: gate, up, down_proj
    attention is gone      self_attn: RemovedHeads          the bias of o_proj, where there was one
    MLP is gone            mlp:       RemovedChannels       the bias of down_proj, where there was one

Layers are those of transformers, each built from its own entry of `per_layer_config`; all computation is inherited.
"""

import torch
from torch import nn
from transformers import (
    LlamaForCausalLM,
    LlamaModel,
    MistralForCausalLM,
    MistralModel,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3ForCausalLM,
    Qwen3Model,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRMSNorm, MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm, Qwen3RotaryEmbedding

from .configuration_pruned import PrunedLlamaConfig, PrunedMistralConfig, PrunedQwen2Config, PrunedQwen3Config


class BiasOnly(nn.Module):
    """An output projection that nothing enters any more: its bias, at every position."""

    def __init__(self, bias: nn.Parameter):
        super().__init__()
        self.bias = bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.bias.expand_as(hidden_states)


def without_input(projection: nn.Linear) -> BiasOnly | None:
    """What is left of an output projection; nothing if it had no bias, so that adapters by name (PEFT) pass it over."""
    return None if projection.bias is None else BiasOnly(projection.bias)


# Not called an attention class: transformers reads this file, and a module of that name without its own dispatch code
# makes `set_attn_implementation` refuse to work.
class RemovedHeads(nn.Module):
    """Stands where an attention block lost all its heads. Per-head norms (Qwen3) stay as parameters and do nothing."""

    def __init__(self, self_attn: nn.Module):
        super().__init__()
        self.o_proj = without_input(self_attn.o_proj)
        if hasattr(self_attn, "q_norm"):
            self.q_norm, self.k_norm = self_attn.q_norm, self_attn.k_norm

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, None]:
        added = torch.zeros_like(hidden_states) if self.o_proj is None else self.o_proj(hidden_states)
        return added, None  # the cache of this layer stays empty


class RemovedChannels(nn.Module):
    """Stands where an MLP lost all its channels."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.down_proj = without_input(mlp.down_proj)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden_states) if self.down_proj is None else self.down_proj(hidden_states)


def build_layer(layer_class: type[nn.Module], config, layer_idx: int) -> nn.Module:
    """One decoder layer of the sizes that `config` gives it, removed blocks replaced."""
    layer_config = config.per_layer_config[layer_idx]
    layer = layer_class(layer_config, layer_idx)
    skip = getattr(layer_config, "skip", ())
    # `layer_config` is a detached copy; the attention implementation is switched on the config of the whole model.
    layer.self_attn.config = config
    layer.mlp.config = config
    if "self_attn" in skip:
        layer.self_attn = RemovedHeads(layer.self_attn)
    if "mlp" in skip:
        layer.mlp = RemovedChannels(layer.mlp)
    return layer


def build_decoder(model: nn.Module, config, layer_class: type, norm_class: type, rotary_class: type) -> None:
    """What the constructor of the stock model does, with layers of different sizes.

    The stock constructor itself would read sizes that differ by layer from the config of the whole model, which raises.
    """
    model.padding_idx = config.pad_token_id
    model.vocab_size = config.vocab_size
    model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, model.padding_idx)
    model.layers = nn.ModuleList(build_layer(layer_class, config, i) for i in range(config.num_hidden_layers))
    model.norm = norm_class(config.hidden_size, eps=config.rms_norm_eps)
    # Some scaled rotary embeddings (yarn, dynamic) look at the number of heads before they look at `head_dim`.
    model.rotary_emb = rotary_class(config=config.per_layer_config[0])
    model.gradient_checkpointing = False
    model.has_sliding_layers = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    model.post_init()


def build_causal_lm(causal_lm: nn.Module, config, model_class: type[nn.Module]) -> None:
    """What the constructor of the stock language model does, around another decoder."""
    causal_lm.model = model_class(config)
    causal_lm.vocab_size = config.vocab_size
    causal_lm.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    causal_lm.post_init()


class PrunedLlamaModel(LlamaModel):
    config: PrunedLlamaConfig

    def __init__(self, config: PrunedLlamaConfig):
        super(LlamaModel, self).__init__(config)
        build_decoder(self, config, LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding)


class PrunedLlamaForCausalLM(LlamaForCausalLM):
    config: PrunedLlamaConfig

    def __init__(self, config: PrunedLlamaConfig):
        super(LlamaForCausalLM, self).__init__(config)
        build_causal_lm(self, config, PrunedLlamaModel)


class PrunedMistralModel(MistralModel):
    config: PrunedMistralConfig

    def __init__(self, config: PrunedMistralConfig):
        super(MistralModel, self).__init__(config)
        build_decoder(self, config, MistralDecoderLayer, MistralRMSNorm, MistralRotaryEmbedding)


class PrunedMistralForCausalLM(MistralForCausalLM):
    config: PrunedMistralConfig

    def __init__(self, config: PrunedMistralConfig):
        super(MistralForCausalLM, self).__init__(config)
        build_causal_lm(self, config, PrunedMistralModel)


class PrunedQwen2Model(Qwen2Model):
    config: PrunedQwen2Config

    def __init__(self, config: PrunedQwen2Config):
        super(Qwen2Model, self).__init__(config)
        build_decoder(self, config, Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding)


class PrunedQwen2ForCausalLM(Qwen2ForCausalLM):
    config: PrunedQwen2Config

    def __init__(self, config: PrunedQwen2Config):
        super(Qwen2ForCausalLM, self).__init__(config)
        build_causal_lm(self, config, PrunedQwen2Model)


class PrunedQwen3Model(Qwen3Model):
    config: PrunedQwen3Config

    def __init__(self, config: PrunedQwen3Config):
        super(Qwen3Model, self).__init__(config)
        build_decoder(self, config, Qwen3DecoderLayer, Qwen3RMSNorm, Qwen3RotaryEmbedding)


class PrunedQwen3ForCausalLM(Qwen3ForCausalLM):
    config: PrunedQwen3Config

    def __init__(self, config: PrunedQwen3Config):
        super(Qwen3ForCausalLM, self).__init__(config)
        build_causal_lm(self, config, PrunedQwen3Model)
