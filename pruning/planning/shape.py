"""Sizes and exact parameter costs of a model, from its config.json alone.

    ModelShape
      embeddings, head, final norm
      LayerShape x L      attention: groups x group cost     (a group: one KV head with its r query heads)
                          MLP:       channels x channel cost (a channel: row of gate and up, column of down)
                          fixed:     norms, and the biases and per-head norms that no group takes with it

Parses config.json itself, defaults included: transformers' own config classes would import torch. Knows nothing about
scores or plans.
"""

from dataclasses import dataclass, replace

from ..errors import PruningError
from .families import FAMILIES, PRUNED_PREFIX, Family

ATTENTION, MLP = "attention", "mlp"
GROUP_TYPES = (ATTENTION, MLP)


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one layer. `num_key_value_heads` 0: attention is gone; `intermediate_size` 0: the MLP is gone."""

    num_key_value_heads: int
    num_key_value_groups: int  # query heads per KV head, r
    head_dim: int
    intermediate_size: int
    hidden_size: int
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def num_attention_heads(self) -> int:
        return self.num_key_value_heads * self.num_key_value_groups

    @property
    def attention_group_cost(self) -> int:
        """Parameters of one KV head with its query heads: H*d*(2r+2), and their q, k, v biases."""
        r, d = self.num_key_value_groups, self.head_dim
        return self.hidden_size * d * (2 * r + 2) + (d * (r + 2) if self.qkv_bias else 0)

    @property
    def mlp_channel_cost(self) -> int:
        """Parameters of one MLP channel: 3H, and its gate and up biases."""
        return 3 * self.hidden_size + (2 if self.mlp_bias else 0)

    @property
    def fixed_parameters(self) -> int:
        """Parameters that stay whatever is cut: two norms, per-head norms, biases of o_proj and down_proj."""
        biases = (self.o_bias + self.mlp_bias) * self.hidden_size
        return 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0) + biases

    @property
    def attention_parameters(self) -> int:
        return self.num_key_value_heads * self.attention_group_cost

    @property
    def mlp_parameters(self) -> int:
        return self.intermediate_size * self.mlp_channel_cost

    @property
    def parameters(self) -> int:
        return self.attention_parameters + self.mlp_parameters + self.fixed_parameters

    @property
    def is_deletable(self) -> bool:
        """Nothing is left that changes the hidden states (a bias of o_proj or down_proj would)."""
        return not (self.num_key_value_heads or self.intermediate_size or self.o_bias or self.mlp_bias)

    def group_count(self, group_type: str) -> int:
        return self.num_key_value_heads if group_type == ATTENTION else self.intermediate_size

    def group_cost(self, group_type: str) -> int:
        return self.attention_group_cost if group_type == ATTENTION else self.mlp_channel_cost

    def resized(self, num_key_value_heads: int, intermediate_size: int) -> "LayerShape":
        return replace(self, num_key_value_heads=num_key_value_heads, intermediate_size=intermediate_size)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name within the layer -> shape, for each parameter of this layer."""
        h, d, f = self.hidden_size, self.head_dim, self.intermediate_size
        q, kv = self.num_attention_heads * d, self.num_key_value_heads * d
        shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
        if kv:
            for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
                shapes[f"self_attn.{name}.weight"] = (rows, h)
                if self.qkv_bias:
                    shapes[f"self_attn.{name}.bias"] = (rows,)
            shapes["self_attn.o_proj.weight"] = (h, q)
        if f:
            for name in ("gate_proj", "up_proj"):
                shapes[f"mlp.{name}.weight"] = (f, h)
                if self.mlp_bias:
                    shapes[f"mlp.{name}.bias"] = (f,)
            shapes["mlp.down_proj.weight"] = (h, f)
        if self.o_bias:
            shapes["self_attn.o_proj.bias"] = (h,)
        if self.mlp_bias:
            shapes["mlp.down_proj.bias"] = (h,)
        if self.qk_norm:
            shapes |= {"self_attn.q_norm.weight": (d,), "self_attn.k_norm.weight": (d,)}
        return shapes


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a whole model; `parameters` is exact to the last one."""

    family: str
    hidden_size: int
    vocab_size: int
    tie_word_embeddings: bool
    layers: tuple[LayerShape, ...]
    max_position_embeddings: int | None = None

    @classmethod
    def from_config(cls, config: dict) -> "ModelShape":
        """The shape a config.json describes; raises PruningError for another architecture or impossible sizes."""
        model_type = config.get("model_type")
        family = FAMILIES.get(model_type.removeprefix(PRUNED_PREFIX)) if isinstance(model_type, str) else None
        if family is None:
            raise PruningError("architecture", found=model_type, supported=", ".join(FAMILIES))
        values = {**family.defaults} | {k: v for k, v in config.items() if v is not None}
        if "num_key_value_heads" in config and config["num_key_value_heads"] is None:
            values["num_key_value_heads"] = None  # an explicit null means: as many as query heads, whatever the default
        layer = _layer_from_config(family, values)
        overrides = _layer_overrides(config.get("per_layer_config") or {})
        layers = tuple(_overridden(layer, overrides.get(i, {})) for i in range(_size(values, "num_hidden_layers")))
        return cls(
            family=family.name,
            hidden_size=layer.hidden_size,
            vocab_size=_size(values, "vocab_size"),
            tie_word_embeddings=bool(values["tie_word_embeddings"]),
            layers=layers,
            max_position_embeddings=values.get("max_position_embeddings"),
        )

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def embedding_parameters(self) -> int:
        """Input embeddings, and the output head where it is a matrix of its own."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def attention_parameters(self) -> int:
        return sum(layer.attention_parameters for layer in self.layers)

    @property
    def mlp_parameters(self) -> int:
        return sum(layer.mlp_parameters for layer in self.layers)

    @property
    def norm_parameters(self) -> int:
        """Everything else that stays: norms, and biases that no group takes with it."""
        return sum(layer.fixed_parameters for layer in self.layers) + self.hidden_size

    @property
    def parameters(self) -> int:
        return self.embedding_parameters + self.attention_parameters + self.mlp_parameters + self.norm_parameters

    @property
    def components(self) -> dict[str, int]:
        """Parameters of attention, mlp, embeddings and norms (with biases that always stay); they add up to the whole."""
        return {
            ATTENTION: self.attention_parameters,
            MLP: self.mlp_parameters,
            "embeddings": self.embedding_parameters,
            "norms": self.norm_parameters,
        }

    @property
    def is_uniform(self) -> bool:
        """One size for all layers, and no block missing: a stock model class can hold it."""
        first = self.layers[0]
        return bool(first.num_key_value_heads and first.intermediate_size) and all(x == first for x in self.layers)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Checkpoint tensor name -> shape, for every parameter."""
        embeddings = (self.vocab_size, self.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": embeddings}
        for index, layer in enumerate(self.layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.tensor_shapes().items()}
        shapes["model.norm.weight"] = (self.hidden_size,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = embeddings
        return shapes


def _layer_from_config(family: Family, values: dict) -> LayerShape:
    hidden_size, heads = _size(values, "hidden_size"), _size(values, "num_attention_heads")
    kv_heads = _size(values, "num_key_value_heads") if values["num_key_value_heads"] is not None else heads
    if heads % kv_heads:
        raise PruningError(
            "config_value", name="num_key_value_heads", value=kv_heads, expected=f"a divisor of num_attention_heads ({heads})"
        )
    return LayerShape(
        num_key_value_heads=kv_heads,
        num_key_value_groups=heads // kv_heads,
        head_dim=_size(values, "head_dim") if "head_dim" in values else hidden_size // heads,
        intermediate_size=_size(values, "intermediate_size"),
        hidden_size=hidden_size,
        qkv_bias=family.has(family.qkv_bias, values),
        o_bias=family.has(family.o_bias, values),
        mlp_bias=family.has(family.mlp_bias, values),
        qk_norm=family.qk_norm,
    )


def _layer_overrides(per_layer_config) -> dict[int, dict]:
    """Layer -> entry; raises PruningError for anything but an object of objects under whole numbers."""
    try:
        overrides = {int(layer): dict(entry) for layer, entry in per_layer_config.items()}
        sizes = [entry.get(name, 0) for entry in overrides.values() for name in ("num_key_value_heads", "intermediate_size")]
        if all(isinstance(size, int) and size >= 0 for size in sizes):
            return overrides
    except (AttributeError, TypeError, ValueError):
        pass
    expected = "an object that gives sizes for layer numbers"
    raise PruningError("config_value", name="per_layer_config", value=str(per_layer_config)[:80], expected=expected)


def _overridden(layer: LayerShape, entry: dict) -> LayerShape:
    """The layer that an entry of `per_layer_config` describes; `skip` names blocks that are gone."""
    skip = entry.get("skip", ())
    kv_heads = 0 if "self_attn" in skip else entry.get("num_key_value_heads", layer.num_key_value_heads)
    width = 0 if "mlp" in skip else entry.get("intermediate_size", layer.intermediate_size)
    return layer.resized(kv_heads, width)


def _size(values: dict, name: str) -> int:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PruningError("config_value", name=name, value=value, expected="a whole number above 0")
    return value
