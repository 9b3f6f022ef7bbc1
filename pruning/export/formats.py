"""The forms a cut model is handed out in, a record each: file, room it takes, which models it holds, how it is loaded.

    hf            model.zip               the checked folder as it was saved
    hf-float16    model-float16.zip       the same in another number format (float32, bfloat16, float16)
    gguf-f16      model-F16.gguf          for llama.cpp (f32, f16, bf16, q8_0)
    bin           pytorch_model.bin       a state dict of torch
    plan          plan.json               which groups stay, and the fingerprint of the model it was made for

A new single file is a module here that writes and opens it, its record in FORMATS, and its texts (`export.name.<name>`,
`export.kind.<described>`). Imports no torch: a page lists the formats before anything is made.
"""

import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import PruningError
from ..experiment import PLAN_FILE, ZIP_FILE
from ..planning.checkpoint_header import BIN_FILE, CheckpointHeader
from .gguf_layout import GGUF_TYPES, check_config, gguf_bytes

HF, PLAN = "hf", "plan"
_SHORT = {"gguf": "gguf-f16"}
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SMALL_FILES = 64 * 2**20  # config, tokenizer, code, tables of a file

# Code that runs beside the folder or file. What needs this project says so: it is found where it is installed, or through
# PYTHONPATH.
_LOAD_FOLDER = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}"{trust})
model = AutoModelForCausalLM.from_pretrained("{folder}"{trust})
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
"""
_LOAD_BIN = """# Runs where the pruning project is installed, or with PYTHONPATH=<its folder>: it builds layers of any size.
# In the project's own folder, give the path of the file.
import pruning

model = pruning.load_bin("{file}")
print(f"{{model.num_parameters():,}} parameters")
"""
_LOAD_GGUF = """from llama_cpp import Llama

model = Llama("{file}", n_ctx=0, verbose=False)
print(model("Once upon a time", max_tokens=40)["choices"][0]["text"])
"""
_CUT_BY_PLAN = """# In the folder of the pruning project, with the path of the file.
python -m pruning apply --base_model {base_model} --plan {file} --save_model
"""


@dataclass(frozen=True)
class Format:
    """One form. A single file has `write_by` and `open_by`, `module:name` in this folder:

        write_by   (model folder, tokenizer or None, path, kind, on_progress) -> None
        open_by    (path, model folder) -> OpenedFile, called in a fresh process

    A folder has `dtype`, its number format, unless it is the saved one. `needed_bytes` is the largest disk space that making it
    takes; `refuse` raises PruningError, which says why and what to choose, when the form cannot hold the model of a folder.
    """

    name: str
    file: str  # in the experiment's folder, which is handed out
    described: str  # in the texts of the app
    sample: str
    needed_bytes: Callable[[CheckpointHeader], int]
    refuse: Callable[[CheckpointHeader], None] = lambda header: None
    folder: str = "model"  # that a zip is packed from
    dtype: str | None = None
    write_by: str | None = None
    open_by: str | None = None
    kind: str = ""  # of a single file: what its values are stored as
    needs_tokenizer: bool = False
    reader: str = ""  # in the model card, after the file's name

    @property
    def is_folder(self) -> bool:
        return self.described == HF

    @property
    def is_single_file(self) -> bool:
        return self.write_by is not None

    @property
    def write(self) -> Callable[..., None]:
        return pkgutil.resolve_name(f"{__package__}.{self.write_by}")

    @property
    def open(self) -> Callable[..., Any]:
        return pkgutil.resolve_name(f"{__package__}.{self.open_by}")

    def sample_code(self, own_code: bool = False, place: str | None = None, base_model: str = "MODEL") -> str:
        """How to load it, as code; of a plan the command that cuts by it. `own_code`: the folder builds its layers itself;
        `place`: folder or hub id instead of the folder's own name.
        """
        trust = ", trust_remote_code=True" if own_code else ""
        return self.sample.format(file=self.file, folder=place or self.folder, trust=trust, base_model=base_model)


def _folder(dtype: str) -> Format:
    """The folder in another number format, which is kept beside its zip."""
    return Format(
        f"hf-{dtype}",
        f"model-{dtype}.zip",
        HF,
        _LOAD_FOLDER,
        lambda header: 2 * (header.shape.parameters * _WIDTHS[dtype] + SMALL_FILES),
        folder=f"model-{dtype}",
        dtype=dtype,
    )


def _gguf(kind: str) -> Format:
    return Format(
        f"gguf-{kind.lower()}",
        f"model-{kind}.gguf",
        "gguf",
        _LOAD_GGUF,
        lambda header: gguf_bytes(header.shape, kind) + SMALL_FILES,
        refuse=lambda header: check_config(header.config, header.shape),
        write_by="gguf_file:write_gguf",
        open_by="opened_file:open_gguf",
        kind=kind,
        needs_tokenizer=True,
        reader=" for llama.cpp, here through `llama-cpp-python`",
    )


def _as_large_as_saved(header: CheckpointHeader) -> int:
    return header.weight_bytes + SMALL_FILES


_ALL = (
    Format(HF, ZIP_FILE, HF, _LOAD_FOLDER, _as_large_as_saved),
    *map(_folder, _WIDTHS),
    *map(_gguf, GGUF_TYPES),
    Format(
        "bin",
        BIN_FILE,
        "bin",
        _LOAD_BIN,
        _as_large_as_saved,
        write_by="bin_file:write_bin",
        open_by="opened_file:open_bin",
        reader=", a state dict of torch",
    ),
    Format(PLAN, PLAN_FILE, PLAN, _CUT_BY_PLAN, lambda header: 0),
)
FORMATS: dict[str, Format] = {each.name: each for each in _ALL}
SINGLE_FILES = tuple(name for name, each in FORMATS.items() if each.is_single_file)


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
