"""A GGUF file holds every tensor of the model, the sizes llama.cpp asks for, and a tokenizer that gives the same tokens."""

import json
from contextlib import nullcontext
from math import log

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pruning.errors import PruningError
from pruning.export.gguf_file import read_gguf, write_gguf
from pruning.export.gguf_layout import GGUF_TYPES, check_config, context_length, gguf_bytes, gguf_layout, halved, interleaved
from pruning.export.gguf_tokenizer import splitting_rule
from pruning.export.hugging_face import save_model
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.shape import ATTENTION, MLP
from tests.export import shapes
from tests.export.shapes import CUTS, DEMO
from tests.tiny_models import FAMILIES, tiny_config

EMPTY_LAST = {(4, ATTENTION): range(4), (4, MLP): range(24)}
STEP = {"F32": 0, "BF16": 2**-8, "F16": 2**-11, "Q8_0": 1 / 254 + 2**-11}


def with_byte_fallback() -> PreTrainedTokenizerFast:
    """A tokenizer built as Llama 2's: spaces as ▁, bytes as <0x..>, merges in the order of their scores."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "ab", "▁a", "▁ab", "aba"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("ab", "a")]
    rules = models.BPE({t: i for i, t in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = Tokenizer(rules)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def pruned(family: str, removed: dict, **options):
    """As in shapes.py, with a vocabulary that is read in no time."""
    return shapes.pruned(family, removed, **{"vocab_size": 300} | options)


@pytest.fixture(scope="module")
def tokenizer():
    return with_byte_fallback()


@pytest.fixture
def written(tmp_path, tokenizer):
    """Writes a model as GGUF; gives the reader, the layout and the path."""

    def write(model, shape, kind="F32"):
        save_model(model, None, tmp_path / "model")
        path = tmp_path / f"model-{kind}.gguf"
        write_gguf(tmp_path / "model", tokenizer, path, kind)
        return GGUFReader(path), gguf_layout(shape), path

    return write


def value(reader, key):
    return reader.get_field(key).contents()


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_there_and_stand_ins_are_zero(written, family, name):
    plan, model = pruned(family, CUTS[name])
    if family == "qwen3" and not plan.shape_after.is_uniform:
        with pytest.raises(PruningError, match=r"lacks the per-head norms of Qwen3. Choose the Hugging Face folder"):
            gguf_layout(plan.shape_after)
        return
    _, _, path = written(model, plan.shape_after)
    weights, read = dict(model.named_parameters()), set()
    for tensor, values, _ in read_gguf(path, CheckpointHeader.read(path.parent / "model")):
        expected = np.zeros(tensor.shape) if tensor.source is None else weights[tensor.source].detach().numpy()
        assert np.array_equal(values, expected)
        read.add(tensor.source)
    # Only norms in front of blocks that are gone have no place.
    assert all(name.endswith("layernorm.weight") for name in weights.keys() - read)


@pytest.mark.parametrize(
    ("family", "name", "architecture"),
    [
        ("llama", "uniform", "llama"),
        ("mistral", "uniform", "llama"),
        ("llama", "different sizes", "deci"),
        ("qwen2", "different sizes", "deci"),
        ("qwen2", "uniform, MLP only", "qwen2"),
        ("qwen2", "uniform", "llama"),  # qwen2 has no place for heads that do not add up to the hidden size
        ("qwen3", "uniform", "qwen3"),
    ],
)
def test_architecture(family, name, architecture):
    assert gguf_layout(pruned(family, CUTS[name])[0].shape_after).architecture == architecture


def test_sizes_stand_in_arrays_where_they_differ(written):
    plan, model = pruned("llama", CUTS["a layer without MLP"])
    reader, _, _ = written(model, plan.shape_after)
    assert value(reader, "deci.feed_forward_length") == [1, 24, 1, 24, 1]  # 1: llama.cpp needs one beside attention
    assert value(reader, "deci.attention.head_count") == 8
    plan, model = pruned("llama", CUTS["a layer without attention"])
    reader, _, _ = written(model, plan.shape_after)
    assert value(reader, "deci.attention.head_count") == [8, 0, 8, 8, 0]
    assert value(reader, "deci.attention.head_count_kv") == [4, 0, 4, 4, 0]


def test_an_empty_last_layer_keeps_a_stand_in_and_biases_keep_their_block():
    bare = gguf_layout(pruned("llama", EMPTY_LAST, remove_empty_layers=False)[0].shape_after)
    assert bare.head_count[-1] == 0 and bare.feed_forward_length[-1] == 1
    inner = {(2, ATTENTION): range(4), (2, MLP): range(24)}
    assert gguf_layout(pruned("llama", inner, remove_empty_layers=False)[0].shape_after).feed_forward_length[2] == 0
    biased = gguf_layout(pruned("llama", inner, bias=True)[0].shape_after)
    assert biased.head_count_kv[2] == 1 and biased.feed_forward_length[2] == 1
    assert {t.source for t in biased.tensors} >= {"model.layers.2.self_attn.o_proj.bias", "model.layers.2.mlp.down_proj.bias"}


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_values_are_rounded_to_half_a_step_of_the_type(written, kind):
    plan, model = pruned("llama", CUTS["different sizes"])
    reader, _, path = written(model, plan.shape_after, kind)
    weights, types = dict(model.named_parameters()), {}
    for tensor, values, written_as in read_gguf(path, CheckpointHeader.read(path.parent / "model")):
        if tensor.source:
            expected = weights[tensor.source].detach().numpy()
            assert np.abs(values - expected).max() <= STEP[written_as] * np.abs(expected).max() + 2**-24
            types.setdefault(written_as, []).append(tensor)
    matrices = "F16" if kind == "Q8_0" else kind
    assert all(len(t.shape) == 1 for t in types["F32"]) or kind == "F32"
    # Rows of 32 take Q8_0; o_proj of 24 or 64 and down_proj of 24 only where they are a multiple of 32.
    assert {t.shape[-1] % 32 == 0 for t in types[kind] if len(t.shape) == 2} >= {True}
    assert kind != "Q8_0" or all(t.shape[-1] % 32 for t in types[matrices])
    assert path.stat().st_size <= gguf_bytes(plan.shape_after, kind)
    assert value(reader, "general.file_type") == {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}[kind]


def test_rotating_pairs_of_reordered_rows_is_rotating_halves():
    heads, d = 3, 8
    rows = np.random.default_rng(0).normal(size=(heads * d, 5))
    assert np.array_equal(halved(interleaved(rows, heads), heads), rows)
    angle = np.arange(d // 2)
    by_halves = rows.reshape(heads, d, 5)
    turned = by_halves[:, : d // 2] * np.cos(angle)[:, None] - by_halves[:, d // 2 :] * np.sin(angle)[:, None]
    pairs = interleaved(rows, heads).reshape(heads, d // 2, 2, 5)
    assert np.allclose(pairs[:, :, 0] * np.cos(angle)[:, None] - pairs[:, :, 1] * np.sin(angle)[:, None], turned)


def test_values_too_large_for_half_precision_are_refused(tmp_path, tokenizer):
    _, model = pruned("llama", {})
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e5
    save_model(model, None, tmp_path / "model")
    with pytest.raises(PruningError, match=r"layers\.1\.mlp\.up_proj.* too large for F16. Choose BF16 or F32"):
        write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F16")
    write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "BF16")


# rotary embeddings ---------------------------------------------------------------------------------------------------


def test_llama_3_rotary_factors_are_those_of_transformers(written):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": "llama3", "rope_theta": 5e5} | scaling
    plan, model = pruned("llama", CUTS["different sizes"], head_dim=16, rope_parameters=rope)
    reader, _, _ = written(model, plan.shape_after)
    factors = next(t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    config = tiny_config("llama", head_dim=16, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / 5e5 ** (torch.arange(0, 16, 2) / 16)
    assert np.allclose(plain.numpy() / factors, scaled.numpy(), rtol=1e-6) and factors[0] == 1 and factors[-1] == 8


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("llama3", "context_length"),
        ("llama3", "attention.key_length"),
        ("llama3", "attention.layer_norm_rms_epsilon"),
        ("llama3", "rope.freq_base"),
        ("llama3", "rope_freqs.weight"),
        ("yarn", "rope.scaling.factor"),
        ("yarn", "rope.scaling.yarn_beta_fast"),
    ],
)
def test_a_file_with_another_setting_is_not_taken(written, kind, key):
    only = {"beta_fast": 16.0} if kind == "yarn" else {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64} | only
    plan, model = pruned("llama", {}, rope_parameters=rope)
    _, _, path = written(model, plan.shape_after)
    header = CheckpointHeader.read(path.parent / "model")
    list(read_gguf(path, header))
    reader = GGUFReader(path, "r+")
    field = reader.get_field(f"llama.{key}")
    values = field.parts[field.data[0]] if field else next(t.data for t in reader.tensors if t.name == key)
    values[0] += 1
    with pytest.raises(PruningError, match=f"{key} differs"):
        list(read_gguf(path, header))


def test_yarn_is_written_and_dynamic_is_refused(written):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    plan, model = pruned("qwen2", CUTS["uniform, MLP only"], rope_parameters=rope)
    reader, _, _ = written(model, plan.shape_after)
    assert value(reader, "qwen2.rope.scaling.type") == "yarn" and value(reader, "qwen2.rope.scaling.factor") == 4
    config = model.config.to_dict() | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    with pytest.raises(PruningError, match=r"'dynamic', llama.cpp knows default, linear, yarn here"):
        check_config(config, plan.shape_after)


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("rope", "refused"),
    [
        (YARN | {"attention_factor": 2.0}, "attention_factor` 2.0"),
        (YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}, "mscale` 1.0"),
        (YARN | {"mscale_all_dim": 0.5}, "mscale_all_dim` 0.5"),
        (YARN | {"truncate": False}, "truncate` False"),
        (YARN | {"factor": None}, "factor` None"),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "partial_rotary_factor` 0.5"),
        (YARN | {"attention_factor": 0.1 * log(4) + 1, "truncate": True, "mscale": None}, None),
        ({"rope_theta": 1e4, "partial_rotary_factor": 1.0}, None),
    ],
)
def test_rotary_settings_that_the_file_cannot_hold_are_refused(rope, refused):
    plan, model = pruned("llama", {})
    config = model.config.to_dict() | {"rope_parameters": rope}
    with pytest.raises(PruningError, match=f"no field for `{refused} of") if refused else nullcontext():
        check_config(config, plan.shape_after)


def test_another_activation_is_refused():
    plan, model = pruned("llama", {})
    with pytest.raises(PruningError, match=r"llama\.cpp computes silu in these MLPs, this model uses gelu"):
        check_config(model.config.to_dict() | {"hidden_act": "gelu"}, plan.shape_after)


def test_the_context_ends_where_a_sliding_window_would_begin():
    assert context_length({"max_position_embeddings": 4096}) == 4096
    assert context_length({"max_position_embeddings": 4096, "sliding_window": 512}) == 512
    assert context_length({"max_position_embeddings": 4096, "sliding_window": 512, "use_sliding_window": False}) == 4096
    only_full = {"sliding_window": 512, "layer_types": ["full_attention"]}
    assert context_length({"max_position_embeddings": 4096} | only_full) == 4096


# the tokenizer -------------------------------------------------------------------------------------------------------


def test_a_byte_level_tokenizer_is_inside(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    save_model(shapes.pruned("llama", {})[1], None, tmp_path / "model")
    write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F16")
    reader = GGUFReader(tmp_path / "model.gguf")
    tokens = value(reader, "tokenizer.ggml.tokens")
    assert tokens == tokenizer.convert_ids_to_tokens(range(4096))
    assert value(reader, "tokenizer.ggml.pre") == "gpt-2" and value(reader, "tokenizer.ggml.bos_token_id") == 0
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(merge) for merge in merges]


def test_the_chat_template_is_inside(tmp_path):
    tokenizer = with_byte_fallback()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    _, model = pruned("llama", {})
    save_model(model, tokenizer, tmp_path / "model")
    write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F16")
    assert value(GGUFReader(tmp_path / "model.gguf"), "tokenizer.chat_template") == tokenizer.chat_template
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == tokenizer.chat_template


def test_byte_fallback_becomes_scores_in_the_order_of_merges(written):
    plan, model = pruned("llama", {})
    reader, _, _ = written(model, plan.shape_after)
    scores = dict(zip(value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.scores"), strict=True))
    assert scores["▁a"] > scores["ab"] > scores["▁ab"] > scores["aba"] > scores["b"]
    kinds = value(reader, "tokenizer.ggml.token_type")
    assert kinds[:4] == [2, 3, 3, 6] and kinds[259] == 1 and kinds[-1] == 5  # unknown, control, byte; normal; unused
    assert value(reader, "tokenizer.ggml.model") == "llama" and value(reader, "tokenizer.ggml.add_space_prefix") is True


LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.Split(Regex(LLAMA_3), "isolated")], "llama-bpe"),
        ([pre_tokenizers.Split(Regex(LLAMA_3.replace("{1,3}", "")), "isolated")], "qwen2"),
        ([pre_tokenizers.Digits(individual_digits=True)], "smollm"),
        ([pre_tokenizers.Split(Regex("[aeiou]"), "isolated")], None),
        ([pre_tokenizers.Whitespace()], None),
    ],
    ids=["Llama 3", "Qwen", "SmolLM", "unknown", "words"],
)
def test_the_rule_that_splits_text_is_named_or_refused(steps, name):
    bytes_last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "smollm")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([*steps, bytes_last])
    if name is None:
        with pytest.raises(PruningError, match="no fields for the way it splits text"):
            splitting_rule(json.loads(made.to_str()))
    else:
        assert splitting_rule(json.loads(made.to_str())) == name


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path, tokenizer):
    save_model(pruned("llama", {}, vocab_size=67)[1], None, tmp_path / "model")
    with pytest.raises(PruningError, match=r"it has 266 tokens, the model 67 rows"):
        write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F16")
