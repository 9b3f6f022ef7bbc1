"""Charts of a plan: what goes from each layer and why, where the cut falls, how two plans differ."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from pruning.palette import COLOURS
from pruning.planning.allocation import Floors, removable
from pruning.planning.comparison import overlap
from pruning.planning.group_table import GroupTable
from pruning.planning.layer_rates import LayerRates
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP

from .frame import (
    HEIGHT,
    ON_BARS,
    SMALL,
    TALL,
    TEXT,
    Translate,
    attention_above_mlp,
    bars,
    evenly,
    figure_of,
    hatched,
    hover,
    layer_axis,
    marker,
    panel_of,
    percent,
    prunable_parameters,
    smallest_positive,
    whole_model_lines,
)

_MAX_POINTS = 2000
_STATES = ("cut", "kept")


# layers ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatesData:
    """What a plan removes from each layer, and why it spares what it spares."""

    share: np.ndarray  # [layers, 2] removed attention, MLP; shares of the layer's prunable parameters
    removed: np.ndarray  # [layers, 2] int64, parameters
    protected: list[tuple[str, str]]  # per layer, for attention and MLP: see protection_reasons


def pruning_rates_data(plan: PruningPlan, protection: Protection) -> RatesData:
    """Per-layer rates of a plan."""
    prunable = prunable_parameters(plan.shape).sum(axis=1)
    return RatesData(
        share=plan.removed_parameters / np.maximum(prunable, 1)[:, None],
        removed=plan.removed_parameters,
        protected=protection_reasons(protection, plan.shape.num_layers),
    )


def protection_reasons(protection: Protection, num_layers: int) -> list[tuple[str, str]]:
    """Why each layer's attention and MLP may not be cut, "" if they may.

    "named", "frozen" (among the most important), or "range" (outside the range); the first of these that holds.
    """

    def reason(layer: int, cut_range: range) -> str:
        if layer in protection.named:
            return "named"
        if layer in protection.frozen:
            return "frozen"
        return "" if layer in cut_range else "range"

    return [(reason(layer, protection.attention), reason(layer, protection.mlp)) for layer in range(num_layers)]


def pruning_rates(plan: PruningPlan, protection: Protection, t: Translate, rates: LayerRates | None = None) -> go.Figure:
    """Removed share of each layer's prunable parameters; protected layers hatched, with the reason on hover.

    With `rates`, the rate computed for each layer is drawn around it as an outline, for protected layers too; hovering on any
    bar names both rates.
    """
    data = pruning_rates_data(plan, protection)
    layers = len(data.share)
    computed = [""] * layers if rates is None else _rate_texts(rates, t)
    traces = [
        bars(np.arange(layers), data.share[:, column], kind, t(f"chart.kind.{kind}"), kind)
        | {
            "customdata": np.stack([data.removed[:, column], data.share.sum(axis=1)], axis=1),
            "hovertext": computed,
            "hovertemplate": hover(
                t(
                    "chart.rates.hover",
                    layer="%{x}",
                    kind=t(f"chart.kind.{kind}"),
                    share="%{y:.2%}",
                    removed="%{customdata[0]:,}",
                    total="%{customdata[1]:.2%}",
                )
                + "%{hovertext}"
            ),
        }
        for column, kind in enumerate(GROUP_TYPES)
    ]
    reasons = [_reason_text(layer, data.protected[layer], protection, t) for layer in range(layers)]
    traces += _protected_bars(data, reasons, computed, t)
    if rates is not None:
        traces.append(_computed_rates(rates, t))
    traces += whole_model_lines(plan, t)
    return figure_of(
        traces,
        t("chart.rates.title"),
        "rates",
        HEIGHT,
        barmode="stack",
        xaxis=layer_axis(layers, t),
        yaxis={"title": t("chart.rates.axis"), "tickformat": ".0%", "range": [0, 1]},
    )


def _rate_texts(rates: LayerRates, t: Translate) -> list[str]:
    """What hovering adds for each layer."""
    pairs = zip(rates.computed, rates.applied, strict=True)
    return [
        "<br>" + t("chart.rates.hover.computed", computed=percent(computed), applied=percent(applied))
        for computed, applied in pairs
    ]


def _computed_rates(rates: LayerRates, t: Translate) -> dict:
    """Hollow bars. A base of their own keeps them out of the stack; clicks and hovers go to the bars under them."""
    layers = len(rates.computed)
    return {
        "type": "bar",
        "name": t("chart.rates.computed"),
        "x": np.arange(layers),
        "y": rates.computed,
        "base": np.zeros(layers),
        "marker": {"color": "rgba(0, 0, 0, 0)", "line": {"color": TEXT, "width": 2}},
        "hoverinfo": "skip",
        "meta": {"kind": "layer"},
    }


def _protected_bars(data: RatesData, reasons: list[str], computed: list[str], t: Translate) -> list[dict]:
    """Hatched columns that fill what is not cut: a series for wholly protected layers, one each if only one kind is."""
    series = {"both": [], ATTENTION: [], MLP: []}
    for layer, (attention, mlp) in enumerate(data.protected):
        if attention or mlp:
            series["both" if attention and mlp else ATTENTION if attention else MLP].append(layer)
    return [
        {
            "type": "bar",
            "name": t(f"chart.protected.{key}"),
            "x": layers,
            "y": 1 - data.share.sum(axis=1)[layers],
            "customdata": [reasons[layer] for layer in layers],
            "hovertext": [computed[layer] for layer in layers],
            "hovertemplate": hover(t("chart.rates.hover.protected", layer="%{x}", reason="%{customdata}") + "%{hovertext}"),
            "marker": hatched(COLOURS["protected" if key == "both" else key]),
            "meta": {"kind": "layer" if key == "both" else key},
        }
        for key, layers in series.items()
        if layers
    ]


def _reason_text(layer: int, reasons: tuple[str, str], protection: Protection, t: Translate) -> str:
    rank = protection.frozen.index(layer) + 1 if layer in protection.frozen else 0
    lines = []
    for kind, reason, cut_range in zip(GROUP_TYPES, reasons, (protection.attention, protection.mlp), strict=True):
        if reason:
            text = t(f"chart.protected.reason.{reason}", first=cut_range.start, last=cut_range.stop - 1, rank=rank)
            lines.append(f"{t(f'chart.kind.{kind}')}: {text}")
    return "<br>".join(lines)


def groups_cut(plan: PruningPlan, t: Translate) -> go.Figure:
    """Kept and cut attention groups (above) and MLP channels (below) of each layer."""
    before = plan.groups.block_sizes.reshape(-1, 2)
    layers = plan.shape.num_layers
    traces = []
    for column, kind in enumerate(GROUP_TYPES):
        counts = {"kept": plan.kept_counts[:, column], "cut": before[:, column] - plan.kept_counts[:, column]}
        for state, values in counts.items():
            traces.append(
                bars(np.arange(layers), values, state, t(f"chart.{state}"), kind)
                | {
                    "yaxis": panel_of(kind),
                    "legendgroup": state,
                    "showlegend": kind == ATTENTION,
                    "customdata": np.stack([counts["kept"], counts["cut"], before[:, column]], axis=1),
                    "hovertemplate": hover(
                        t(
                            f"chart.groups_cut.hover.{kind}",
                            layer="%{x}",
                            kept="%{customdata[0]:,}",
                            cut="%{customdata[1]:,}",
                            before="%{customdata[2]:,}",
                        )
                    ),
                }
            )
    return figure_of(
        traces,
        t("chart.groups_cut.title"),
        "groups-cut",
        TALL,
        barmode="stack",
        xaxis=layer_axis(layers, t, narrow=True),
        **attention_above_mlp(t),
    )


def removed_parameters(plan: PruningPlan, t: Translate) -> go.Figure:
    """Parameters that go from each layer, attention and MLP stacked."""
    removed = plan.removed_parameters
    layers = plan.shape.num_layers
    traces = [
        bars(np.arange(layers), removed[:, column], kind, t(f"chart.kind.{kind}"), kind)
        | {
            "customdata": np.stack([removed.sum(axis=1), removed[:, column] / plan.shape.parameters], axis=1),
            "hovertemplate": hover(
                t(
                    "chart.removed.hover",
                    layer="%{x}",
                    kind=t(f"chart.kind.{kind}"),
                    removed="%{y:,}",
                    total="%{customdata[0]:,}",
                    share="%{customdata[1]:.3%}",
                )
            ),
        }
        for column, kind in enumerate(GROUP_TYPES)
    ]
    return figure_of(
        traces,
        t("chart.removed.title", total=f"{int(removed.sum()):,}"),
        "removed",
        HEIGHT,
        barmode="stack",
        xaxis=layer_axis(layers, t, narrow=True),
        yaxis={"title": t("chart.axis.parameters"), "rangemode": "tozero"},
    )


def balance_data(plan: PruningPlan) -> dict[str, np.ndarray]:
    """Parameters of attention and MLP, [2] int64 each: `prunable`, `removed` by the plan, `kept` of the prunable ones."""
    prunable, removed = prunable_parameters(plan.shape).sum(axis=0), plan.removed_parameters.sum(axis=0)
    return {"prunable": prunable, "removed": removed, "kept": prunable - removed}


def balance(plan: PruningPlan, t: Translate) -> go.Figure:
    """Attention : MLP as shares of the prunable parameters, of what is removed and of what stays; each adds up to 100 %."""
    rows = balance_data(plan)
    labels = [t(f"chart.balance.{row}") for row in rows]
    traces = []
    for column, kind in enumerate(GROUP_TYPES):
        parameters = np.array([of_row[column] for of_row in rows.values()])
        totals = np.array([of_row.sum() for of_row in rows.values()])
        shares = np.divide(parameters, totals, out=np.full(len(totals), np.nan), where=totals > 0)
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": t(f"chart.kind.{kind}"),
                "x": shares,
                "y": labels,
                "text": ["" if np.isnan(share) else percent(share) for share in shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": ON_BARS, "size": 14},
                "customdata": parameters,
                "marker": marker(kind),
                "hovertemplate": hover(
                    t(
                        "chart.balance.hover",
                        row="%{y}",
                        kind=t(f"chart.kind.{kind}"),
                        share="%{x:.2%}",
                        parameters="%{customdata:,}",
                    )
                ),
                "meta": {"kind": kind},
            }
        )
    return figure_of(
        traces,
        t("chart.balance.title"),
        "balance",
        SMALL,
        barmode="stack",
        xaxis={"tickformat": ".0%", "range": [0, 1]},
        yaxis={"autorange": "reversed"},
    )


def plan_difference(first: PruningPlan, second: PruningPlan, names: tuple[str, str], t: Translate) -> go.Figure:
    """Groups of each layer that only one of two plans cuts: the first's upwards, the second's downwards."""
    shared = overlap(first, second)
    layers = first.shape.num_layers
    sides = {"first": (names[0], shared.first_only, 1), "second": (names[1], shared.second_only, -1)}
    traces = []
    for column, kind in enumerate(GROUP_TYPES):
        for look, (name, counts, direction) in sides.items():
            traces.append(
                bars(np.arange(layers), direction * counts[:, column], look, t("chart.difference.only", name=name), kind)
                | {
                    "yaxis": panel_of(kind),
                    "legendgroup": look,
                    "showlegend": kind == ATTENTION,
                    "customdata": np.stack([counts[:, column], shared.both[:, column]], axis=1),
                    "hovertemplate": hover(
                        t(
                            f"chart.difference.hover.{kind}",
                            layer="%{x}",
                            name=name,
                            only="%{customdata[0]:,}",
                            both="%{customdata[1]:,}",
                        )
                    ),
                }
            )
    share, parameter_share = percent(shared.share), percent(shared.parameter_share)
    return figure_of(
        traces,
        t("chart.difference.title", groups=share, parameters=parameter_share),
        "difference",
        TALL,
        barmode="relative",
        xaxis=layer_axis(layers, t),
        **attention_above_mlp(t),
    )


# the curve ------------------------------------------------------------------------------------------------------------


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

    `by_hand` holds those that a person kept or cut; `parts` all others. A group outside the list (protected, or needed for
    a floor) that was cut by hand is drawn where its score would place it.

    `cuts` are the shares at which the cut falls: one (key "all") if the plan removes the first groups of the list, one per
    kind if it does so within each kind (a fixed split), none where each layer has a cut of its own.
    """

    parts: dict[str, CurvePart]
    by_hand: dict[str, CurvePart]
    cuts: dict[str, float]
    total: int


