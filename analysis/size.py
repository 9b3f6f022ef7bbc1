"""Sizes in words and tables: parameters per component, bytes on disk, memory needed. Imports no torch."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.files import naming_damage
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import GROUP_TYPES, ModelShape

from .model_files import ModelFiles

_FIGURES = ("parameters_before", "parameters_after", "removed_share", "weight_bytes_before", "weight_bytes_after")
_COMPUTING_BYTES = {"bfloat16": 2, "float16": 2}


def computing_bytes(dtype: str | None) -> int:
    """Bytes of a number while computing, by the setting `dtype`; `auto` counts as float32, the larger of what it may be."""
    return _COMPUTING_BYTES.get(dtype, 4)


def component_table(shape: ModelShape) -> pd.DataFrame:
    """Parameters of attention, MLP, embeddings and norms, and their share of the whole; the shares add up to 1."""
    rows = [(name, count, count / shape.parameters) for name, count in shape.components.items()]
    return pd.DataFrame(rows, columns=["component", "parameters", "share"])


def nearly_emptied(plan: PruningPlan, most_kept: float = 0.1) -> dict[str, list[int]]:
    """Layers that keep some, but at most `most_kept`, of their attention groups or MLP channels, by kind."""
    before, kept = plan.groups.block_sizes.reshape(-1, 2), plan.kept_counts
    few = (kept > 0) & (kept < before) & (kept <= most_kept * before)
    return {kind: np.flatnonzero(few[:, column]).tolist() for column, kind in enumerate(GROUP_TYPES)}


def size_table(models: Iterable[ModelFiles]) -> pd.DataFrame:
    """One row per model, from headers alone: parameters, and bytes on disk of weights, tokenizer and other files."""
    return pd.DataFrame(
        [
            {
                "model": model.name,
                "parameters": model.parameters,
                "dtype": model.header.dtype,
                "weight_bytes": model.weight_bytes,
                "tokenizer_bytes": model.tokenizer_bytes,
                "other_bytes": model.other_bytes,
            }
            for model in models
        ]
    )


def size_change(original: ModelFiles, pruned: ModelFiles) -> pd.DataFrame:
    """Original against pruned, one row for parameters and one for bytes of weights: absolute, and `removed_share`."""
    rows = [
        ("parameters", original.parameters, pruned.parameters),
        ("weight_bytes", original.weight_bytes, pruned.weight_bytes),
    ]
    table = pd.DataFrame(rows, columns=["measure", "original", "pruned"])
    table["removed"] = table["original"] - table["pruned"]
    table["removed_share"] = table["removed"] / table["original"]
    return table


def experiment_sizes(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """One row per experiment, as its `metrics.json` has it; empty figures where nothing was cut yet. `fault` says what is
    wrong with a damaged one.
    """
    rows = []
    for experiment in experiments:
        row = {"experiment": experiment.name, "saved": experiment.is_saved, "fault": None}
        try:
            with naming_damage(experiment.folder):
                row |= _figures(experiment.metrics())
        except PruningError as error:
            row["fault"] = str(error)
        rows.append(row)
    return pd.DataFrame(rows, columns=["experiment", *_FIGURES, "saved", "fault"] if rows else None)


def _figures(metrics: dict) -> dict:
    parameters, size = metrics.get("parameters", {}), metrics.get("size_bytes", {})
    figures = (parameters.get("before"), parameters.get("after"), metrics.get("ratio", {}).get("actual"))
    figures += (size.get("before"), size.get("after"))
    return {name: figure + 0 for name, figure in zip(_FIGURES, figures, strict=True) if figure is not None}
