"""An export carries the names that older programs look for, and transformers 5 reads it as if they were not there."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import pruning
from pruning.export.bin_file import write_bin
from pruning.export.gguf_layout import rope_parameters
from pruning.export.hugging_face import save_model
from pruning.export.older_readers import with_older_names
from pruning.export.streamed_cut import cut_streamed
from pruning.model.architecture.classes import load_trusted
from pruning.model.surgery import cut
from pruning.planning.checkpoint_header import CheckpointHeader
from tests.export.published_tokenizers import KINDS, TEXTS, write_tokenizer
from tests.export.shapes import CUTS, pruned
from tests.tiny_models import FAMILIES, SCALINGS, plan_without, random_ids, tiny_model, with_rope

SHAPES = ("uniform, MLP only", "uniform", "different sizes")


@torch.no_grad()
def logits(model) -> list[torch.Tensor]:
    return [model(random_ids(2, length)).logits for length in (9, 100)]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, first, second))


@pytest.mark.parametrize("rope_type", ["default", *SCALINGS])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_forms_of_the_rotary_embedding_give_the_same_model(tmp_path, family, rope_type):
    for name in SHAPES:
        _, model = pruned(family, CUTS[name], vocab_size=67, **with_rope(rope_type))
        folder = tmp_path / name
        save_model(model, None, folder)
        config = json.loads((folder / "config.json").read_text())
        if name != "different sizes":  # which no older program can build
            assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (5000.0, 5000.0)
            assert config["torch_dtype"] == config["dtype"] == "float32"
            scaling = config.get("rope_scaling")
            assert scaling is None if rope_type == "default" else scaling["rope_type"] == scaling["type"] == rope_type
        for values in (config, {k: v for k, v in config.items() if k not in ("rope_theta", "rope_scaling")}):
            found = rope_parameters(values)  # what the GGUF writer goes by
            assert {key: found[key] for key in config["rope_parameters"]} == config["rope_parameters"]

        expected, loaded = logits(model), load_trusted(folder)
        assert same(logits(loaded), expected)
        save_model(loaded, None, tmp_path / "again")
        assert (tmp_path / "again" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
        write_bin(folder, None, tmp_path / "model.bin")
        assert same(logits(pruning.load_bin(tmp_path / "model.bin")), expected)

        plan = plan_without(model, {(3, "mlp"): range(4)})  # an export is cut again, in memory and from file to file
        save_model(cut(load_trusted(folder), plan), None, tmp_path / "memory", source=folder)
        cut_streamed(CheckpointHeader.read(folder), plan, None, tmp_path / "streamed", torch.float32)
        assert same(logits(load_trusted(tmp_path / "memory")), logits(cut(model, plan)))
        texts = [(tmp_path / way / "config.json").read_text() for way in ("memory", "streamed")]
        assert texts[0] == texts[1] and "rope_theta" in texts[0]


def test_where_the_two_forms_differ_gguf_follows_transformers(tmp_path):
    model = tiny_model("llama", **with_rope("default"))
    scaling = {"rope_type": "linear", "factor": 4.0}
    values = model.config.to_dict() | {"rope_theta": 700.0, "rope_scaling": scaling}
    assert rope_parameters(values) == type(model.config).from_dict(values).rope_parameters
    assert rope_parameters(values) == scaling | {"rope_theta": 700.0}


def test_a_rule_for_each_kind_of_layer_has_no_older_name():
    nested = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    assert with_older_names(nested) == nested


def test_longrope_takes_its_attention_factor_along():
    """transformers 4 takes the factor from the lengths (here 4), whatever `factor` says."""
    options = with_rope("longrope")
    options["rope_parameters"]["factor"] = 2.0
    model = tiny_model("llama", **options)
    rope = with_older_names(model.config.to_dict())["rope_scaling"]
    assert rope["attention_factor"] == pytest.approx(model.model.rotary_emb.attention_scaling, abs=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_tokenizer_gives_the_tokens_of_the_source(tmp_path, kind):
    for family, name in (
        ("llama", "uniform, MLP only"),
        ("llama", "uniform"),
        ("qwen2", "uniform"),
        ("qwen3", "different sizes"),
    ):
        _, model = pruned(family, CUTS[name], vocab_size=300, **with_rope("llama3"))
        source, folder = tmp_path / f"{family}, {name}", tmp_path / f"{family}, {name}, exported"
        source.mkdir()
        tiny_model(family).config.save_pretrained(source)
        write_tokenizer(kind, source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        save_model(model, tokenizer, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not isinstance(config.get("extra_special_tokens"), list)  # transformers 4 expects names
        assert described(folder) == described(folder, trust_remote_code=True) == described(source)


def described(folder: Path, trust_remote_code: bool = False) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    sides = (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_input_names)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    decoded = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in ids]
    return {"ids": ids, "decoded": decoded, "sides": sides, "chat": tokenizer.chat_template, "length": len(tokenizer)}
