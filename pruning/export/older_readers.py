"""What programs from before transformers 5 look for in a model folder, written beside what transformers 5 writes.

config.json             rope_parameters        -> rope_theta, rope_scaling     dtype -> torch_dtype
tokenizer_config.json   a class of version 5   -> PreTrainedTokenizerFast      extra_special_tokens -> additional_special_tokens

transformers 4 and MLX-LM take 10,000 for a `rope_theta` that they do not find, and say nothing. transformers 5 reads the older
names too, and prefers `rope_scaling` to `rope_parameters`, so both say the same.
"""

import json
from math import log, sqrt
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..planning.families import PRUNED_PREFIX


def add_older_names(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Rewrites the config of a model folder as it was just saved, and that of its tokenizer where it has one."""
    _rewrite(folder / "config.json", with_older_names)
    if tokenizer is not None and tokenizer.is_fast:
        _rewrite(folder / "tokenizer_config.json", lambda config: _readable_tokenizer(config, tokenizer))


def with_older_names(config: dict) -> dict:
    """The content of a config.json that older programs read as transformers 5 does.

    Layers of different sizes need transformers 5, so their config stays as it is.
    """
    # In a config of code that may not run, transformers 5 looks for a tokenizer's class, and ends on `rope_scaling`.
    if str(config.get("model_type")).startswith(PRUNED_PREFIX):
        return config
    config = config | ({"torch_dtype": config["dtype"]} if "dtype" in config else {})
    rope = config.get("rope_parameters")
    if not rope or any(isinstance(value, dict) for value in rope.values()):  # a rule for each kind of layer has no older name
        return config
    rope = {name: value for name, value in rope.items() if name != "type"}
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        factor, trained = rope.get("factor"), rope["original_max_position_embeddings"]
        if factor is not None and rope.get("attention_factor") is None:  # what transformers 5 then takes (arXiv:2402.13753)
            rope |= {"attention_factor": sqrt(1 + log(factor) / log(trained)) if factor > 1 else 1.0}
        # Older programs look for the trained length beside the scaling only, and take the factor from it.
        config |= {"original_max_position_embeddings": trained}
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"} | {"type": kind}  # "type": before 4.43
    older = {"rope_theta": rope.get("rope_theta", 10000.0)} | ({} if kind == "default" else {"rope_scaling": scaling})
    return config | {"rope_parameters": rope} | older


def _readable_tokenizer(config: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Any version then reads tokenizer.json as it is.

    transformers 4 does not know all classes of 5, rebuilds the rule for the first token of some that it knows, expects named
    tokens under `extra_special_tokens`, and has other defaults.
    """
    defaults = {"padding_side": tokenizer.padding_side, "model_input_names": tokenizer.model_input_names}
    split = tokenizer.backend_tokenizer.pre_tokenizer
    rule = json.loads(split.__getstate__()) if split else {}
    if "add_prefix_space" in rule:
        defaults["add_prefix_space"] = rule["add_prefix_space"]
    config = config | {"tokenizer_class": "PreTrainedTokenizerFast"} | defaults
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    return config


def _rewrite(file: Path, change) -> None:
    config = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
