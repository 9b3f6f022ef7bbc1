"""A model as a Hugging Face folder: written whole, loaded again, checked in a fresh process, packed for download.

config.json  generation_config.json  model.safetensors (or shards and their index)  tokenizer files
layers of different sizes: also configuration_pruned.py and modeling_pruned.py, found through `auto_map`
"""

import copy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..files import written_whole
from ..model.architecture import CODE_FILES, auto_map
from ..model.architecture.classes import load_trusted
from ..planning.families import PRUNED_PREFIX
from .formats import SMALL_FILES
from .model_card import model_card
from .older_readers import add_older_names
from .own_code import remove_foreign_code
from .reload_check import check_reload
from .shards import write_index

__all__ = ["check_reload", "load_trusted", "model_card", "save_model", "write_zip"]

Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise Cancelled
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_CHUNK = 8 * 2**20


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    max_shard_size: int | str = "5GB",
    dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
    source: Path | None = None,
) -> None:
    """Writes `folder`, replacing an existing one when all is written; weights as `dtype` (default: the model's).

    Licence files of the `source` folder are carried over. Raises PruningError when the disk is full or cannot be written.
    The folder loads with `from_pretrained`; with `trust_remote_code=True` where layers differ in size.
    """
    dtype = dtype or model.dtype
    weights = dict(model.named_parameters())  # a tied lm_head comes once, as embed_tokens
    total = sum(weight.numel() for weight in weights.values()) * dtype.itemsize
    with written_whole(Path(folder), total + SMALL_FILES) as part:
        part.mkdir()
        _write_weights(weights, dtype, part, max_shard_size, total, on_progress)
        write_small_files(part, model, dtype, tokenizer, source)


def _write_weights(
    weights: dict[str, torch.Tensor], dtype: torch.dtype, folder: Path, max_shard_size, total: int, on_progress: Progress | None
) -> None:
    """Writes one file at a time, so that only the weights of one shard are held in `dtype`."""
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty_like(weight, dtype=dtype, device="meta") for name, weight in weights.items()},
        max_shard_size=max_shard_size,
    )
    done = 0
    for file, names in plan.filename_to_tensors.items():
        if on_progress:
            on_progress(done, total)
        shard = {name: weights[name].detach().to("cpu", dtype).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        done += sum(weight.nbytes for weight in shard.values())
    if plan.is_sharded:
        write_index(folder, plan.tensor_to_filename, total)
    if on_progress:
        on_progress(total, total)


def write_small_files(
    folder: Path,
    model: PreTrainedModel,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase | None,
    source: Path | None = None,
) -> None:
    """Writes all of a model folder but its weights: config and code, generation config, tokenizer with its chat template,
    licence files of the source. Code of the source is left out. The weights of `model` are not used.
    """
    _write_config(model, dtype, folder)
    # Not `save_pretrained`: it refuses settings that many published models come with (temperature without do_sample).
    model.generation_config.to_json_file(folder / "generation_config.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    add_older_names(folder, tokenizer)
    licences = {file for pattern in LICENCE_FILES for file in source.glob(pattern)} if source else set()
    for file in sorted(file for file in licences if file.is_file() and _belongs_to(source, file)):
        shutil.copyfile(file, folder / file.name)
    remove_foreign_code(folder)
    # safetensors makes its files readable for their owner only.
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", file)


def _belongs_to(source: Path, file: Path) -> bool:
    """Whether a file of a model folder is no link to something else; the hub's cache links into `blobs` of the same model."""
    homes = [source, source.parent.parent / "blobs"] if source.parent.name == "snapshots" else [source]
    return any(file.resolve().is_relative_to(home.resolve()) for home in homes)


def _write_config(model: PreTrainedModel, dtype: torch.dtype, folder: Path) -> None:
    config: PreTrainedConfig = copy.deepcopy(model.config)
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    if config.model_type.startswith(PRUNED_PREFIX):
        config.auto_map = auto_map(config.model_type.removeprefix(PRUNED_PREFIX))
        for file in CODE_FILES:
            shutil.copyfile(file, folder / file.name)
    config.save_pretrained(folder)


def write_zip(folder: Path, zip_path: Path, on_progress: Progress | None = None) -> None:
    """Packs the files of `folder` under its name, uncompressed (weights do not compress).

    `on_progress` is told the bytes done and in all, and may raise to stop. Raises PruningError when the disk is full or
    cannot be written; an incomplete zip never gets this name.
    """
    folder, zip_path = Path(folder), Path(zip_path)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for file in files)
    done = 0
    with written_whole(zip_path, total + SMALL_FILES) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            name = Path(folder.name) / file.relative_to(folder)
            entry = zipfile.ZipInfo.from_file(file, name, strict_timestamps=False)  # zip knows no time before 1980
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as packed:
                while chunk := source.read(_CHUNK):
                    packed.write(chunk)
                    done += len(chunk)
                    if on_progress:
                        on_progress(done, total)
