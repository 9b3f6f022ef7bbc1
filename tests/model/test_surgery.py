"""A cut model is the masked model, only smaller: same logits, fewer parameters, and still a whole model."""

import itertools
from functools import lru_cache

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from pruning.model.architecture.configuration_pruned import PrunedLlamaConfig
from pruning.model.masking import masked
from pruning.model.surgery import cut, cut_config
from pruning.planning.shape import ATTENTION, MLP, ModelShape
from tests.tiny_models import FAMILIES, SCALINGS, plan_without, random_ids, tiny_config, tiny_model, with_rope

LAYERS = range(5)
HEADS, CHANNELS = range(4), range(24)
STOCK = {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}

MODELS = [(family, options) for family in FAMILIES for options in ("untied", "tied", "head_dim")]
MODELS += [("llama", "bias"), ("qwen3", "bias")]
OPTIONS = {"untied": {}, "tied": {"tied": True}, "head_dim": {"head_dim": 12}, "bias": {"bias": True}}

# (layer, block) -> groups that go, and whether emptied layers go too
PLANS = {
    "uniform": ({(i, ATTENTION): {i % 4} for i in LAYERS} | {(i, MLP): range(i, i + 8) for i in LAYERS}, False),
    "sizes differ": ({(1, ATTENTION): {0, 3}, (1, MLP): range(0, 24, 2), (3, ATTENTION): {1}, (4, MLP): {0, 23}}, False),
    "no attention": ({(0, ATTENTION): {1}, (2, ATTENTION): HEADS, (2, MLP): {5}, (3, ATTENTION): {0, 1, 2}}, False),
    "no MLP": ({(1, MLP): CHANNELS, (1, ATTENTION): {2}, (4, MLP): range(23)}, False),
    "emptied": ({(3, ATTENTION): HEADS, (3, MLP): CHANNELS, (4, MLP): range(3)}, False),
    "deleted": ({(2, ATTENTION): HEADS, (2, MLP): CHANNELS, (3, ATTENTION): HEADS, (0, MLP): range(9)}, True),
}
MIXED = (
    {(0, ATTENTION): {3}, (1, ATTENTION): HEADS, (1, MLP): {1}, (2, MLP): CHANNELS, (2, ATTENTION): {0, 2}}
    | {(3, ATTENTION): HEADS, (3, MLP): CHANNELS},
    True,
)


@lru_cache
def model_of(family: str, options: str = "untied"):
    return tiny_model(family, **OPTIONS[options])


def cut_mixed(family: str, options: str = "untied"):
    model = model_of(family, options)
    return cut(model, plan_without(model, *MIXED))


@torch.no_grad()
def logits(model, ids=None) -> torch.Tensor:
    return model(random_ids(2, 11) if ids is None else ids).logits


@pytest.mark.parametrize(("family", "options"), MODELS)
@pytest.mark.parametrize("plan_name", PLANS)
def test_cut_model_gives_the_logits_of_the_masked_one(family, options, plan_name):
    model = model_of(family, options)
    plan = plan_without(model, *PLANS[plan_name])
    with masked(model, plan):
        expected = logits(model)
    assert not torch.allclose(expected, logits(model), atol=1e-2)  # the plan removes something that matters
    torch.testing.assert_close(logits(cut(model, plan)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "options"), MODELS)
@pytest.mark.parametrize("plan_name", PLANS)
def test_weights_are_just_those_that_the_planned_shape_names(family, options, plan_name):
    model = model_of(family, options)
    plan = plan_without(model, *PLANS[plan_name])
    pruned = cut(model, plan)
    assert {name: tuple(weight.shape) for name, weight in pruned.named_parameters()} == plan.shape_after.tensor_shapes()
    assert pruned.num_parameters() == plan.shape_after.parameters
    assert model.num_parameters() - pruned.num_parameters() >= plan.removed_parameters.sum()
    assert ModelShape.from_config(pruned.config.to_dict()).layers == plan.shape_after.layers
    assert not any(weight.is_meta for weight in itertools.chain(pruned.parameters(), pruned.buffers()))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_size_for_all_layers_gives_the_stock_class(family):
    model = model_of(family)
    two_groups_gone = plan_without(model, {(i, ATTENTION): {0, i % 3 + 1} for i in LAYERS})
    pruned = cut(model, two_groups_gone)
    assert type(pruned) is STOCK[family]
    assert pruned.config.head_dim == ModelShape.from_config(model.config.to_dict()).layers[0].head_dim


def test_head_count_that_llama_refuses_goes_out_as_mistral():
    model = model_of("llama")  # 6 heads do not divide 32
    pruned = cut(model, plan_without(model, *PLANS["uniform"]))
    assert type(pruned) is MistralForCausalLM
    assert pruned.config.sliding_window is None
    assert pruned.config.rope_parameters == model.config.rope_parameters


