"""Cuts a model that need not fit into memory: from safetensors to safetensors, one tensor at a time, by the same rule.

    source/*.safetensors --tensor_cut--> kept rows / columns --> model/*.safetensors

The bytes are those that `cut` and `save_model` give.
"""

from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import PruningError
from ..files import written_whole
from ..model.architecture.classes import config_from, model_class
from ..model.surgery import cut_config
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.kept_indices import TensorCut, tensor_cut
from ..planning.plan import PruningPlan
from .formats import SMALL_FILES
from .hugging_face import write_small_files
from .shards import kept_pieces, write_shards

Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise Cancelled


def cut_streamed(
    source: CheckpointHeader,
    plan: PruningPlan,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    dtype: torch.dtype,
    max_shard_size: int | str = "5GB",
    on_progress: Progress | None = None,
) -> None:
    """Writes the model that `plan` leaves of `source` as a Hugging Face folder, its weights as `dtype`.

    Raises PruningError for a source without safetensors, a full disk, or one that cannot be written or read.
    """
    if not source.tensors:
        raise PruningError("needs_safetensors", folder=source.folder)
    pruned = _without_weights(source, cut_config(_config_of(source), plan))
    origins = {rule.name: (name, rule) for name in source.tensors if (rule := tensor_cut(name, plan)) is not None}
    _write_folder(source, pruned, origins, tokenizer, folder, dtype, max_shard_size, on_progress)


def rewrite(
    source: CheckpointHeader,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    dtype: torch.dtype,
    max_shard_size: int | str = "5GB",
    on_progress: Progress | None = None,
) -> None:
    """Writes a model folder of this project again in another number format or other shards; raises as `cut_streamed`."""
    if not source.tensors:
        raise PruningError("needs_safetensors", folder=source.folder)
    same = _without_weights(source, config_from(source.config))
    origins = {name: (name, TensorCut(name)) for name in source.tensors}
    _write_folder(source, same, origins, tokenizer, folder, dtype, max_shard_size, on_progress)


def _config_of(source: CheckpointHeader):
    """The config as loading the model would have it; runs no code of the folder."""
    config = config_from(source.config)
    config.name_or_path = str(source.folder)
    return config


def _without_weights(source: CheckpointHeader, config) -> PreTrainedModel:
    """The model of a config, its weights on no device, with the generation config of the source."""
    with torch.device("meta"):
        model = model_class(config)(config)
    with suppress(OSError):  # without the file: what the config says
        model.generation_config = GenerationConfig.from_pretrained(source.folder)
    return model


def _write_folder(
    source: CheckpointHeader,
    pruned: PreTrainedModel,
    origins: dict[str, tuple[str, TensorCut]],
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    dtype: torch.dtype,
    max_shard_size: int | str,
    on_progress: Progress | None,
) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in pruned.named_parameters()}  # a tied head comes once

    def content(name: str):
        origin, rule = origins[name]
        return kept_pieces(source.tensors[origin], rule, dtype)

    needed = sum(map(prod, shapes.values())) * dtype.itemsize + SMALL_FILES
    with written_whole(Path(folder), needed) as part:
        part.mkdir()
        write_shards(part, shapes, dtype, content, max_shard_size, on_progress)
        write_small_files(part, pruned, dtype, tokenizer, source.folder)
