"""A model as one pytorch_model.bin: its state dict, which any program reads with `torch.load(..., weights_only=True)`.

OrderedDict name -> tensor          its attribute `_metadata`, where torch keeps versions of modules, holds "pruning":
                                    {"format_version": 1, "config": config.json as text}, so that the model can be rebuilt
"""

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import PruningError, first_line
from ..model.architecture.classes import config_from, model_class, refuse_unless_all_fitted
from ..planning.checkpoint_header import CheckpointHeader
from .stored_tensors import stored_tensors

FORMAT_VERSION = 1
_KEY = "pruning"
_OVERHEAD = 16 * 2**20  # names and the zip's own tables take less

Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise Cancelled


def write_bin(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, path: Path, kind: str = "", on_progress: Progress | None = None
) -> None:
    """Writes `path` from a model folder, in the folder's dtype; a state dict holds no tokenizer and is of one kind.

    Use within `files.written_whole`: an error leaves the file unfinished.
    """
    header = CheckpointHeader.read(folder)
    with stored_tensors(header) as stored, Path(path).open("wb") as file:
        # Memory maps: torch.save copies from file to file.
        state_dict = OrderedDict((name, stored[name]) for name in header.tensors)
        described = {"format_version": FORMAT_VERSION, "config": json.dumps(header.config)}
        state_dict._metadata = {_KEY: described}  # type: ignore[attr-defined]  # torch saves this attribute along
        torch.save(state_dict, _Watched(file, header.weight_bytes, on_progress) if on_progress else file)


def bin_bytes(header: CheckpointHeader) -> int:
    """Bytes that the file takes at most."""
    return header.weight_bytes + _OVERHEAD


def load_bin(path: str | Path) -> PreTrainedModel:
    """The model that a pytorch_model.bin of this project holds, in its dtype, in eval mode; runs no code of the file.

    Raises PruningError for a file that cannot be read, holds pickled objects, or does not say what model it is.
    """
    path = Path(path)
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise PruningError("file_missing", path=path) from error
    except pickle.UnpicklingError as error:
        raise PruningError("pickle_refused", file=path) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise PruningError("weights_truncated", file=path, reason=first_line(error)) from error
    return build_model(_config_of(path, state_dict), state_dict)


def build_model(config: dict, state_dict: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A model of these weights and sizes, in eval mode; raises PruningError when they do not belong together."""
    made = config_from(config)
    dtype = next(iter(state_dict.values())).dtype
    pair: Any = model_class(made).from_pretrained(
        None, config=made, state_dict=dict(state_dict), dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    model, info = pair
    refuse_unless_all_fitted(info)
    return model


def _config_of(path: Path, state_dict) -> dict:
    described = getattr(state_dict, "_metadata", {}).get(_KEY, {})
    if described.get("format_version") != FORMAT_VERSION:
        raise PruningError("bin_without_shape", path=path)
    return json.loads(described["config"])


class _Watched:
    """A file that reports how much was written to it."""

    def __init__(self, file, total: int, on_progress: Progress):
        self._file, self._total, self._on_progress, self._done = file, total, on_progress, 0

    def write(self, content) -> int:
        self._done += len(content)
        self._on_progress(min(self._done, self._total), self._total)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()
