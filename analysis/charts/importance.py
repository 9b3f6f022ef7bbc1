"""Charts of what was measured: importance of layers, of groups, and how two methods agree."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.colors import get_colorscale

from pruning.methods import LAYER_METHODS
from pruning.palette import COLOURS
from pruning.planning.comparison import MethodComparison, Overlap
from pruning.planning.group_table import GroupTable
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.protection import Protection
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP

from .frame import (
    HEIGHT,
    ON_BARS,
    READABLE_LAYERS,
    TALL,
    Translate,
    bars,
    evenly,
    figure_of,
    hover,
    layer_axis,
    marker,
    percent,
    positive,
    protected_shading,
    prunable_parameters,
    smallest_positive,
)

_MAX_BINS = 256
_MAX_RANKS = 4000  # points per kind in the scatter of two methods
_MANY_GROUPS = 2000  # above this, points are drawn by the graphics card
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


# layers ---------------------------------------------------------------------------------------------------------------


def layer_importance_bars(
    found: LayerImportance, t: Translate, log: bool = False, protection: Protection | None = None
) -> go.Figure:
    """Importance of each whole layer; those that `protection` spares altogether are shaded.

    Importance can be negative: the model predicts better without such a layer. A log axis has no place for it, so there it
    is a triangle at the smallest positive value, with the true value on hover.
    """
    importance, layers = found.importance, len(found.importance)
    above = importance > 0
    as_bars = np.where(above, importance, np.nan) if log else importance
    traces = [_layer_trace(found, t) | {"type": "bar", "y": as_bars, "marker": marker("layer")}]
    if log and not above.all():
        at_floor = np.where(above, np.nan, smallest_positive(importance))
        symbol = {"symbol": "triangle-down", "size": 11, "color": COLOURS["cut"]}
        below = {"type": "scatter", "mode": "markers", "y": at_floor, "marker": symbol}
        traces.append(_layer_trace(found, t) | below | {"name": t("chart.layer_importance.below_zero")})
    method = found.method if found.method in LAYER_METHODS else "other"
    return figure_of(
        traces,
        t(f"chart.layer_importance.title.{method}", method=found.method),
        "layer-importance",
        HEIGHT,
        xaxis=layer_axis(layers, t),
        yaxis={"title": t(f"chart.layer_importance.axis.{method}"), "type": "log" if log else "linear"},
        shapes=protected_shading(protection, layers, t),
    )


def _layer_trace(found: LayerImportance, t: Translate) -> dict:
    """Layers with their hover text, not yet drawn as anything."""
    columns, parts = [found.importance, found.rank], ["plain"]
    if found.perplexity_ratio is not None:
        columns.append(found.perplexity_ratio)
        parts.append("perplexity")
    values = {"layer": "%{x}", "importance": "%{customdata[0]:.6g}", "rank": "%{customdata[1]}", "layers": len(found.rank)}
    lines = [t(f"chart.layer_importance.hover.{part}", ratio="%{customdata[2]:.4g}", **values) for part in parts]
    return {
        "name": t("chart.layer_importance.name"),
        "x": np.arange(len(found.importance)),
        "customdata": np.stack(columns, axis=1),
        "hovertemplate": hover("<br>".join(lines)),
        "meta": {"kind": "layer"},
    }


def group_importance_bars(
    table: GroupTable, t: Translate, log: bool = False, protection: Protection | None = None
) -> go.Figure:
    """Summed group importance of each layer: attention and MLP stacked; side by side on a log axis, which cannot stack.

    Layers that `protection` spares altogether are shaded.
    """
    layers = table.shape.num_layers
    sums = table.block_importance
    traces = [
        bars(np.arange(layers), sums[:, column], kind, t(f"chart.kind.{kind}"), kind)
        | {
            "hovertemplate": hover(
                t("chart.group_importance.hover", layer="%{x}", kind=t(f"chart.kind.{kind}"), importance="%{y:.6g}")
            )
        }
        for column, kind in enumerate(GROUP_TYPES)
    ]
    return figure_of(
        traces,
        t("chart.group_importance.title"),
        "group-importance",
        HEIGHT,
        barmode="group" if log else "stack",
        xaxis=layer_axis(layers, t),
        yaxis={"title": t("chart.group_importance.axis"), "type": "log" if log else "linear"},
        shapes=protected_shading(protection, layers, t),
    )


@dataclass(frozen=True)
class BalanceOfLayers:
    """How attention and MLP share each layer, [layers, 2] float64: attention, MLP; rows sum to 1, NaN where all is 0."""

    importance: np.ndarray
    parameters: np.ndarray


def importance_balance_data(table: GroupTable) -> BalanceOfLayers:
    """Shares of the summed importance, and of the prunable parameters."""
    return BalanceOfLayers(_row_shares(table.block_importance), _row_shares(prunable_parameters(table.shape)))


def _row_shares(values: np.ndarray) -> np.ndarray:
    sums = np.broadcast_to(values.sum(axis=1, keepdims=True), values.shape)
    return np.divide(values, sums, out=np.full(values.shape, np.nan), where=sums > 0)


def importance_balance(table: GroupTable, t: Translate) -> go.Figure:
    """Attention against MLP in each layer: shares of the summed importance; attention's share of parameters as markers."""
    data = importance_balance_data(table)
    layers = table.shape.num_layers
    traces = [
        bars(np.arange(layers), data.importance[:, column], kind, t(f"chart.kind.{kind}"), kind)
        | {
            "customdata": data.parameters[:, column],
            "hovertemplate": hover(
                t(
                    "chart.importance_balance.hover",
                    layer="%{x}",
                    kind=t(f"chart.kind.{kind}"),
                    importance="%{y:.2%}",
                    parameters="%{customdata:.2%}",
                )
            ),
        }
        for column, kind in enumerate(GROUP_TYPES)
    ]
    parameters = {
        "type": "scatter",
        "mode": "markers",
        "name": t("chart.importance_balance.parameters"),
        "x": np.arange(layers),
        "y": data.parameters[:, 0],
        "marker": {"symbol": "diamond", "size": 8, "color": "#FFFFFF", "line": {"color": ON_BARS, "width": 1}},
        "hoverinfo": "skip",
    }
    return figure_of(
        [*traces, parameters],
        t("chart.importance_balance.title"),
        "importance-balance",
        HEIGHT,
        barmode="stack",
        xaxis=layer_axis(layers, t),
        yaxis={"title": t("chart.importance_balance.axis"), "tickformat": ".0%", "range": [0, 1]},
    )


