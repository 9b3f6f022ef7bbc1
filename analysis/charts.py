"""Plans, scores and results as Plotly figures: data in, figure out.

    importance   importance_heatmap, layer_importance_bars
    plan         pruning_rates, groups_cut, score_curve
    result       sparsity_bars, parameter_shares, perplexity_bars

Where numbers must be made first, `..._data` makes them (numpy only) and the other function draws them. Words come from `t`,
the translation function: `t("chart.rates.title", share="25 %")`. Backgrounds are transparent and colours hold on light and
dark; series differ by pattern, symbol or dash as well as by colour. Knows nothing about streamlit, torch or files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pruning.planning.allocation import Floors, Protection, removable
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP, ModelShape

Translate = Callable[..., str]

# After Okabe and Ito: told apart by all common kinds of colour blindness. Each has 3 : 1 on white and on dark.
COLOURS = {
    ATTENTION: "#3B8FD4",
    MLP: "#CB8200",
    "embeddings": "#CC79A7",
    "norms": "#009E73",
    "protected": "#8A919C",
    "cut": "#D55E00",
    "kept": "#6895B5",
    "target": "#C2569A",
    "actual": "#12A07A",
}
_PATTERNS = {ATTENTION: "", MLP: "\\", "protected": "/", "cut": "x", "kept": "", "embeddings": ".", "norms": "-"}
_STAGES = ("before", "after", "repaired", "recovered")
_STAGE_COLOURS = dict(zip(_STAGES, ("kept", "cut", MLP, "actual"), strict=True))
_STAGE_PATTERNS = dict(zip(_STAGES, ("", "x", "/", "."), strict=True))

HEIGHT = 380
TALL = 480
_SMALL = 240
_GRID = "rgba(128, 136, 149, 0.25)"
_TEXT = "#737B87"  # 4.3 : 1 on white and on Streamlit's dark background; a theme may replace it
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": _TEXT, "size": 12},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "xaxis": {"gridcolor": _GRID, "zeroline": False, "automargin": True},
        "yaxis": {"gridcolor": _GRID, "zeroline": False, "automargin": True},
    }
)
_READABLE_LAYERS = 40  # up to this many, every layer index is written under the axis
_MAX_BINS = 256
_MAX_POINTS = 2000
_LOG_RATIO = 10  # bars whose largest value is more than this many times the smallest stand on a log axis


# importance -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeatmapData:
    """Mean score per layer and bin of groups. `first` and `last` are the group indices of each bin, inclusive."""

    kind: str
    score: np.ndarray  # [bins, layers] float64, NaN where nothing was measured
    first: np.ndarray  # [bins] int64
    last: np.ndarray  # [bins] int64


def importance_heatmap_data(table: GroupTable, kind: str, max_bins: int = _MAX_BINS) -> HeatmapData:
    """Scores of one kind of group; neighbouring indices share a bin where there are more than `max_bins`."""
    groups, layers = table.groups, table.shape.num_layers
    width = max(layer.group_count(kind) for layer in table.shape.layers)
    bins = min(width, max_bins)
    at = table.order[groups.is_mlp[table.order] == (kind == MLP)]
    bin_idx = groups.group_idx[at].astype(np.int64) * bins // max(width, 1)
    cell = bin_idx * layers + groups.layer_idx[at]
    sums = np.bincount(cell, weights=table.score[at], minlength=bins * layers)
    counts = np.bincount(cell, minlength=bins * layers)
    mean = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    edges = -(-np.arange(bins + 1) * width // max(bins, 1))  # first index whose bin is at least this one
    return HeatmapData(kind, mean.reshape(bins, layers), edges[:-1], edges[1:] - 1)


def importance_heatmap(table: GroupTable, kind: str, t: Translate, max_bins: int = _MAX_BINS) -> go.Figure:
    """Layers x groups, coloured by score (importance per parameter) on a log scale."""
    data = importance_heatmap_data(table, kind, max_bins)
    bins, layers = data.score.shape
    per_bin = int((data.last - data.first).max()) + 1 if bins else 1
    log_score = np.log10(_positive(data.score))
    ranges = np.broadcast_to(np.stack([data.first, data.last], axis=1)[:, None, :], (bins, layers, 2))
    ticks = np.linspace(np.nanmin(log_score), np.nanmax(log_score), 5) if np.isfinite(log_score).any() else []
    heatmap = go.Heatmap(
        z=log_score,
        y=data.first,
        customdata=np.concatenate([ranges, data.score[:, :, None]], axis=2),
        colorscale="Viridis",
        colorbar={
            "title": {"text": t("chart.heatmap.colour"), "side": "right"},
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.1e}" for tick in ticks],
        },
        hovertemplate=t(
            f"chart.heatmap.hover.{'one' if per_bin == 1 else 'bin'}",
            layer="%{x}",
            first="%{customdata[0]}",
            last="%{customdata[1]}",
            score="%{customdata[2]:.6e}",
        )
        + "<extra></extra>",
    )
    step = {"dtick": 1} if bins <= _READABLE_LAYERS and per_bin == 1 else {}
    return _figure(
        [heatmap],
        t(f"chart.heatmap.title.{kind}" if per_bin == 1 else "chart.heatmap.title.binned", per_bin=per_bin),
        f"heatmap-{kind}",
        HEIGHT if kind == ATTENTION else TALL,
        xaxis=_layer_axis(layers, t),
        yaxis={"title": t(f"chart.axis.{kind}_index")} | step,
    )


def layer_importance_bars(
    table: GroupTable, t: Translate, log: bool = False, protection: Protection | None = None
) -> go.Figure:
    """Summed group importance of each layer: attention and MLP stacked; side by side on a log axis, where stacking lies.

    Layers that `protection` spares altogether are shaded.
    """
    layers = table.shape.num_layers
    sums = table.block_importance
    bars = [
        _bars(np.arange(layers), sums[:, column], kind, t(f"chart.kind.{kind}"))
        | {
            "hovertemplate": t(
                "chart.layer_importance.hover", layer="%{x}", kind=t(f"chart.kind.{kind}"), importance="%{y:.6g}"
            )
            + "<extra></extra>"
        }
        for column, kind in enumerate(GROUP_TYPES)
    ]
    spared = [] if protection is None else np.flatnonzero(~protection.cuttable(layers).any(axis=1))
    return _figure(
        bars,
        t("chart.layer_importance.title"),
        "layer-importance",
        HEIGHT,
        barmode="group" if log else "stack",
        xaxis=_layer_axis(layers, t),
        yaxis={"title": t("chart.layer_importance.axis"), "type": "log" if log else "linear"},
        shapes=_shading(spared, t("chart.protected")),
    )


# the plan -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatesData:
    """What a plan removes from each layer, and why it spares what it spares."""

    share: np.ndarray  # [layers, 2] removed attention, MLP; shares of the layer's prunable parameters
    removed: np.ndarray  # [layers, 2] int64, parameters
    protected: list[tuple[str, str]]  # per layer, for attention and MLP: "" (may be cut), "range" or "named"
    actual: float  # removed share of all parameters of the model
    target: float | None  # `pruning_ratio` of the plan's settings
    basis: str  # what the target refers to: model or selected


def pruning_rates_data(plan: PruningPlan, protection: Protection) -> RatesData:
    """Per-layer rates of a plan; the target is the one in `plan.settings`."""
    layers = plan.shape.layers
    prunable = np.array([layer.attention_parameters + layer.mlp_parameters for layer in layers])
    return RatesData(
        share=plan.removed_parameters / np.maximum(prunable, 1)[:, None],
        removed=plan.removed_parameters,
        protected=protection_reasons(protection, plan.shape.num_layers),
        actual=plan.actual_ratio,
        target=plan.settings.get("pruning_ratio"),
        basis=plan.settings.get("ratio_basis", "model"),
    )


def protection_reasons(protection: Protection, num_layers: int) -> list[tuple[str, str]]:
    """Why each layer's attention and MLP may not be cut: "named", "range" (outside the range), or "" if they may."""
    return [
        tuple(
            "named" if layer in protection.named else "" if layer in cut_range else "range"
            for cut_range in (protection.attention, protection.mlp)
        )
        for layer in range(num_layers)
    ]


