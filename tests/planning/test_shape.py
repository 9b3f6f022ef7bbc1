"""ModelShape says from a config alone what transformers builds from it."""

import dataclasses
import itertools

import pytest
import torch
import transformers

from pruning.errors import PruningError
from pruning.planning.families import FAMILIES
from pruning.planning.shape import ModelShape
from tests.planning.examples import LLAMA_3_8B, small_config, small_shape

CONFIG_CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}


def test_llama_3_8b():
    shape = ModelShape.from_config(LLAMA_3_8B)
    layer = shape.layers[0]
    assert shape.parameters == 8_030_261_248
    assert layer.attention_group_cost == 5_242_880
    assert layer.mlp_channel_cost == 12_288
    assert (layer.attention_parameters, layer.mlp_parameters, layer.fixed_parameters) == (41_943_040, 176_160_768, 8_192)
    assert layer.parameters == 218_112_000
    assert layer.num_attention_heads == 32


def test_demo_model_is_a_small_llama():
    shape = ModelShape.from_config(small_config(num_key_value_heads=4, num_attention_heads=16, head_dim=8, hidden_size=128))
    assert shape.layers[0].attention_group_cost == 128 * 8 * (2 * 4 + 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_the_config_class(family):
    of_class = ModelShape.from_config(CONFIG_CLASSES[family]().to_dict())
    assert ModelShape.from_config({"model_type": family}) == dataclasses.replace(of_class, max_position_embeddings=None)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])  # Mistral's config class refuses it
def test_key_value_heads_of_null_are_as_many_as_query_heads(family):
    config = {"num_key_value_heads": None, "num_attention_heads": 4, "hidden_size": 16, "head_dim": 4}
    shape = ModelShape.from_config({"model_type": family} | config)
    assert shape.layers[0].num_key_value_heads == CONFIG_CLASSES[family](**config).num_key_value_heads == 4


@pytest.mark.parametrize(
    ("family", "tied", "head_dim", "bias"), list(itertools.product(FAMILIES, (False, True), (None, 6), (False, True)))
)
def test_names_shapes_and_parameters_are_those_of_the_model(family, tied, head_dim, bias):
    biases = {"llama": {"attention_bias": bias, "mlp_bias": bias}, "qwen3": {"attention_bias": bias}}.get(family, {})
    sizes = small_config(hidden_size=24, tie_word_embeddings=tied, head_dim=head_dim or 6) | biases
    if head_dim is None and family != "qwen3":
        del sizes["head_dim"]
    del sizes["model_type"]
    config = CONFIG_CLASSES[family](**sizes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = ModelShape.from_config(config.to_dict())
    assert shape.tensor_shapes() == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.parameters == ModelShape.from_config({"model_type": family} | sizes).parameters


def test_components_add_up():
    shape = small_shape(attention_bias=True, mlp_bias=True)
    layers = sum(layer.parameters for layer in shape.layers)
    assert shape.parameters == shape.embedding_parameters + layers + shape.hidden_size
    assert shape.is_uniform


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "pruned_gpt2", None, 3])
def test_another_architecture_is_refused(model_type):
    with pytest.raises(PruningError, match=r"not supported. Supported are: llama, mistral, qwen2, qwen3"):
        ModelShape.from_config({"model_type": model_type})


@pytest.mark.parametrize("value", [0, -4, 8.5, "8", True])
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_key_value_heads"])
def test_impossible_sizes_are_named(name, value):
    with pytest.raises(PruningError) as caught:
        small_shape(**{name: value})
    assert f"`{name}`" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(PruningError, match=r"`num_key_value_heads` as 3; it must be a divisor of num_attention_heads \(4\)"):
        small_shape(num_key_value_heads=3)