# groups ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeatmapData:
    """Mean score per layer and bin of groups. `first` and `last` are the group indices of each bin, inclusive."""

    kind: str
    score: np.ndarray  # [bins, layers] float64, NaN where nothing was measured
    first: np.ndarray  # [bins] int64
    last: np.ndarray  # [bins] int64


def importance_heatmap_data(table: GroupTable, kind: str, max_bins: int = _MAX_BINS) -> HeatmapData:
    """Scores of one kind of group; neighbouring indices share a bin where there are more than `max_bins`."""
    layers = table.shape.num_layers
    width = max(layer.group_count(kind) for layer in table.shape.layers)
    bins = min(width, max_bins)
    edges = -(-np.arange(bins + 1) * width // max(bins, 1))  # first index whose bin is at least this one
    mean = np.full((bins, layers), np.nan)
    for layer_idx in range(layers):
        score = table.score[table.groups.slice_of(layer_idx, kind)]
        bin_idx = np.arange(len(score)) * bins // max(width, 1)
        measured = ~np.isnan(score)
        sums = np.bincount(bin_idx[measured], weights=score[measured], minlength=bins)
        counts = np.bincount(bin_idx[measured], minlength=bins)
        np.divide(sums, counts, out=mean[:, layer_idx], where=counts > 0)
    return HeatmapData(kind, mean, edges[:-1], edges[1:] - 1)


def importance_heatmap(table: GroupTable, kind: str, t: Translate, max_bins: int = _MAX_BINS) -> go.Figure:
    """Layers x groups, coloured by score (importance per parameter) on a log scale."""
    data = importance_heatmap_data(table, kind, max_bins)
    bins, layers = data.score.shape
    per_bin = int((data.last - data.first).max()) + 1 if bins else 1
    log_score = np.log10(positive(data.score))
    ranges = np.broadcast_to(np.stack([data.first, data.last], axis=1)[:, None, :], (bins, layers, 2))
    ticks = np.linspace(np.nanmin(log_score), np.nanmax(log_score), 5) if np.isfinite(log_score).any() else []
    heatmap = {
        "type": "heatmap",
        "z": log_score,
        "y": data.first,
        "customdata": np.concatenate([ranges, data.score[:, :, None]], axis=2),
        "colorscale": get_colorscale("Viridis"),
        "colorbar": {
            "title": {"text": t("chart.heatmap.colour"), "side": "right"},
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.1e}" for tick in ticks],
        },
        "hovertemplate": hover(
            t(
                f"chart.heatmap.hover.{'one' if per_bin == 1 else 'bin'}",
                layer="%{x}",
                first="%{customdata[0]}",
                last="%{customdata[1]}",
                score="%{customdata[2]:.6e}",
            )
        ),
        "meta": {"kind": kind},
    }
    step = {"dtick": 1} if bins <= READABLE_LAYERS and per_bin == 1 else {}
    return figure_of(
        [heatmap],
        t(f"chart.heatmap.title.{kind}" if per_bin == 1 else "chart.heatmap.title.binned", per_bin=per_bin),
        f"heatmap-{kind}",
        HEIGHT if kind == ATTENTION else TALL,
        xaxis=layer_axis(layers, t),
        yaxis={"title": t(f"chart.axis.{kind}_index")} | step,
    )