def pruning_rates(plan: PruningPlan, protection: Protection, t: Translate) -> go.Figure:
    """Removed share of each layer's prunable parameters; protected layers hatched, with the reason on hover."""
    data = pruning_rates_data(plan, protection)
    layers = len(data.share)
    traces = [
        _bars(np.arange(layers), data.share[:, column], kind, t(f"chart.kind.{kind}"))
        | {
            "customdata": np.stack([data.removed[:, column], data.share.sum(axis=1)], axis=1),
            "hovertemplate": t(
                "chart.rates.hover",
                layer="%{x}",
                kind=t(f"chart.kind.{kind}"),
                share="%{y:.2%}",
                removed="%{customdata[0]:,}",
                total="%{customdata[1]:.2%}",
            )
            + "<extra></extra>",
        }
        for column, kind in enumerate(GROUP_TYPES)
    ]
    traces += _protected_bars(data, protection, t)
    traces += _whole_model_lines(data.target, data.basis, data.actual, layers, t)
    return _figure(
        traces,
        t("chart.rates.title"),
        "rates",
        HEIGHT,
        barmode="stack",
        xaxis=_layer_axis(layers, t),
        yaxis={"title": t("chart.rates.axis"), "tickformat": ".0%", "range": [0, 1]},
    )


def groups_cut(plan: PruningPlan, t: Translate) -> go.Figure:
    """Kept and cut attention groups (above) and MLP channels (below) of each layer."""
    before = plan.groups.block_sizes.reshape(-1, 2)
    layers = plan.shape.num_layers
    traces = []
    for column, kind in enumerate(GROUP_TYPES):
        counts = {"kept": plan.kept_counts[:, column], "cut": before[:, column] - plan.kept_counts[:, column]}
        for state, values in counts.items():
            traces.append(
                _bars(np.arange(layers), values, state, t(f"chart.{state}"))
                | {
                    "yaxis": "y2" if kind == ATTENTION else "y",
                    "legendgroup": state,
                    "showlegend": kind == ATTENTION,
                    "customdata": np.stack([counts["kept"], counts["cut"], before[:, column]], axis=1),
                    "hovertemplate": t(
                        f"chart.groups_cut.hover.{kind}",
                        layer="%{x}",
                        kept="%{customdata[0]:,}",
                        cut="%{customdata[1]:,}",
                        before="%{customdata[2]:,}",
                    )
                    + "<extra></extra>",
                }
            )
    return _figure(
        traces,
        t("chart.groups_cut.title"),
        "groups-cut",
        TALL,
        barmode="stack",
        xaxis=_layer_axis(layers, t),
        yaxis={"title": t("chart.axis.mlp_channels"), "domain": [0, 0.46]},
        yaxis2={"title": t("chart.axis.attention_groups"), "domain": [0.54, 1], "anchor": "x", "gridcolor": _GRID},
    )


