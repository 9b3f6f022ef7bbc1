"""A plan as one picture, for the experiment folder: rates above, kept sizes below. Imports no torch."""

import io
from pathlib import Path

import numpy as np

from ..experiment import write_whole
from ..palette import COLOURS
from ..planning.plan import TARGET_BASES, PruningPlan
from ..planning.shape import GROUP_TYPES


def save_plan_picture(plan: PruningPlan, path: Path) -> None:
    """Writes a PNG: share cut from each layer, kept attention groups, kept MLP width."""
    from matplotlib.figure import Figure  # half a second; only runs that plan need it

    layers = np.arange(plan.shape.num_layers)
    figure = Figure(figsize=(10, 9), layout="constrained")
    shares, *kept = figure.subplots(3, 1, sharex=True)
    prunable = plan.groups.block_sizes * plan.groups.block_costs
    share = plan.removed_parameters / np.maximum(prunable.reshape(-1, 2).sum(axis=1), 1)[:, None]
    below = np.zeros(len(layers))
    for column, kind in enumerate(GROUP_TYPES):
        shares.bar(layers, share[:, column], bottom=below, color=COLOURS[kind], label=kind, hatch=["", "//"][column])
        below = below + share[:, column]
    shares.set(title=_title(plan), ylabel="share cut of the layer", ylim=(0, 1))
    shares.legend(loc="upper right")
    before = plan.groups.block_sizes.reshape(-1, 2)
    for column, (axes, name) in enumerate(zip(kept, ("attention groups kept", "MLP channels kept"), strict=True)):
        axes.bar(layers, before[:, column], fill=False, edgecolor=COLOURS["protected"], label="before")
        axes.bar(layers, plan.kept_counts[:, column], color=COLOURS["kept"], label="kept")
        axes.set(ylabel=name)
    kept[-1].set(xlabel="layer")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    write_whole(path, png.getvalue())


def _title(plan: PruningPlan) -> str:
    target = plan.settings.get("pruning_ratio")
    asked = f", asked {target:.2%} of {TARGET_BASES[plan.target_basis]}" if target is not None else ""
    return f"{plan.actual_ratio:.2%} of all parameters cut{asked}"