@dataclass(frozen=True)
class LayerGroupsData:
    """The groups of one kind in one layer, in the order of their index; NaN marks a group that was not measured."""

    importance: np.ndarray  # [groups] float64
    score: np.ndarray  # [groups] float64
    rank: np.ndarray  # [groups] float64, 1 is the most important; ties by index


def layer_groups_data(table: GroupTable, layer_idx: int, kind: str) -> LayerGroupsData:
    at = table.groups.slice_of(layer_idx, kind)
    importance = table.importance[at]
    rank = np.empty(len(importance))
    rank[np.argsort(-importance, kind="stable")] = np.arange(1, len(importance) + 1)  # NaN sorts last
    return LayerGroupsData(importance, table.score[at], np.where(np.isnan(importance), np.nan, rank))


def layer_groups(table: GroupTable, layer_idx: int, kind: str, t: Translate) -> go.Figure:
    """Importance (log axis) of every attention group or MLP channel of one layer, by index."""
    data = layer_groups_data(table, layer_idx, kind)
    count = len(data.importance)
    trace = {
        "name": t(f"chart.kind.{kind}"),
        "x": np.arange(count),
        "y": positive(data.importance),
        "customdata": np.stack([data.importance, data.score, data.rank], axis=1),
        "hovertemplate": hover(
            t(
                f"chart.layer_groups.hover.{kind}",
                group="%{x}",
                importance="%{customdata[0]:.6g}",
                score="%{customdata[1]:.6e}",
                rank="%{customdata[2]:,}",
                groups=f"{count:,}",
            )
        ),
        "meta": {"kind": kind, "layer": layer_idx},
    }
    if kind == ATTENTION:
        look = {"type": "bar", "marker": marker(kind)}
    else:
        drawn_by = "scattergl" if count > _MANY_GROUPS else "scatter"
        look = {"type": drawn_by, "mode": "markers", "marker": {"color": COLOURS[kind], "size": 3}}
    step = {"dtick": 1} if count <= READABLE_LAYERS else {}
    return figure_of(
        [trace | look],
        t(f"chart.layer_groups.title.{kind}", layer=layer_idx, groups=f"{count:,}"),
        f"layer-groups-{kind}",
        HEIGHT,
        xaxis={"title": t(f"chart.axis.{kind}_index"), "range": [-0.6, max(count, 1) - 0.4]} | step,
        yaxis={"title": t("chart.layer_groups.axis"), "type": "log", "exponentformat": "power"},
    )


def score_quantiles(table: GroupTable, kind: str) -> np.ndarray:
    """Quantiles 1, 25, 50, 75 and 99 % of the scores in each layer, [layers, 5] float64; NaN where none was measured."""
    quantiles = np.full((table.shape.num_layers, len(_QUANTILES)), np.nan)
    for layer_idx in range(table.shape.num_layers):
        score = table.score[table.groups.slice_of(layer_idx, kind)]
        score = score[~np.isnan(score)]
        if len(score):
            quantiles[layer_idx] = np.quantile(score, _QUANTILES)
    return quantiles