@dataclass(frozen=True)
class CurvePart:
    """Sampled groups of one kind, in the order in which they would go."""

    rank: np.ndarray  # [points] place in the list, 1 goes first
    share: np.ndarray  # [points] share of all parameters that is gone once this group is
    score: np.ndarray  # [points] importance per parameter
    layer_idx: np.ndarray  # [points]
    group_idx: np.ndarray  # [points]
    removed: np.ndarray  # [points] bool


@dataclass(frozen=True)
class CurveData:
    """All groups that may go, lowest score first; `total` counts them before sampling.

    `cuts` are the shares at which the cut falls: one (key "all") if the plan removes the first groups of the list, one per
    kind if it does so within each kind (a fixed split), none for a plan made by hand.
    """

    parts: dict[str, CurvePart]
    cuts: dict[str, float]
    total: int


def score_curve_data(
    table: GroupTable, plan: PruningPlan, protection: Protection, floors: Floors = Floors(), max_points: int = _MAX_POINTS
) -> CurveData:
    """The list `allocate_global` cuts from, at most `max_points` per kind: evenly spaced by rank, ends included."""
    candidates = removable(table, protection, floors)
    groups = table.groups
    share = np.cumsum(groups.cost[candidates]) / table.shape.parameters
    is_mlp = groups.is_mlp[candidates]
    removed = ~plan.kept[candidates]
    places = {ATTENTION: np.flatnonzero(~is_mlp), MLP: np.flatnonzero(is_mlp)}
    parts = {}
    for kind, of_kind in places.items():
        sampled = of_kind[_evenly(len(of_kind), max_points)]
        at = candidates[sampled]
        parts[kind] = CurvePart(
            sampled + 1, share[sampled], table.score[at], groups.layer_idx[at], groups.group_idx[at], removed[sampled]
        )
    if _is_prefix(removed):
        cuts = {"all": _share_at_cut(share, removed)}
    elif all(_is_prefix(removed[of_kind]) for of_kind in places.values()):
        cuts = {kind: _share_at_cut(share[of_kind], removed[of_kind]) for kind, of_kind in places.items()}
    else:
        cuts = {}
    return CurveData(parts, cuts, len(candidates))