def score_curve_data(
    table: GroupTable, plan: PruningPlan, protection: Protection, floors: Floors = Floors(), max_points: int = _MAX_POINTS
) -> CurveData:
    """The list `allocate_global` cuts from, at most `max_points` per kind: evenly spaced by rank, ends included."""
    candidates = removable(table, protection, floors)
    groups = table.groups
    share = np.cumsum(groups.cost[candidates]) / table.shape.parameters
    is_mlp = groups.block[candidates] % 2 == 1
    removed = ~plan.kept[candidates]
    by_rule = ~np.isin(candidates, plan.by_hand)
    places = {ATTENTION: np.flatnonzero(~is_mlp & by_rule), MLP: np.flatnonzero(is_mlp & by_rule)}

    def part(at: np.ndarray, place: np.ndarray) -> CurvePart:
        block = groups.block[at]
        gone = share[place] if len(share) else np.zeros(len(place))
        return CurvePart(place + 1, gone, table.score[at], block // 2, groups.group_idx[at], ~plan.kept[at])

    parts = {}
    for kind, of_kind in places.items():
        sampled = of_kind[evenly(len(of_kind), max_points)]
        parts[kind] = part(candidates[sampled], sampled)
    by_hand = {}
    for kind in GROUP_TYPES:
        at = _changed_by_hand(table, plan, kind, max_points)
        if len(at):
            by_hand[kind] = part(at, _places_in(candidates, at, table))
    every = np.flatnonzero(by_rule)
    if _is_prefix(removed[every]):
        cuts = {"all": _share_at_cut(share[every], removed[every])}
    elif all(_is_prefix(removed[of_kind]) for of_kind in places.values()):
        cuts = {kind: _share_at_cut(share[of_kind], removed[of_kind]) for kind, of_kind in places.items()}
    else:
        cuts = {}
    return CurveData(parts, by_hand, cuts, len(candidates))


def _changed_by_hand(table: GroupTable, plan: PruningPlan, kind: str, max_points: int) -> np.ndarray:
    """Positions of one kind, lowest score first; those never measured have no score."""
    at = plan.by_hand[plan.groups.block[plan.by_hand] % 2 == (kind == MLP)]
    at = at[~np.isnan(table.score[at])]
    at = at[np.argsort(table.score[at], kind="stable")]
    return at[evenly(len(at), max_points)]


def _places_in(candidates: np.ndarray, at: np.ndarray, table: GroupTable) -> np.ndarray:
    """Place of each position in the list of candidates; by score for those that are not in it."""
    place = np.full(table.groups.size, -1, dtype=np.int64)
    place[candidates] = np.arange(len(candidates))
    by_score = np.searchsorted(table.score[candidates], table.score[at])
    return np.where(place[at] >= 0, place[at], np.minimum(by_score, max(len(candidates) - 1, 0)))


def _is_prefix(removed: np.ndarray) -> bool:
    return bool(removed[: np.count_nonzero(removed)].all())


def _share_at_cut(share: np.ndarray, removed: np.ndarray) -> float:
    count = np.count_nonzero(removed)
    return float(share[count - 1]) if count else 0.0


def score_curve(
    table: GroupTable, plan: PruningPlan, protection: Protection, t: Translate, floors: Floors = Floors()
) -> go.Figure:
    """Score (log axis) over the share of parameters gone, lowest score first, with the cut as a line where there is one."""
    data = score_curve_data(table, plan, protection, floors)
    scores = np.concatenate([part.score for part in (*data.parts.values(), *data.by_hand.values())])
    floor = smallest_positive(scores)
    traces = [
        _curve_trace(data.parts[kind], kind, state, floor, bool(data.cuts), t)
        for kind in (MLP, ATTENTION)
        for state in _STATES
        if len(data.parts[kind].rank)
    ]
    traces += [
        _by_hand_trace(part, kind, state, floor, t)
        for kind, part in data.by_hand.items()
        for state in _STATES
        if (part.removed == (state == "cut")).any()
    ]
    decades = np.log10(scores.max(initial=floor) / floor)
    step = {"dtick": 1} if decades > 2 else {}  # only whole powers of ten, where the axis has some
    return figure_of(
        traces,
        t("chart.curve.title", groups=f"{data.total:,}"),
        "curve",
        HEIGHT,
        xaxis={"title": t("chart.curve.axis.share"), "tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"title": t("chart.curve.axis.score"), "type": "log", "exponentformat": "power"} | step,
        shapes=[_cut_line(key, share) for key, share in data.cuts.items()],
        annotations=[_cut_label(key, share, t) for key, share in data.cuts.items()],
    )


def _curve_trace(part: CurvePart, kind: str, state: str, floor: float, one_cut: bool, t: Translate) -> dict:
    """MLP channels are a line (cut: solid, kept: dotted), attention groups diamonds (cut: filled, kept: open).

    Without one cut for all, cut and kept channels alternate along one curve: then each cut one is a stroke across it, and
    the strokes are the denser the more is cut there.
    """
    colour = COLOURS[kind]
    if kind == ATTENTION:
        symbol = "diamond" if state == "cut" else "diamond-open"
        look = {"mode": "markers", "marker": {"color": colour, "size": 8, "symbol": symbol}}
    elif state == "kept":
        look = {"mode": "lines", "line": {"color": colour, "width": 2, "dash": "dot"}, "connectgaps": not one_cut}
    elif one_cut:
        look = {"mode": "lines", "line": {"color": colour, "width": 3, "dash": "solid"}}
    else:
        stroke = {"symbol": "line-ns-open", "size": 16, "opacity": 0.35, "line": {"width": 1}}
        look = {"mode": "markers", "marker": stroke | {"color": colour}}
    return _points(part, kind, state, floor, t) | look | {"name": t(f"chart.curve.{state}", kind=t(f"chart.kind.{kind}"))}


def _by_hand_trace(part: CurvePart, kind: str, state: str, floor: float, t: Translate) -> dict:
    symbol = "star" if state == "cut" else "star-open"
    return _points(part, kind, state, floor, t) | {
        "mode": "markers",
        "marker": {"color": COLOURS[kind], "size": 11, "symbol": symbol, "line": {"color": TEXT, "width": 1}},
        "name": t(f"chart.curve.by_hand.{state}", kind=t(f"chart.kind.{kind}")),
    }


def _points(part: CurvePart, kind: str, state: str, floor: float, t: Translate) -> dict:
    shown = part.removed == (state == "cut")
    return {
        "type": "scatter",
        "x": part.share,
        "y": np.where(shown, np.maximum(part.score, floor), np.nan),
        "customdata": np.stack([part.layer_idx, part.group_idx, part.rank, part.score], axis=1),
        "hovertemplate": hover(
            t(
                f"chart.curve.hover.{kind}",
                layer="%{customdata[0]}",
                group="%{customdata[1]}",
                rank="%{customdata[2]:,}",
                score="%{customdata[3]:.6e}",
                share="%{x:.2%}",
            )
        ),
        "meta": {"kind": kind},
    }


def _cut_line(key: str, share: float) -> dict:
    line = {"color": COLOURS["cut" if key == "all" else key], "width": 2, "dash": "dash"}
    return {"type": "line", "x0": share, "x1": share, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _cut_label(key: str, share: float, t: Translate) -> dict:
    at_bottom = key == MLP  # two lines may be close to each other; their labels must not be
    return {
        "text": t(f"chart.curve.cut.{key}", share=percent(share)),
        "font": {"color": COLOURS["cut" if key == "all" else key]},
        "showarrow": False,
        "x": share,
        "xanchor": "left",
        "xshift": 4,
        "yref": "paper",
        "y": 0 if at_bottom else 1,
        "yanchor": "bottom" if at_bottom else "top",
    }
