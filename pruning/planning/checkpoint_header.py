"""What a model folder holds, read without loading a weight: config.json and the headers of its safetensors files.

    model.safetensors = 8 bytes length | JSON header: name -> dtype, shape, offsets | tensor bytes

Sizes, shapes, the check of weights against config, and the fingerprint come from here. Knows nothing about torch; a
folder with only a pytorch_model.bin is sized up by its config and checked when it is loaded.
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import PruningError
from .bin_header import read_bin_header
from .shape import ModelShape
from .tensor_header import TensorHeader, same_values

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
BIN_FILE = "pytorch_model.bin"
BIN_INDEX_FILE = "pytorch_model.bin.index.json"
_NAMED_FILE = "transformers_weights"  # the entry of config.json that names the file to load, as transformers reads it
EMBEDDINGS, TIED_HEAD = "model.embed_tokens.weight", "lm_head.weight"
_TIED = "tie_word_embeddings"
ROTARY_BUFFER = "rotary_emb.inv_freq"  # written by old transformers
BYTES_PER_PARAMETER = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}  # dtypes as safetensors writes them
_CONFIG_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_COMPUTED_BY = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
_FINGERPRINT_BYTES = 4096
OWN_HEAD = (
    "config.json says that the output head is tied to the embeddings, but the files hold a head of its own: "
    "it is kept, and the cut model is written untied"
)
_SHAPE_KEYS = (
    *("model_type", "hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "attention_bias", "mlp_bias", _TIED, "per_layer_config"),
)


@dataclass(frozen=True)
class CheckpointHeader:
    """A model folder: its config, and the header of every tensor (empty for a folder with only a .bin).

    `keeps_head`: config.json says that the output head is the embeddings, but the files hold another one. transformers then
    computes with the stored head, so `config` here says that it is untied, and all that is derived from it counts the head.
    """

    folder: Path
    config: dict
    tensors: dict[str, TensorHeader]
    weight_files: tuple[Path, ...]
    keeps_head: bool = False

    @classmethod
    def read(cls, folder: str | Path) -> "CheckpointHeader":
        """Reads config.json and all safetensors headers; raises PruningError for what is missing or cut short."""
        folder = Path(folder)
        config = read_config(folder)
        tensors = {}
        try:
            files = _weight_files(folder, config)
            for file in files:
                if file.suffix == ".safetensors":
                    tensors |= _read_header(file)
            return cls.of(folder, config, tensors, tuple(files))
        except OSError as error:
            raise PruningError("file_broken", path=error.filename or folder, reason=error.strerror or error) from error

    @classmethod
    def of(
        cls, folder: Path, config: dict, tensors: dict[str, TensorHeader], weight_files: tuple[Path, ...]
    ) -> "CheckpointHeader":
        """The header of these files, its config untied where they hold a head of their own. Raises OSError."""
        keeps_head = bool(config.get(_TIED)) and _has_own_head(tensors, weight_files)
        return cls(folder, config | {_TIED: False} if keeps_head else config, tensors, weight_files, keeps_head)

    @cached_property
    def shape(self) -> ModelShape:
        return ModelShape.from_config(self.config)

    @property
    def weight_bytes(self) -> int:
        """Bytes on disk of the weight files, without tokenizer and config."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def dtype(self) -> str | None:
        """The dtype most tensors have, as safetensors writes it (BF16, F32, ...); of a .bin, what its config says."""
        dtypes = [t.dtype for t in self.tensors.values()]
        if dtypes:
            return max(set(dtypes), key=dtypes.count)
        return _CONFIG_DTYPES.get(self.config.get("dtype") or self.config.get("torch_dtype"))

    def check(self) -> None:
        """Raises PruningError unless names and shapes of the tensors are just those the config asks for, and for a config that
        names code of the hub to compute with, which transformers would fetch and run.
        """
        for name in _COMPUTED_BY:
            if "/" in str(self.config.get(name, "")):
                raise PruningError("config_kernel", name=name, found=self.config[name])
        if not self.tensors:
            return
        expected = self.shape.tensor_shapes()
        for name, shape in expected.items():
            if name in self.tensors and self.tensors[name].shape != shape:
                found = list(self.tensors[name].shape)
                raise PruningError("weights_mismatch", name=name, found=found, expected=list(shape))
        _refuse_names("weights_missing", expected.keys() - self.tensors.keys())
        _refuse_names("weights_unexpected", self.unexpected_names(expected, self.shape.tie_word_embeddings))

    def unexpected_names(self, expected: Iterable[str | None], tied: bool) -> set[str]:
        """Names of tensors beside `expected`; a stored copy of a tied head and rotary tables do not count."""
        tied_copy = {TIED_HEAD} if tied else set()
        buffers = {name for name in self.tensors if name.endswith(ROTARY_BUFFER)}
        return self.tensors.keys() - set(expected) - tied_copy - buffers

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shape-relevant config, all tensor names, shapes and dtypes, and each tensor's first 4 KiB."""
        digest = hashlib.sha256(json.dumps({k: self.config.get(k) for k in _SHAPE_KEYS}, sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name}:{tensor.dtype}:{tensor.shape}".encode())
            with tensor.file.open("rb") as file:
                file.seek(tensor.start)
                digest.update(file.read(min(_FINGERPRINT_BYTES, tensor.end - tensor.start)))
        if not self.tensors:
            with self.weight_files[0].open("rb") as file:
                digest.update(file.read(_FINGERPRINT_BYTES))
        return digest.hexdigest()


def read_config(folder: Path) -> dict:
    """The content of config.json; raises PruningError when it is not there or not JSON."""
    path = folder / "config.json"
    if not path.is_file():
        raise PruningError("no_config", folder=folder)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PruningError("config_broken", path=path, reason=error) from error
    if not isinstance(config, dict):
        raise PruningError("config_broken", path=path, reason="not an object")
    return config


def weight_order(config: dict) -> tuple[str, ...]:
    """The files, or indices of shards, that may hold the weights; transformers loads the first that is there."""
    named = config.get(_NAMED_FILE)
    return (str(named),) if named else (SINGLE_FILE, INDEX_FILE, BIN_FILE, BIN_INDEX_FILE)


def listed_files(file: Path) -> list[str]:
    """The names of the weight files that `file` stands for: the shards that an index lists, or itself.

    Raises PruningError for an index that cannot be read, or that names anything but weight files beside it.
    """
    if file.suffix != ".json":
        return [file.name]
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise PruningError("config_broken", path=file, reason=error) from error
    for name in names:
        if Path(name).name != name or Path(name).suffix not in (".safetensors", ".bin"):
            raise PruningError("shard_missing", folder=file.parent, file=name)
    return names


def _weight_files(folder: Path, config: dict) -> list[Path]:
    # Shards of each process that trained: transformers takes them before all others.
    if distributed := sorted(folder.glob("shard-[0-9]*-model-[0-9]*-of-[0-9]*.safetensors")):
        raise PruningError("weights_distributed", folder=folder, file=distributed[0].name)
    order = weight_order(config)
    found = next((name for name in order if Path(name).name == name and (folder / name).is_file()), None)
    if found is None and _NAMED_FILE in config:
        raise PruningError("shard_missing", folder=folder, file=order[0])
    if found is None:
        raise PruningError("no_weights", folder=folder)
    names = listed_files(folder / found)
    for name in names:
        if not (folder / name).is_file():
            raise PruningError("shard_missing", folder=folder, file=name)
    return [folder / name for name in names]


def _has_own_head(tensors: dict[str, TensorHeader], weight_files: tuple[Path, ...]) -> bool:
    """Whether an output head is stored that is not the embeddings."""
    stored = dict(tensors)
    if not stored:
        with suppress(PruningError):  # a .bin as torch wrote it long ago: loading it finds the difference
            for file in weight_files:
                stored |= read_bin_header(file)
    head, embeddings = stored.get(TIED_HEAD), stored.get(EMBEDDINGS)
    return head is not None and embeddings is not None and not same_values(head, embeddings)


def _read_header(file: Path) -> dict[str, TensorHeader]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        if len(head) < 8:
            raise PruningError("weights_truncated", file=file, reason="it has no header")
        length = struct.unpack("<Q", head)[0]
        if length > size - 8:
            raise PruningError("weights_truncated", file=file, reason="its header does not fit into it")
        try:
            entries = json.loads(stream.read(length))
        except ValueError as error:
            raise PruningError("weights_truncated", file=file, reason="its header is not JSON") from error
    start = 8 + length
    try:
        headers = {
            name: TensorHeader(e["dtype"], tuple(e["shape"]), file, start + e["data_offsets"][0], start + e["data_offsets"][1])
            for name, e in entries.items()
            if name != "__metadata__"
        }
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise PruningError("weights_truncated", file=file, reason="its header does not describe tensors") from error
    end = max((h.end for h in headers.values()), default=start)
    if end != size:
        raise PruningError("weights_truncated", file=file, reason=f"{end:,} bytes are announced, {size:,} are there")
    return headers


def _refuse_names(code: str, names) -> None:
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise PruningError(code, name=min(names), more=more)
