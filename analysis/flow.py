"""The way from rates to the cut as one picture, with the numbers of one experiment. Imports no torch.

1 what scores or rates ask of every layer  ->  2 protected layers filtered  ->  3 groups chosen
->  4 rows and columns that go with a group  ->  5 sizes before and after
"""

import io
from pathlib import Path

import numpy as np

from pruning.experiment import write_whole
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection, name_layers
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP
from pruning.words import counted, readable_size

from .charts import COLOURS

_WIDTH = 13


def asked_shares(plan: PruningPlan, table: GroupTable | None, rates: np.ndarray | None) -> np.ndarray:
    """Share of each layer's prunable parameters that would go if nothing were protected, [layers] float64.

    `rates` where the strategy has them; else the groups that score no higher than the highest that was cut; without
    scores, what was cut.
    """
    if rates is not None:
        return rates
    prunable = (plan.groups.block_sizes * plan.groups.block_costs).reshape(-1, 2).sum(axis=1)
    gone = ~plan.kept
    if table is not None and gone.any():
        gone = gone | (table.score <= np.nanmax(np.where(plan.kept, np.nan, table.score)))
    removed = np.bincount(plan.groups.layer_idx, weights=plan.groups.cost * gone, minlength=plan.shape.num_layers)
    return removed / np.maximum(prunable, 1)


def save_flow_picture(
    plan: PruningPlan,
    path: Path,
    protection: Protection,
    table: GroupTable | None = None,
    rates: np.ndarray | None = None,
    bytes_per_parameter: int = 2,
) -> None:
    """Writes a PNG; `rates` [layers] are those computed for all layers, where the strategy has rates."""
    from matplotlib.figure import Figure  # half a second; only this command needs it

    figure = Figure(figsize=(_WIDTH, 15), layout="constrained")
    axes = figure.subplots(5, 1, height_ratios=[1, 1, 1.2, 1.1, 0.8])
    figure.suptitle(f"From rates to the cut: {plan.actual_ratio:.2%} of all parameters go", fontsize=15)
    spared = ~protection.cuttable(plan.shape.num_layers).any(axis=1)
    asked = asked_shares(plan, table, rates)
    source = "rates of all layers" if rates is not None else "what scores ask of all layers" if table else "share of all layers"
    _shares(axes[0], asked, np.zeros_like(spared), f"1  {source}")
    _shares(axes[1], asked, spared, f"2  protected layers filtered: {name_layers(np.flatnonzero(spared))}")
    _groups(axes[2], plan)
    _propagation(axes[3], plan)
    _sizes(axes[4], plan, bytes_per_parameter)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    write_whole(path, png.getvalue())


def _shares(axes, asked: np.ndarray, spared: np.ndarray, title: str) -> None:
    layers = np.arange(len(asked))
    axes.bar(layers[~spared], asked[~spared], color=COLOURS["cut"], label="asked of the layer")
    if spared.any():
        axes.bar(layers[spared], asked[spared], fill=False, edgecolor=COLOURS["protected"], hatch="//", label="not applied")
    axes.set(ylabel="share of the layer", xlim=(-0.7, len(asked) - 0.3))
    axes.set_title(title, loc="left")
    _legend(axes)


def _groups(axes, plan: PruningPlan) -> None:
    layers = np.arange(plan.shape.num_layers)
    before = plan.groups.block_sizes.reshape(-1, 2)
    shares = (before - plan.kept_counts) / np.maximum(before, 1)
    for column, kind in enumerate(GROUP_TYPES):
        place = layers + 0.4 * column - 0.2
        axes.bar(place, shares[:, column], 0.4, color=COLOURS[kind], hatch=["", "//"][column], label=f"{kind} groups cut")
    attention, mlp = (before - plan.kept_counts).sum(axis=0)
    cut = f"{counted(attention, 'attention group')}, {counted(mlp, 'MLP channel')}"
    axes.set(ylabel="share of the groups", xlabel="layer", xlim=(-0.7, len(layers) - 0.3))
    axes.set_title(f"3  groups chosen, lowest score first: {cut}", loc="left")
    _legend(axes)


def propagation_lines(plan: PruningPlan) -> list[str]:
    """What goes with the groups of the layer that loses most, matrix by matrix, in words and sizes."""
    index = int(np.argmax(plan.removed_parameters.sum(axis=1)))
    layer, resized = plan.shape.layers[index], plan.resized_layers[index]
    d, r = layer.head_dim, layer.num_key_value_groups
    heads = (layer.num_key_value_heads, resized.num_key_value_heads)
    width = (layer.intermediate_size, resized.intermediate_size)
    queries, keys = [f"{n * r * d:,}" for n in heads], [f"{n * d:,}" for n in heads]
    widths = [f"{n:,}" for n in width]
    return [
        f"layer {index}, which loses most",
        f"KV heads {heads[0]} -> {heads[1]}; each takes along its {counted(r, 'query head')} of {d} features",
        f"    q_proj rows {queries[0]} -> {queries[1]}    k_proj, v_proj rows {keys[0]} -> {keys[1]}    "
        f"o_proj columns {queries[0]} -> {queries[1]}",
        f"MLP channels {widths[0]} -> {widths[1]}",
        f"    gate_proj, up_proj rows {widths[0]} -> {widths[1]}    down_proj columns {widths[0]} -> {widths[1]}",
        f"hidden size {plan.shape.hidden_size:,}, norms and embeddings stay: the model still adds up",
    ]


def _propagation(axes, plan: PruningPlan) -> None:
    axes.axis("off")
    axes.set_title("4  what goes with a group", loc="left")
    lines = propagation_lines(plan)
    colours = ["black", COLOURS[ATTENTION], COLOURS[ATTENTION], COLOURS[MLP], COLOURS[MLP], "black"]
    for number, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        axes.text(0.01, 0.88 - number * 0.16, line, transform=axes.transAxes, color=colour, fontsize=12, family="monospace")


def _sizes(axes, plan: PruningPlan, bytes_per_parameter: int) -> None:
    for row, shape in enumerate((plan.shape_after, plan.shape)):
        left = 0
        for component, parameters in shape.components.items():
            colour = COLOURS.get(component, COLOURS["kept"])
            axes.barh(row, parameters, left=left, color=colour, label=component if row == 0 else None)
            left += parameters
        axes.text(left, row, f"  {left:,}, {readable_size(left * bytes_per_parameter)}", va="center")
    axes.set(yticks=[0, 1], yticklabels=["after", "before"], xticks=[], xlim=(0, plan.shape.parameters * 1.3))
    axes.set_title("5  parameters and weights, before and after", loc="left")
    _legend(axes)


def _legend(axes) -> None:
    """Above the axes, where no bar can be."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False)
