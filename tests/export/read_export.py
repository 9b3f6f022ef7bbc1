"""What transformers, of the version that runs this, makes of model folders; imports nothing of this project.

python read_export.py asked.json found.json    asked: {"models": [...], "tokenizers": [...], "windows", "greedy", "texts"}
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def read_exports(asked: dict) -> dict[str, dict]:
    """Name of each folder -> its logits and greedy tokens, or its tokenizer's token ids, texts and settings; or the error."""
    found = {}
    for folder in map(Path, [*asked["models"], *asked["tokenizers"]]):
        try:
            if str(folder) in asked["models"]:
                found[folder.name] = _of_model(folder, asked["windows"], asked["greedy"])
            else:
                found[folder.name] = _of_tokenizer(folder, asked["texts"])
        except Exception as error:
            found[folder.name] = {"error": f"{type(error).__name__}: {error}"}
    return found


@torch.no_grad()
def _of_model(folder: Path, windows: list[list[int]], greedy: int) -> dict:
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    logits = [model(torch.tensor([ids])).logits[0].tolist() for ids in windows]
    ids = torch.tensor([windows[0]])
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=greedy, do_sample=False)
    return {"logits": logits, "tokens": tokens[0, len(windows[0]) :].tolist()}


def _of_tokenizer(folder: Path, texts: list[str]) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    chat = tokenizer.chat_template and tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    decoded = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in ids]
    given = sorted(tokenizer("a")), tokenizer.padding_side, len(tokenizer), sorted(set(tokenizer.all_special_tokens))
    return {"ids": ids, "decoded": decoded, "chat": chat, "given": list(given)}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    read = read_exports(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps({"version": transformers.__version__, "found": read}))
