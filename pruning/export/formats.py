"""The forms a cut model is handed out in: their names, their files, the room they take, and which of them a model allows.

    hf            model.zip               the checked folder as it was saved
    hf-float16    model-float16.zip       the same in another number format (float32, bfloat16, float16)
    gguf-f16      model-F16.gguf          for llama.cpp (f32, f16, bf16, q8_0)
    bin           pytorch_model.bin       a state dict of torch
    plan          plan.json               which groups stay, and the fingerprint of the model it was made for

Imports no torch.
"""

import re

from ..errors import PruningError
from ..planning.checkpoint_header import BIN_FILE, CheckpointHeader
from .gguf_layout import check_config, gguf_bytes

HF, BIN, PLAN = "hf", "bin", "plan"
HF_DTYPES = {f"hf-{name}": name for name in ("float32", "bfloat16", "float16")}
GGUF_KINDS = {f"gguf-{kind.lower()}": kind for kind in ("F32", "F16", "BF16", "Q8_0")}
FORMATS = (HF, *HF_DTYPES, *GGUF_KINDS, BIN, PLAN)
_SHORT = {"gguf": "gguf-f16"}
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SMALL_FILES = 64 * 2**20  # config, tokenizer, code, tables of a file


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats that `hf,gguf-q8_0` names, each once (`gguf` is gguf-f16); raises PruningError for another name."""
    names = [_SHORT.get(name.strip().lower(), name.strip().lower()) for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise PruningError("format_unknown", name=name, formats=", ".join(FORMATS))
    return tuple(dict.fromkeys(names))


def shard_bytes(text: str) -> int:
    """The bytes that `5GB` or `500MB` names; raises PruningError for what names no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", text, re.IGNORECASE)
    if not match or not (size := int(float(match[1]) * _UNITS[match[2].upper()])):
        raise PruningError("shard_size", value=text)
    return size


def file_of(name: str) -> str:
    """The file in the experiment's folder that is handed out."""
    if name in HF_DTYPES:
        return f"{folder_of(name)}.zip"
    if name in GGUF_KINDS:
        return f"model-{GGUF_KINDS[name]}.gguf"
    return {HF: "model.zip", BIN: BIN_FILE, PLAN: "plan.json"}[name]


def folder_of(name: str) -> str:
    """The model folder that a zip is packed from."""
    return f"model-{HF_DTYPES[name]}" if name in HF_DTYPES else "model"


def refuse(name: str, header: CheckpointHeader) -> None:
    """Raises PruningError, which says why and what to choose, when this format cannot hold the model of the folder."""
    if name in GGUF_KINDS:
        check_config(header.config, header.shape)


def needed_bytes(name: str, header: CheckpointHeader) -> int:
    """Largest disk space that making this format takes; a folder in another number format is kept beside its zip."""
    if name in GGUF_KINDS:
        return gguf_bytes(header.shape, GGUF_KINDS[name]) + SMALL_FILES
    if name in HF_DTYPES:
        return 2 * (header.shape.parameters * _WIDTHS[HF_DTYPES[name]] + SMALL_FILES)
    return 0 if name == PLAN else header.weight_bytes + SMALL_FILES