def score_distribution(table: GroupTable, kind: str, t: Translate) -> go.Figure:
    """How scores spread within each layer (log axis): box from 25 to 75 %, whiskers from 1 to 99 %, a marker at the median.

    Only the quantiles travel to the browser.
    """
    quantiles = score_quantiles(table, kind)
    measured = np.flatnonzero(~np.isnan(quantiles[:, 0]))
    shown = positive(quantiles[measured])
    low, lower, median, upper, high = shown.T
    boxes = {
        "type": "box",
        "name": t(f"chart.kind.{kind}"),
        "x": measured,
        "lowerfence": low,
        "q1": lower,
        "median": median,
        "q3": upper,
        "upperfence": high,
        "width": 0.6,
        "line": {"color": COLOURS[kind], "width": 1.5},
        "hoverinfo": "skip",
        "meta": {"kind": kind},
    }
    medians = {
        "type": "scatter",
        "mode": "markers",
        "name": t("chart.distribution.median"),
        "x": measured,
        "y": median,
        "marker": {"color": COLOURS[kind], "symbol": "diamond", "size": 7},
        "customdata": quantiles[measured],
        "hovertemplate": hover(
            t(
                "chart.distribution.hover",
                layer="%{x}",
                low="%{customdata[0]:.4e}",
                lower="%{customdata[1]:.4e}",
                median="%{customdata[2]:.4e}",
                upper="%{customdata[3]:.4e}",
                high="%{customdata[4]:.4e}",
            )
        ),
        "meta": {"kind": kind},
    }
    return figure_of(
        [boxes, medians],
        t(f"chart.distribution.title.{kind}"),
        f"distribution-{kind}",
        HEIGHT,
        hovermode="x",
        xaxis=layer_axis(table.shape.num_layers, t),
        yaxis={"title": t("chart.heatmap.colour"), "type": "log", "exponentformat": "power"},
    )


# two methods ----------------------------------------------------------------------------------------------------------


def rank_scatter_data(comparison: MethodComparison, kind: str, max_points: int = _MAX_RANKS) -> np.ndarray:
    """Places in `comparison.positions` that are drawn: all attention groups, MLP channels evenly by the first rank."""
    of_kind = np.flatnonzero(comparison.groups.is_mlp[comparison.positions] == (kind == MLP))
    if kind == ATTENTION or len(of_kind) <= max_points:
        return of_kind
    by_rank = of_kind[np.argsort(comparison.first_rank[of_kind], kind="stable")]
    return by_rank[evenly(len(by_rank), max_points)]


def rank_scatter(comparison: MethodComparison, t: Translate, shared: Overlap | None = None) -> go.Figure:
    """The rank of each group under two methods; the title has Spearman's correlation, and what two plans cut alike."""
    traces = [_rank_trace(comparison, kind, t) for kind in (MLP, ATTENTION)]  # the few diamonds are drawn on top
    spearman = f"{comparison.spearman['all']:.3f}"
    if shared is None:
        title = t("chart.ranks.title", spearman=spearman)
    else:
        title = t("chart.ranks.title.overlap", spearman=spearman, share=percent(shared.share))
    first, second = comparison.methods
    return figure_of(
        traces,
        title,
        "ranks",
        TALL,
        xaxis={"title": t("chart.ranks.axis", method=first), "rangemode": "tozero"},
        yaxis={"title": t("chart.ranks.axis", method=second), "rangemode": "tozero"},
    )


def _rank_trace(comparison: MethodComparison, kind: str, t: Translate) -> dict:
    shown = rank_scatter_data(comparison, kind)
    at = comparison.positions[shown]
    groups = comparison.groups
    symbol, size = ("diamond", 8) if kind == ATTENTION else ("circle", 3)
    first, second = comparison.methods
    return {
        "type": "scattergl" if len(shown) > _MANY_GROUPS else "scatter",
        "mode": "markers",
        "name": t("chart.ranks.name", kind=t(f"chart.kind.{kind}"), spearman=f"{comparison.spearman[kind]:.3f}"),
        "x": comparison.first_rank[shown],
        "y": comparison.second_rank[shown],
        "marker": {"color": COLOURS[kind], "symbol": symbol, "size": size},
        "customdata": np.stack([groups.layer_idx[at], groups.group_idx[at]], axis=1),
        "hovertemplate": hover(
            t(
                f"chart.ranks.hover.{kind}",
                layer="%{customdata[0]}",
                group="%{customdata[1]}",
                first=first,
                second=second,
                first_rank="%{x:,}",
                second_rank="%{y:,}",
            )
        ),
        "meta": {"kind": kind},
    }