def score_curve(
    table: GroupTable, plan: PruningPlan, protection: Protection, t: Translate, floors: Floors = Floors()
) -> go.Figure:
    """Score (log axis) over the share of parameters gone, lowest score first, with the cut as a line."""
    data = score_curve_data(table, plan, protection, floors)
    scores = np.concatenate([part.score for part in data.parts.values()])
    floor = _smallest_positive(scores)
    traces = [
        _curve_trace(part, kind, state, floor, t)
        for kind, part in ((kind, data.parts[kind]) for kind in (MLP, ATTENTION))
        for state in ("cut", "kept")
        if len(part.rank)
    ]
    decades = np.log10(scores.max(initial=floor) / floor)
    step = {"dtick": 1} if decades > 2 else {}  # only whole powers of ten, where the axis has some
    return _figure(
        traces,
        t("chart.curve.title", groups=f"{data.total:,}"),
        "curve",
        HEIGHT,
        xaxis={"title": t("chart.curve.axis.share"), "tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"title": t("chart.curve.axis.score"), "type": "log", "exponentformat": "power"} | step,
        shapes=[_cut_line(key, share) for key, share in data.cuts.items()],
        annotations=[_cut_label(key, share, t) for key, share in data.cuts.items()],
    )


def _curve_trace(part: CurvePart, kind: str, state: str, floor: float, t: Translate) -> dict:
    """MLP channels are a line (cut: solid, kept: dotted), attention groups diamonds (cut: filled, kept: open)."""
    shown = part.removed == (state == "cut")
    colour = COLOURS[kind]
    if kind == MLP:
        look = {"mode": "lines", "line": {"color": colour, "width": 3 if state == "cut" else 2, "dash": _dash(state)}}
    else:
        symbol = "diamond" if state == "cut" else "diamond-open"
        look = {"mode": "markers", "marker": {"color": colour, "size": 8, "symbol": symbol}}
    return look | {
        "type": "scatter",
        "name": t(f"chart.curve.{state}", kind=t(f"chart.kind.{kind}")),
        "x": part.share,
        "y": np.where(shown, np.maximum(part.score, floor), np.nan),
        "customdata": np.stack([part.layer_idx, part.group_idx, part.rank, part.score], axis=1),
        "hovertemplate": t(
            f"chart.curve.hover.{kind}",
            layer="%{customdata[0]}",
            group="%{customdata[1]}",
            rank="%{customdata[2]:,}",
            score="%{customdata[3]:.6e}",
            share="%{x:.2%}",
        )
        + "<extra></extra>",
    }


def _dash(state: str) -> str:
    return "solid" if state == "cut" else "dot"


def _cut_line(key: str, share: float) -> dict:
    line = {"color": COLOURS["cut" if key == "all" else key], "width": 2, "dash": "dash"}
    return {"type": "line", "x0": share, "x1": share, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _cut_label(key: str, share: float, t: Translate) -> dict:
    at_bottom = key == MLP  # two lines may stand close to each other; their labels do not
    return {
        "text": t(f"chart.curve.cut.{key}", share=_percent(share)),
        "font": {"color": COLOURS["cut" if key == "all" else key]},
        "showarrow": False,
        "x": share,
        "xanchor": "left",
        "xshift": 4,
        "yref": "paper",
        "y": 0 if at_bottom else 1,
        "yanchor": "bottom" if at_bottom else "top",
    }


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0 .. count - 1, evenly spaced, first and last among them."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)


def _is_prefix(removed: np.ndarray) -> bool:
    return bool(removed[: np.count_nonzero(removed)].all())


def _share_at_cut(share: np.ndarray, removed: np.ndarray) -> float:
    count = np.count_nonzero(removed)
    return float(share[count - 1]) if count else 0.0


# results --------------------------------------------------------------------------------------------------------------


def sparsity_bars(layers: pd.DataFrame, plan: PruningPlan, t: Translate) -> go.Figure:
    """Sparsity of each layer (`layers`: a layer table of analysis/diff.py) against what the plan asked of this layer."""
    numbers = layers["layer_idx"].to_numpy()
    hover = layers[["planned_sparsity", "params_before", "params_after"]].to_numpy()
    hovertemplate = (
        t(
            "chart.sparsity.hover",
            layer="%{x}",
            actual="%{y:.4%}",
            planned="%{customdata[0]:.4%}",
            before="%{customdata[1]:,}",
            after="%{customdata[2]:,}",
        )
        + "<extra></extra>"
    )
    bars = _bars(numbers, layers["sparsity"].to_numpy(), "cut", t("chart.sparsity.actual"))
    planned = {
        "type": "scatter",
        "mode": "markers",
        "name": t("chart.sparsity.planned"),
        "x": numbers,
        "y": layers["planned_sparsity"].to_numpy(),
        "marker": {"symbol": "line-ew", "size": 14, "line": {"color": _TEXT, "width": 3}},
        "hoverinfo": "skip",
    }
    target, basis = plan.settings.get("pruning_ratio"), plan.settings.get("ratio_basis", "model")
    lines = _whole_model_lines(target, basis, plan.actual_ratio, len(layers), t)
    bars |= {"customdata": hover, "hovertemplate": hovertemplate}
    return _figure(
        [bars, planned, *lines],
        t("chart.sparsity.title"),
        "sparsity",
        HEIGHT,
        xaxis=_layer_axis(len(layers), t),
        yaxis={"title": t("chart.sparsity.axis"), "tickformat": ".0%", "rangemode": "tozero"},
    )


def parameter_shares(shape: ModelShape, t: Translate) -> go.Figure:
    """Parameters of each component as horizontal bars, each with its share of the whole."""
    components = shape.components
    values = list(components.values())
    shares = [value / shape.parameters for value in values]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": [t(f"chart.kind.{kind}") for kind in components],
        "text": [_percent(share) for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": shares,
        "marker": _marker(list(components)),
        "hovertemplate": t("chart.shares.hover", kind="%{y}", parameters="%{x:,}", share="%{customdata:.4%}")
        + "<extra></extra>",
    }
    return _figure(
        [bars],
        t("chart.shares.title", total=f"{shape.parameters:,}"),
        "shares",
        _SMALL,
        xaxis={"title": t("chart.axis.parameters"), "range": [0, max(values) * 1.15]},
        yaxis={"autorange": "reversed"},
    )


def perplexity_bars_data(metrics: dict) -> dict[str, dict[str, float]]:
    """Stage (before, after, repaired, recovered) -> dataset -> perplexity, of what was measured."""
    measured = metrics.get("perplexity") or {}
    stages = {stage: {k: v for k, v in (measured.get(stage) or {}).items() if v is not None} for stage in _STAGES}
    return {stage: values for stage, values in stages.items() if values}


def perplexity_bars(metrics: dict, t: Translate) -> go.Figure:
    """Perplexity of each stage of the model, by dataset; `metrics` is the content of metrics.json."""
    stages = perplexity_bars_data(metrics)
    traces = [
        {
            "type": "bar",
            "name": t(f"chart.stage.{stage}"),
            "x": list(values),
            "y": list(values.values()),
            "text": [f"{value:,.2f}" for value in values.values()],
            "textposition": "outside",
            "cliponaxis": False,
            "marker": _marker(_STAGE_COLOURS[stage], _STAGE_PATTERNS[stage]),
            "hovertemplate": t("chart.perplexity.hover", stage=t(f"chart.stage.{stage}"), dataset="%{x}", value="%{y:,.6g}")
            + "<extra></extra>",
        }
        for stage, values in stages.items()
    ]
    basis = metrics.get("basis") or {}
    known = {"windows", "seq_len"} <= basis.keys()
    title = t("chart.perplexity.axis.basis", **basis) if known else t("chart.perplexity.axis")
    numbers = [value for values in stages.values() for value in values.values()]
    wide = bool(numbers) and max(numbers) > _LOG_RATIO * min(numbers) > 0
    yaxis = {"title": title, "type": "log" if wide else "linear"}
    return _figure(traces, t("chart.perplexity.title"), "perplexity", HEIGHT, yaxis=yaxis)


# what the charts share ------------------------------------------------------------------------------------------------


def _figure(traces: list, title: str, name: str, height: int, **layout) -> go.Figure:
    """A figure of fixed height; `uirevision` keeps the zoom while only the numbers change.

    The whole layout goes in at once: each `update_layout` would check it again and cost milliseconds.
    """
    return go.Figure(
        data=traces,
        layout={
            "template": _TEMPLATE,
            "title": {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
            "height": height,
            "margin": {"l": 60, "r": 20, "t": 45, "b": 50},
            "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "traceorder": "normal"},
            "uirevision": name,
            "bargap": 0.2,
            "hovermode": "closest",
        }
        | layout,
    )


def _layer_axis(layers: int, t: Translate) -> dict:
    step = {"dtick": 1, "tickfont": {"size": 10}, "tickangle": 0} if layers <= _READABLE_LAYERS else {}
    return {"title": t("chart.axis.layer"), "range": [-0.6, layers - 0.4]} | step


def _bars(x: np.ndarray, y: np.ndarray, look: str, name: str) -> dict:
    return {"type": "bar", "name": name, "x": x, "y": y, "marker": _marker(look)}


def _marker(look: str | list[str], pattern: str | None = None) -> dict:
    colour = COLOURS[look] if isinstance(look, str) else [COLOURS[one] for one in look]
    shape = pattern if pattern is not None else _PATTERNS[look] if isinstance(look, str) else [_PATTERNS[one] for one in look]
    return {
        "color": colour,
        "line": {"width": 0},
        "pattern": {"shape": shape, "size": 6, "solidity": 0.25, "fgcolor": "rgba(20, 24, 32, 0.55)", "fillmode": "overlay"},
    }


def _protected_bars(data: RatesData, protection: Protection, t: Translate) -> list[dict]:
    """Hatched columns that fill what is not cut: a series for wholly protected layers, one each if only one kind is."""
    series = {"both": [], ATTENTION: [], MLP: []}
    for layer, (attention, mlp) in enumerate(data.protected):
        if attention or mlp:
            series["both" if attention and mlp else ATTENTION if attention else MLP].append(layer)
    traces = []
    for key, layers in series.items():
        if layers:
            reasons = [_reason_text(data.protected[layer], protection, t) for layer in layers]
            traces.append(
                {
                    "type": "bar",
                    "name": t(f"chart.protected.{key}"),
                    "x": layers,
                    "y": 1 - data.share.sum(axis=1)[layers],
                    "customdata": reasons,
                    "hovertemplate": t("chart.rates.hover.protected", layer="%{x}", reason="%{customdata}") + "<extra></extra>",
                    "marker": _hatched(COLOURS["protected" if key == "both" else key]),
                }
            )
    return traces


def _hatched(colour: str) -> dict:
    pattern = {"shape": "/", "size": 8, "solidity": 0.15, "fgcolor": colour, "bgcolor": "rgba(0, 0, 0, 0)"}
    return {"color": colour, "line": {"width": 0}, "opacity": 0.6, "pattern": pattern | {"fillmode": "replace"}}


def _reason_text(reasons: tuple[str, str], protection: Protection, t: Translate) -> str:
    lines = []
    for kind, reason, cut_range in zip(GROUP_TYPES, reasons, (protection.attention, protection.mlp), strict=True):
        if reason:
            text = t(f"chart.protected.reason.{reason}", first=cut_range.start, last=cut_range.stop - 1)
            lines.append(f"{t(f'chart.kind.{kind}')}: {text}")
    return "<br>".join(lines)


def _whole_model_lines(target: float | None, basis: str, actual: float, layers: int, t: Translate) -> list[dict]:
    """Target and actual of the whole model as two labelled lines across all layers."""
    lines = [("actual", actual, "dot", t("chart.line.actual", share=_percent(actual)))]
    if target is not None:
        lines.insert(0, ("target", target, "dash", t(f"chart.line.target.{basis}", share=_percent(target))))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": [-0.5, layers - 0.5],
            "y": [share, share],
            "line": {"color": COLOURS[look], "width": 2, "dash": dash},
            "hovertemplate": label + "<extra></extra>",
        }
        for look, share, dash, label in lines
    ]


def _shading(layers: np.ndarray, label: str) -> list[dict]:
    """Grey areas over the whole height, one for each run of neighbouring layers."""
    runs = np.split(layers, np.flatnonzero(np.diff(layers) > 1) + 1) if len(layers) else []
    return [
        {
            "type": "rect",
            "layer": "below",
            "x0": run[0] - 0.5,
            "x1": run[-1] + 0.5,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": "rgba(138, 145, 156, 0.25)",
            "label": {"text": label, "textposition": "top center", "font": {"size": 10}},
        }
        for run in runs
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", "\u00a0%")


def _smallest_positive(scores: np.ndarray) -> float:
    positive = scores[scores > 0]
    return float(positive.min()) if len(positive) else 1.0


def _positive(scores: np.ndarray) -> np.ndarray:
    """Scores for a log scale: zeros stand at the smallest positive one (the hover text has the true value)."""
    return np.maximum(scores, _smallest_positive(scores))