def test_such_a_head_count_with_biases_needs_our_own_class():
    model = model_of("llama", "bias")  # Mistral has no biases
    pruned = cut(model, plan_without(model, *PLANS["uniform"]))
    assert pruned.config.model_type == "pruned_llama"


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_that_differ_give_our_own_class(family):
    assert cut_mixed(family).config.model_type == f"pruned_{family}"


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_removed_changes_nothing(family):
    model = model_of(family)
    pruned = cut(model, plan_without(model, {}))
    assert type(pruned) is type(model)
    assert torch.equal(logits(pruned), logits(model))


# generation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "options"), MODELS)
def test_cached_generation_gives_the_tokens_of_uncached(family, options):
    model, prompt = cut_mixed(family, options), random_ids(1, 7)
    cached = model.generate(prompt, max_new_tokens=16, do_sample=False)
    uncached = model.generate(prompt, max_new_tokens=16, do_sample=False, use_cache=False)
    assert cached.tolist() == uncached.tolist()
    assert cached.shape[1] == 7 + 16


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_batch_gives_the_tokens_of_each_prompt_alone(family):
    model = cut_mixed(family)
    prompts = [random_ids(1, length, seed=length) for length in (3, 8)]
    alone = [model.generate(p, max_new_tokens=12, do_sample=False)[0, p.shape[1] :].tolist() for p in prompts]
    padded = torch.cat([torch.cat([torch.zeros(1, 8 - p.shape[1], dtype=torch.int64), p], dim=1) for p in prompts])
    together = model.generate(padded, attention_mask=(padded > 0).long(), max_new_tokens=12, do_sample=False)
    assert together[:, 8:].tolist() == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_search_gives_the_tokens_of_uncached(family):
    model, prompt = cut_mixed(family), random_ids(2, 6)
    beams = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    assert model.generate(prompt, **beams).tolist() == model.generate(prompt, **beams, use_cache=False).tolist()


def test_static_cache_gives_the_tokens_of_the_growing_one():
    model, prompt = cut_mixed("llama"), random_ids(1, 6)
    grown = model.generate(prompt, max_new_tokens=8, do_sample=False)
    static = model.generate(prompt, max_new_tokens=8, do_sample=False, cache_implementation="static")
    assert static.tolist() == grown.tolist()


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("layer_types", ["ffsss", "sffss", "sssff"])
def test_sliding_windows_survive_layers_without_attention(family, layer_types):
    # Masks ask the first layer of each kind for the length of its cache: these plans empty that layer.
    kinds = {"f": "full_attention", "s": "sliding_attention"}
    window = {"use_sliding_window": True, "sliding_window": 4, "layer_types": [kinds[kind] for kind in layer_types]}
    model = tiny_model(family, **window)
    first_of_other_kind = layer_types.index("s" if layer_types[0] == "f" else "f")
    plan = plan_without(model, {(first_of_other_kind, ATTENTION): HEADS, (1, MLP): {0}})
    pruned, ids = cut(model, plan), random_ids(2, 12)
    with masked(model, plan):
        torch.testing.assert_close(logits(pruned, ids), logits(model, ids), atol=1e-4, rtol=0)
    mask = torch.ones_like(ids)
    mask[0, :9] = 0  # the padding reaches into the window: a mask of the wrong length would show it
    options = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    assert pruned.generate(ids, **options).tolist() == pruned.generate(ids, **options, use_cache=False).tolist()


