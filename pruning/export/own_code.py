"""The only code that an exported folder brings: the two files of this project, byte for byte, and the entry that leads to them.

    source folder: tokenizer_of_theirs.py, "auto_map" in tokenizer_config.json     --> both are left out
    layers of different sizes: configuration_pruned.py, modeling_pruned.py, "auto_map" in config.json

A person who loads an export with `trust_remote_code=True` has to trust this project only.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import PruningError
from ..files import write_whole
from ..model.architecture import CODE_FILES, auto_map
from ..planning.checkpoint_header import read_config
from ..planning.families import PRUNED_PREFIX

# Entries of transformers' JSON files that name a Python file to run.
_LEADING_TO_CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
_OF_REMOTE_CODE = "transformers_modules"  # the package under which transformers imports a folder's code
_SAMPLES = ("def area(width, height):\n    return width * height  # 面积 ü\n", "  1,234.5\t¿Qué? 日本語 😀 <s></s>")


def remove_foreign_code(folder: Path) -> None:
    """Takes what code saving brought along, and what leads to it, out of a folder that is being written."""
    own = {file.name for file in CODE_FILES}
    for file in folder.glob("*.py"):
        if file.name not in own:
            file.unlink()
    for file, foreign in _entries(folder):
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = {name: value for name, value in content.items() if name not in foreign}
        file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def foreign_code(folder: Path) -> str | None:
    """Names the first thing in a folder that would run code that is not of this project; None if there is none."""
    own = {file.name: file.read_bytes() for file in CODE_FILES} if _is_of_own_class(folder) else {}
    for file in sorted(folder.rglob("*.py")):
        if file.read_bytes() != own.get(str(file.relative_to(folder))):
            return file.name
    return next((f"{foreign[0]} in {file.name}" for file, foreign in _entries(folder)), None)


def refuse_foreign(folder: Path) -> None:
    """Before a folder is packed or uploaded: raises PruningError if it holds other code, or a link that leaves it. Our own two
    files are updated to this version, which builds and checks the model.
    """
    for file in CODE_FILES if _is_of_own_class(folder) else ():
        if (folder / file.name).is_file() and (folder / file.name).read_bytes() != file.read_bytes():
            write_whole(folder / file.name, file.read_bytes())
    found = foreign_code(folder)
    for entry in sorted(folder.rglob("*")):
        if entry.is_symlink() and not entry.resolve().is_relative_to(folder.resolve()):
            found = found or f"{entry.relative_to(folder)}, which leads out of it"
    if found is not None:
        raise PruningError("export_foreign", folder=folder, found=found)


def portable(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer as it loads without code of its model; itself where it is a class of transformers.

    One that a model's own code made becomes what it says to the tokenizers library; None where that gives other tokens.
    """
    if tokenizer is None or not type(tokenizer).__module__.startswith(_OF_REMOTE_CODE):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    kept = {name: tokenizer.init_kwargs[name] for name in ("model_max_length", "padding_side") if name in tokenizer.init_kwargs}
    stock = PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map, **kept)
    stock.chat_template = tokenizer.chat_template
    same = all(stock(text)["input_ids"] == tokenizer(text)["input_ids"] for text in _SAMPLES)
    return stock if same else None


def _entries(folder: Path):
    """(JSON file, its entries that lead to other code)."""
    for file in sorted(folder.glob("*.json")):
        content = _small_object(file)
        own = _own_map(folder) if file.name == "config.json" else None
        foreign = [name for name in _LEADING_TO_CODE if name in content and (own is None or content[name] != own)]
        if foreign:
            yield file, foreign


def _small_object(file: Path) -> dict:
    """What transformers reads of a file; a vocabulary (tokenizer.json, vocab.json) and a list of weights name no code."""
    if not file.name.endswith("config.json"):
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PruningError("file_broken", path=file, reason=error) from error
    return content if isinstance(content, dict) else {}


def _own_map(folder: Path) -> dict | None:
    model_type = read_config(folder)["model_type"]
    return auto_map(model_type.removeprefix(PRUNED_PREFIX)) if _is_of_own_class(folder) else None


def _is_of_own_class(folder: Path) -> bool:
    config = read_config(folder) if (folder / "config.json").is_file() else {}
    return str(config.get("model_type")).startswith(PRUNED_PREFIX)
