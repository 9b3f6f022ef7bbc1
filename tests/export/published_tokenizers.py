"""Tokenizers as they are published with models of the families: vocabularies are small, rules and configs are theirs."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_WORDS = ("th", "the", "in", "er", "Ġt", "Ġth", "Ġthe", "Ġa", "12", "123", "ĊĊ")
_PAIRS = (("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("Ġ", "a"), ("1", "2"))
_PAIRS += (("12", "3"), ("Ċ", "Ċ"))
_RULE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CHAT = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
_SPECIAL = ("<|begin|>", "<|start|>", "<|end|>")
TEXTS = (
    "the cat's in",
    "  then\t\n\n  123456 ",
    "def f(x):\n    return 面积 ü e\u0301 \U0001f44d",
    "",
    "<|start|>user\nhi<|end|>",
    "<s> a b </s>x",
)


def write_tokenizer(kind: str, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json of one of KINDS into a model folder."""
    made, config = KINDS[kind]()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _of_bytes(digits: str, begins: bool) -> Tokenizer:
    made = Tokenizer(models.BPE({token: i for i, token in enumerate([*_ALPHABET, *_WORDS])}, list(_PAIRS)))
    split = pre_tokenizers.Split(Regex(_RULE % digits), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    if begins:
        first = (_SPECIAL[0], made.token_to_id(_SPECIAL[0]))
        made.post_processor = processors.TemplateProcessing(f"{first[0]} $A", f"{first[0]} $A $B", [first])
    return made


def _llama_3():
    names = {"bos_token": _SPECIAL[0], "eos_token": _SPECIAL[2], "model_input_names": ["input_ids", "attention_mask"]}
    return _of_bytes("{1,3}", True), names | {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": _CHAT}


def _qwen():
    made = _of_bytes("", False)
    made.normalizer = normalizers.NFC()
    names = {"eos_token": _SPECIAL[2], "pad_token": _SPECIAL[0], "unk_token": None, "add_prefix_space": False}
    names |= {"additional_special_tokens": [*_SPECIAL[1:]], "add_bos_token": False}
    return made, names | {"tokenizer_class": "Qwen2Tokenizer", "chat_template": _CHAT}


def _llama_2(begins: bool):
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "t", "▁a", "▁ab"]
    pairs, vocabulary = [("▁", "a"), ("▁a", "b")], {token: i for i, token in enumerate(words)}
    made = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    if begins:
        made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s>:1 $B:1", [("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": begins, "legacy": False}
    return made, names | {"tokenizer_class": "LlamaTokenizer"}


def _with_prefix():
    made = _of_bytes("", False)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _SPECIAL[2], "padding_side": "left"}


def _of_version_5():
    names = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": [*_SPECIAL[1:]], "backend": "tokenizers"}
    return _of_bytes("{1,3}", True), names | {"bos_token": _SPECIAL[0], "eos_token": _SPECIAL[2]}


KINDS = {
    "Llama 3": _llama_3,
    "Qwen": _qwen,
    "Llama 2": lambda: _llama_2(True),
    "Llama 2 without a first token": lambda: _llama_2(False),
    "a space in front": _with_prefix,
    "saved by transformers 5": _of_version_5,
}
