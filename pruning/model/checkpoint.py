"""Find, check and load a model and its tokenizer.

    headers against config  ->  load  ->  no missing, unexpected or wrongly sized weights

Safetensors by default; a .bin only as plain tensors. Sizes before loading: model_source.py.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import PruningError, first_line
from ..planning.checkpoint_header import CheckpointHeader, read_config
from ..planning.families import PRUNED_PREFIX
from ..settings import Settings
from .architecture.classes import config_from, load_trusted, refuse_unless_all_fitted
from .model_source import fetch
from .runtime import is_out_of_memory, resolve_attention, resolve_device, resolve_dtype

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")
SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to compute with, the tokenizer that belongs to it, and the header of the files it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    header: CheckpointHeader

    @property
    def saved_dtype(self) -> torch.dtype:
        """The number format of the files, which a cut model is saved in."""
        return SAFETENSORS_DTYPES.get(self.header.dtype, self.model.dtype)


def open_checkpoint(base_model: str, token: str | None = None, trust_remote_code: bool = False) -> CheckpointHeader:
    """The checked header of a model; a hub model is downloaded first. Raises PruningError."""
    header = CheckpointHeader.read(fetch(base_model, token, trust_remote_code))
    header.check()
    return header


def load(header: CheckpointHeader, settings: Settings, trust_remote_code: bool = False) -> LoadedModel:
    """The model and tokenizer of a checked folder, on the device and in the dtype of `settings`.

    `trust_remote_code`: the person allowed the code that this folder brings to run. Raises PruningError for weights that do
    not fit the config, pickled objects, or an unreadable tokenizer.
    """
    device = resolve_device(settings.device)
    head_dim = header.shape.layers[0].head_dim
    dtype = resolve_dtype(settings.dtype, device)
    options = {
        "dtype": dtype,
        "attn_implementation": resolve_attention(settings.attn_implementation, device, head_dim, dtype),
        "device_map": "auto" if settings.device == "auto" and device.type == "cuda" else device,
        "output_loading_info": True,
        "use_safetensors": bool(header.tensors),
        "ignore_mismatched_sizes": True,  # reported in the loading info, and refused by name below
    }
    if header.keeps_head:
        options["tie_word_embeddings"] = False
    # A folder of this project is built by the classes of this program: the code in it may be anybody's by now.
    own_class = header.config["model_type"].startswith(PRUNED_PREFIX)
    trust_remote_code = trust_remote_code and not own_class
    model = _load_model(header, options, own_class, trust_remote_code)
    if device.type == "cuda" and set(getattr(model, "hf_device_map", {}).values()) & {"cpu", "disk", "meta"}:
        raise PruningError("does_not_fit_gpu")  # offloaded weights have neither gradients nor rows to cut
    model.eval()
    return LoadedModel(model, load_tokenizer(header.folder, trust_remote_code), header)


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files of a tokenizer at all."""
    return any((Path(folder) / name).exists() for name in _TOKENIZER_FILES)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; code that the folder brings for it runs only where the person allowed that.

    Raises PruningError when there is none, it cannot be read, or it needs such code.
    """
    try:
        # The config of a folder of this project's own classes, which transformers alone cannot read; None for any other.
        content = read_config(Path(folder)) if (Path(folder) / "config.json").is_file() else {}
        own = config_from(content) if str(content.get("model_type")).startswith(PRUNED_PREFIX) else None
        return AutoTokenizer.from_pretrained(folder, config=own, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if not has_tokenizer(folder):
            raise PruningError("tokenizer_missing", model=str(folder)) from error
        if not trust_remote_code and "`trust_remote_code=True`" in str(error):
            raise PruningError("tokenizer_code", model=str(folder)) from error
        raise PruningError("tokenizer", model=str(folder), reason=first_line(error)) from error


def _load_model(header: CheckpointHeader, options: dict, own_class: bool, trust_remote_code: bool) -> PreTrainedModel:
    logging.set_verbosity_error()  # what it warns of is raised below
    logging.disable_progress_bar()
    try:
        if own_class:
            model, info = load_trusted(header.folder, **options)
        else:
            pair: Any = AutoModelForCausalLM.from_pretrained(
                header.folder, trust_remote_code=trust_remote_code, weights_only=True, **options
            )
            model, info = pair  # by `output_loading_info`
    except pickle.UnpicklingError as error:
        raise PruningError("pickle_refused", file=header.weight_files[0]) from error
    except (RuntimeError, ValueError, OSError, EOFError, ImportError) as error:
        if is_out_of_memory(error):
            raise
        if "weights_only" in str(error) or "Weights only load failed" in str(error):
            raise PruningError("pickle_refused", file=header.weight_files[0]) from error
        # Safetensors are complete, their headers were checked.
        if header.tensors or isinstance(error, ValueError | ImportError):
            raise PruningError("load_failed", folder=header.folder, reason=first_line(error)) from error
        raise PruningError("weights_truncated", file=header.weight_files[0], reason=first_line(error)) from error
    refuse_unless_all_fitted(info)
    # Of a .bin that only loading can read: transformers kept the head, and left the config as it was.
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise PruningError("head_differs", folder=header.folder)
    return model