def test_deleted_layers_take_their_kind_of_attention_with_them():
    config = tiny_config("qwen3", layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"])
    model = tiny_model("qwen3")
    plan = plan_without(model, {(1, ATTENTION): HEADS, (1, MLP): CHANNELS, (2, MLP): {0}}, remove_empty_layers=True)
    assert cut_config(config, plan).layer_types == ["full_attention", "full_attention", "sliding_attention", "full_attention"]


# what is preserved --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan_name", ["uniform", "no attention"])
def test_dtype_mode_attention_and_generation_settings_are_kept(plan_name):
    model = tiny_model("llama").to(torch.bfloat16).train()
    model.set_attn_implementation("eager")
    model.generation_config.temperature = 0.7
    pruned = cut(model, plan_without(model, *PLANS[plan_name]))
    assert {weight.dtype for weight in pruned.parameters()} == {torch.bfloat16}
    assert pruned.training and pruned.config._attn_implementation == "eager"
    assert pruned.generation_config.to_dict() == model.generation_config.to_dict()
    assert all(weight.requires_grad for weight in pruned.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_stay_tied_or_untied(family, tied):
    pruned = cut_mixed(family, "tied" if tied else "untied")
    assert (pruned.lm_head.weight is pruned.model.embed_tokens.weight) == tied
    assert pruned.config.tie_word_embeddings == tied


@pytest.mark.parametrize("family", FAMILIES)
def test_switching_attention_reaches_layers_of_any_size(family):
    model = cut_mixed(family)
    expected = logits(model)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        configs = [layer.self_attn.config for layer in model.model.layers if hasattr(layer.self_attn, "q_proj")]
        assert {config._attn_implementation for config in configs} == {implementation}
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rope_type", SCALINGS)
def test_scaled_rotary_embeddings_are_those_of_the_source_at_any_length(family, rope_type):
    model = tiny_model(family, **with_rope(rope_type))
    plan = plan_without(model, *PLANS["sizes differ"])
    with masked(model, plan):
        expected = {length: logits(model, random_ids(2, length)) for length in (11, 100)}
    pruned = cut(model, plan)  # after a long text, which has moved the source's frequencies
    assert pruned.config.rope_parameters == model.config.rope_parameters
    for length, found in expected.items():
        torch.testing.assert_close(logits(pruned, random_ids(2, length)), found, atol=1e-4, rtol=0)


def test_hidden_states_of_every_layer_can_be_had():
    outputs = cut_mixed("llama")(random_ids(1, 4), output_hidden_states=True)
    assert len(outputs.hidden_states) == 1 + 4  # one of the five layers is deleted


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_that_does_something_gets_a_gradient(family):
    model = cut_mixed(family, "bias" if family in ("llama", "qwen3") else "untied")
    model.activation_checkpointing_enable()
    ids = random_ids(2, 9)
    model.train()(ids, labels=ids).loss.backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    gone = [f"model.layers.{i}." for i, layer in enumerate(model.model.layers) if not hasattr(layer.self_attn, "q_proj")]
    gone += [f"model.layers.{i}." for i, layer in enumerate(model.model.layers) if not hasattr(layer.mlp, "up_proj")]
    assert all(name.startswith(tuple(gone)) and "norm" in name for name in idle - _biases_without_effect(idle))


def _biases_without_effect(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith("k_proj.bias")}  # softmax does not see a shift of all keys


def test_adapters_for_projections_pass_over_removed_blocks():
    model = cut_mixed("llama")
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "o_proj", "down_proj"], r=2))
    ids = random_ids(2, 9)
    adapted(ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for name, weight in adapted.named_parameters() if "lora_B" in name)


# memory -------------------------------------------------------------------------------------------------------------


def test_weights_that_stay_whole_share_their_memory():
    model = tiny_model("llama")
    pruned = cut(model, plan_without(model, {(1, MLP): {0}}))
    assert pruned.model.embed_tokens.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert pruned.model.layers[1].mlp.up_proj.weight.data_ptr() != model.model.layers[1].mlp.up_proj.weight.data_ptr()


def test_released_source_holds_no_weights_and_the_cut_model_is_the_same():
    model, released = tiny_model("qwen3", tied=True), tiny_model("qwen3", tied=True)
    plan = plan_without(model, *MIXED)
    pruned = cut(released, plan, release_source=True)
    assert sum(weight.numel() for weight in released.parameters()) == 0
    assert torch.equal(logits(pruned), logits(cut(model, plan)))


# cutting twice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_can_be_cut_again(family):
    first = cut_mixed(family, "bias" if family in ("llama", "qwen3") else "untied")
    plan = plan_without(first, {(0, ATTENTION): {1}, (0, MLP): range(5), (1, MLP): range(2, 20)})
    with masked(first, plan):
        expected = logits(first)
    second = cut(first, plan)
    assert second.config.model_type == first.config.model_type
    assert second.num_parameters() == plan.shape_after.parameters
    torch.testing.assert_close(logits(second), expected, atol=1e-4, rtol=0)


def test_a_pruned_model_cut_to_one_size_is_stock_again():
    model = model_of("qwen2")
    first = cut(model, plan_without(model, {(i, ATTENTION): {0, 1} for i in (0, 1, 3)}))
    second = cut(first, plan_without(first, {(i, ATTENTION): {0, 1} for i in (2, 4)}))
    assert first.config.model_type == "pruned_qwen2" and type(second) is Qwen2ForCausalLM
    at_once = cut(model, plan_without(model, {(i, ATTENTION): {0, 1} for i in LAYERS}))
    assert torch.equal(logits(second), logits(at_once))


# configs that describe no model -------------------------------------------------------------------------------------

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"0": {"skip": ["self_attn"]}}, "Layer 0 must keep its attention"),
        ({"1": {"skip": ["norm"]}}, "it can only skip"),
        ({"1": {"num_attention_heads": 6}}, "6 query heads and 4 KV heads"),
    ],
)
def test_impossible_sizes_are_refused(overrides, complaint):
    with pytest.raises(StrictDataclassClassValidationError, match=complaint):
        PrunedLlamaConfig(**SIZES, per_layer_config=overrides)


def test_a_head_count_that_stock_llama_refuses_is_fine():
    config = PrunedLlamaConfig(**SIZES, per_layer_config={"1": {"num_attention_heads": 6, "num_key_value_heads": 3}})
    assert config.per_layer_config[1].num_attention_heads == 6
