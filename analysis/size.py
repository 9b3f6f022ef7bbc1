"""Sizes in words and tables: parameters per component, bytes on disk, memory needed. Imports no torch."""

from dataclasses import dataclass

import pandas as pd

from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ModelShape

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def readable(count: int) -> str:
    """A number of bytes as people read it: `12.5 MiB`, `14.96 GiB`."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.2f} {name}" if unit == 2**30 else f"{count / unit:.1f} {name}"
    return f"{count} B"


def component_table(shape: ModelShape) -> pd.DataFrame:
    """Parameters of attention, MLP, embeddings and norms, and their share of the whole; the shares add up to 1."""
    rows = [(name, count, count / shape.parameters) for name, count in shape.components.items()]
    return pd.DataFrame(rows, columns=["component", "parameters", "share"])


@dataclass(frozen=True)
class PlanTotals:
    """What a plan takes from the whole model."""

    parameters_after: int
    parameters_removed: int
    bytes_after: int
    bytes_removed: int
    attention_groups_removed: int
    mlp_channels_removed: int
    layers_removed: int


def plan_totals(plan: PruningPlan, bytes_per_parameter: int) -> PlanTotals:
    """Totals of a plan; bytes are those of the weights alone."""
    after = plan.shape_after.parameters
    removed = plan.shape.parameters - after
    groups = plan.groups.block_sizes.reshape(-1, 2).sum(axis=0) - plan.kept_counts.sum(axis=0)
    return PlanTotals(
        parameters_after=after,
        parameters_removed=removed,
        bytes_after=after * bytes_per_parameter,
        bytes_removed=removed * bytes_per_parameter,
        attention_groups_removed=int(groups[0]),
        mlp_channels_removed=int(groups[1]),
        layers_removed=plan.shape.num_layers - len(plan.kept_layers),
    )
