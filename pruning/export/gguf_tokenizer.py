"""A tokenizer in the fields of a GGUF file: tokens, their kinds, merges, special tokens, chat template.

    byte-level BPE (Llama 3, Qwen, Mistral Tekken)    model "gpt2": merges, and the name of the rule that splits text
    BPE with byte fallback (Llama 2, Mistral 7B)      model "llama": a score per token, which says what is merged first

Meaning of the fields: the GGUF specification; of the names of splitting rules: llama.cpp, src/llama-vocab.cpp.
"""

import json

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from ..errors import PruningError

# The regular expressions of tokenizer.json that llama.cpp knows, and its names for them.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _LETTERS + r"\p{N}" + _REST: "qwen2",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
_SPECIAL = ("bos", "eos", "unk", "pad")
_SPACE = "▁"  # how a tokenizer with byte fallback writes a space


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Writes the tokenizer's fields; rows of the embedding without a token get a name of their own.

    Raises PruningError for a tokenizer that llama.cpp has no fields for.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {}
    found = rules.get("model", {}).get("type", type(tokenizer).__name__)
    if found != "BPE":
        raise PruningError("gguf_tokenizer", found=found)
    if len(tokenizer) > vocab_size:
        raise PruningError("gguf_vocabulary", tokens=len(tokenizer), rows=vocab_size)
    tokens, kinds = _tokens(tokenizer, vocab_size)
    if rules["model"].get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(tokens, rules["model"]["merges"]))
        writer.add_add_space_prefix(_adds_space(rules))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splitting_rule(rules))
        writer.add_token_list(tokens)
        writer.add_token_merges([" ".join(_pair(merge)) for merge in rules["model"]["merges"]])
    writer.add_token_types(kinds)
    _add_special(writer, tokenizer)


def splitting_rule(rules: dict) -> str:
    """llama.cpp's name for the way a byte-level tokenizer splits text before merging; raises PruningError without one."""
    steps = rules.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    bytes_last = kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space")
    if rules.get("normalizer") is None or rules["normalizer"].get("type") == "NFC":
        if kinds == ["ByteLevel"] and bytes_last and steps[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and bytes_last and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and bytes_last and steps[0]["pattern"].get("Regex") in _SPLITS:
            return _SPLITS[steps[0]["pattern"]["Regex"]]
    raise PruningError("gguf_tokenizer", found=" + ".join(map(str, kinds)))


def _tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[list[str], list[int]]:
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens = [names.get(index, f"[PAD{index}]") for index in range(vocab_size)]
    return tokens, [_kind(index, token, index in names, added, tokenizer.unk_token_id) for index, token in enumerate(tokens)]


def _kind(index: int, token: str, is_known: bool, added: dict, unknown: int | None) -> TokenType:
    if not is_known:
        return TokenType.UNUSED
    if index == unknown:
        return TokenType.UNKNOWN
    if index in added:
        return TokenType.CONTROL if added[index].special else TokenType.USER_DEFINED
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _scores(tokens: list[str], merges: list) -> list[float]:
    """llama.cpp merges what gives the token of the highest score; tokenizer.json lists merges in their order."""
    rank: dict[str, int] = {}
    for order, merge in enumerate(merges):
        rank.setdefault("".join(_pair(merge)), order)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _adds_space(rules: dict) -> bool:
    steps = [rules.get("normalizer") or {}, rules.get("pre_tokenizer") or {}]
    steps += [inner for step in steps for inner in step.get("normalizers", step.get("pretokenizers", []))]
    prepends = any(step.get("type") == "Prepend" and step.get("prepend") == _SPACE for step in steps)
    return prepends or any(step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps)


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    for name in _SPECIAL:
        if (index := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    ids = tokenizer("a")["input_ids"]  # what it does, whatever its settings say it does
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id])
    writer.add_add_eos_token(len(ids) > 1 and tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id])
    if tokenizer.chat_template:
        template = tokenizer.chat_template
        named = [{"name": name, "template": text} for name, text in template.items()] if isinstance(template, dict) else None
        writer.add_chat_template(named or template)
