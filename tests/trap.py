"""A model folder that brings Python code of its own, which leaves a mark when it runs."""

import json
from pathlib import Path


def set_trap(folder: Path, sprung: Path) -> None:
    """Code in the folder that leaves a mark when it runs, and a config that points to it."""
    trap = f"open({str(sprung)!r}, 'w').close()\n"
    config = "from transformers import LlamaConfig\nclass Trap(LlamaConfig): ...\n"
    model = "from transformers import LlamaForCausalLM\nfrom .configuration_trap import Trap as Config\n"
    model += "class Trap(LlamaForCausalLM):\n    config_class = Config\n"
    tokenizer = "from transformers import PreTrainedTokenizerFast\nclass Trap(PreTrainedTokenizerFast): ...\n"
    for name, code in {"configuration": config, "modeling": model, "tokenization": tokenizer}.items():
        (folder / f"{name}_trap.py").write_text(trap + code)
    auto_map = {"AutoConfig": "configuration_trap.Trap", "AutoModelForCausalLM": "modeling_trap.Trap"}
    _change(folder / "config.json", auto_map=auto_map)
    _change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_trap.Trap"]})


def _change(file: Path, **entries) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
