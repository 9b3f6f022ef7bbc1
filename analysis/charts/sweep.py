"""Charts of a sweep: the perplexity of many settings of split and ratio, tried without cutting.

    point    {"split": "2:8", "attention_share": 0.2, "ratio": 0.25, "actual_ratio": 0.2499, "perplexity": 23.1, "reason": None}

A point that could not be reached has no perplexity (None) and a reason instead. Each point drawn carries [split, ratio] in
`customdata`, so that a click can take it over.
"""

import math

import numpy as np
import plotly.graph_objects as go
from plotly.colors import get_colorscale

from pruning.palette import COLOURS
from pruning.planning.allocation import parse_split

from .frame import HEIGHT, Translate, figure_of, hover, percent, spans_decades

SPLIT, RATIO = "split", "ratio"
Setting = tuple[str, float]  # split, ratio
_COLOURS = ("attention", "mlp", "actual", "target", "cut", "protected")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def sweep_curve(points: list[dict], axis: str, t: Translate, current: Setting | None = None) -> go.Figure:
    """Perplexity along `axis`: "split" (attention's share of what is removed, a line per ratio) or "ratio" (a line per split).

    Settings without a perplexity are left out and counted in the title. `current` is ringed, or a line if it was not tried.
    """
    reached = _reached(points)
    other = RATIO if axis == SPLIT else SPLIT
    series: dict = {}
    for point in sorted(reached, key=lambda point: _along(point, axis)):
        series.setdefault(point[other], []).append(point)
    traces = [_series(series[value], number, axis, t) for number, value in enumerate(sorted(series, key=_in_order(other)))]
    split, ratio = current or (None, math.nan)
    here = [point for point in reached if point["split"] == split and math.isclose(point["ratio"], ratio, abs_tol=1e-9)]
    shapes = []
    if here:
        traces.append(_ring(here[:1], axis, t))
    elif current is not None and (x := _along_current(current, axis)) is not None:
        line = {"color": COLOURS["target"], "width": 2, "dash": "dash"}
        label = {
            "text": t("chart.sweep.current"),
            "textposition": "start",
            "textangle": 0,
            "font": {"color": COLOURS["target"]},
        }
        shapes = [{"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line, "label": label}]
    numbers = np.array([point["perplexity"] for point in reached])
    return figure_of(
        traces,
        _title(f"chart.sweep.title.{axis}", points, reached, t),
        f"sweep-{axis}",
        HEIGHT,
        xaxis={"title": t(f"chart.sweep.axis.{axis}"), "tickformat": ".0%"},
        yaxis={"title": t("chart.perplexity.axis"), "type": "log" if spans_decades(numbers) else "linear"},
        shapes=shapes,
    )


def _series(points: list[dict], number: int, axis: str, t: Translate) -> dict:
    look = COLOURS[_COLOURS[number % len(_COLOURS)]]
    mark = (number + number // len(_COLOURS)) % len(_SYMBOLS)  # the seventh series has the first's colour, not its look
    name = t(f"chart.sweep.series.{axis}", split=points[0]["split"], ratio=percent(points[0]["ratio"]))
    return _drawn(points, axis, t) | {
        "mode": "lines+markers",
        "name": name,
        "line": {"color": look, "width": 2, "dash": _DASHES[mark]},
        "marker": {"color": look, "size": 9, "symbol": _SYMBOLS[mark]},
        "hovertemplate": hover(_hover_text("%{customdata[0]}", "%{customdata[1]:.1%}", "%{customdata[2]:.2%}", "%{y:,.4g}", t)),
    }


def _ring(points: list[dict], axis: str, t: Translate) -> dict:
    ring = {"symbol": "circle-open", "size": 19, "color": COLOURS["target"], "line": {"width": 3}}
    return _drawn(points, axis, t) | {
        "mode": "markers",
        "name": t("chart.sweep.current"),
        "marker": ring,
        "hoverinfo": "skip",  # the point under it answers
    }


def _drawn(points: list[dict], axis: str, t: Translate) -> dict:
    return {
        "type": "scatter",
        "x": [_along(point, axis) for point in points],
        "y": [point["perplexity"] for point in points],
        "customdata": [[point["split"], point["ratio"], point["actual_ratio"]] for point in points],
        "meta": {"kind": "sweep"},
    }


def sweep_grid(points: list[dict], t: Translate, current: Setting | None = None) -> go.Figure:
    """Splits x ratios, coloured by perplexity; a setting that could not be reached is a gap with its reason on hover."""
    reached = _reached(points)
    shares = {point["split"]: point["attention_share"] for point in points}
    splits, ratios = sorted(shares, key=lambda split: (shares[split], split)), sorted({point["ratio"] for point in points})
    numbers = np.array([point["perplexity"] for point in reached])
    log = spans_decades(numbers)
    size = (len(splits), len(ratios))
    colour, cells = np.full(size, np.nan), {name: [[""] * size[1] for _ in splits] for name in ("text", "hover")}
    customdata = [[[split, ratio] for ratio in ratios] for split in splits]
    for point in points:
        row, column = splits.index(point["split"]), ratios.index(point["ratio"])
        text, details = "", t("chart.sweep.hover.unreached", split=point["split"], ratio=percent(point["ratio"]))
        if _has_perplexity(point):
            colour[row, column] = math.log10(point["perplexity"]) if log else point["perplexity"]
            text = f"{point['perplexity']:,.3g}" if point["perplexity"] < 1000 else f"{point['perplexity']:.1e}"
            details = _hover_text(
                point["split"], percent(point["ratio"]), f"{point['actual_ratio']:.2%}", f"{point['perplexity']:,.4g}", t
            )
        elif point["reason"]:
            details += f"<br>{point['reason']}"
        cells["text"][row][column], cells["hover"][row][column] = text, details
    heatmap = {
        "type": "heatmap",
        "name": t("chart.perplexity.axis"),
        "x": [percent(ratio) for ratio in ratios],
        "y": splits,
        "z": colour,
        "text": cells["text"],
        "texttemplate": "%{text}",
        "hovertext": cells["hover"],
        "hovertemplate": hover("%{hovertext}"),
        "customdata": customdata,
        "colorscale": get_colorscale("Cividis"),
        "colorbar": {"title": {"text": t("chart.perplexity.axis"), "side": "right"}} | (_powers(numbers) if log else {}),
        "xgap": 2,
        "ygap": 2,
        "meta": {"kind": "sweep"},
    }
    return figure_of(
        [heatmap],
        _title("chart.sweep.title.grid", points, reached, t),
        "sweep-grid",
        HEIGHT,
        xaxis={"title": t("chart.sweep.axis.ratio"), "type": "category"},
        yaxis={"title": t("chart.sweep.axis.grid"), "type": "category"},
        shapes=_frame_around(splits, ratios, current, t),
    )


def _powers(numbers: np.ndarray) -> dict:
    ticks = np.linspace(math.log10(numbers.min()), math.log10(numbers.max()), 5)
    return {"tickvals": ticks, "ticktext": [f"{10**tick:.3g}" for tick in ticks]}


def _frame_around(splits: list[str], ratios: list[float], current: Setting | None, t: Translate) -> list[dict]:
    """A frame around the cell of the current setting; on an axis of categories, cell n reaches from n - 1/2 to n + 1/2."""
    column = next((n for n, ratio in enumerate(ratios) if current and math.isclose(ratio, current[1], abs_tol=1e-9)), None)
    if current is None or column is None or current[0] not in splits:
        return []
    row = splits.index(current[0])
    edges = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    name = {"name": t("chart.sweep.current")}
    return [{"type": "rect", "line": {"color": COLOURS["target"], "width": 4}} | edges | name]


def _reached(points: list[dict]) -> list[dict]:
    return [point for point in points if _has_perplexity(point)]


def _has_perplexity(point: dict) -> bool:
    return point["perplexity"] is not None and math.isfinite(point["perplexity"])


def _title(key: str, points: list[dict], reached: list[dict], t: Translate) -> str:
    missing = len(points) - len(reached)
    left_out = f"<br><sub>{t('chart.sweep.missing', missing=missing, points=len(points))}</sub>" if missing else ""
    return t(key) + left_out


def _hover_text(split: str, ratio: str, actual: str, perplexity: str, t: Translate) -> str:
    return t("chart.sweep.hover", split=split, ratio=ratio, actual=actual, perplexity=perplexity)


def _along(point: dict, axis: str) -> float:
    return point["attention_share"] if axis == SPLIT else point["ratio"]


def _along_current(current: Setting, axis: str) -> float | None:
    """Where the current setting is on the axis; nowhere if its split is left to the scores."""
    if axis == RATIO:
        return current[1]
    split = parse_split(current[0])
    return None if split is None else split[0]


def _in_order(name: str):
    """Ratios by size, splits by attention's share."""
    return (lambda ratio: ratio) if name == RATIO else (lambda split: ((parse_split(split) or (-1.0,))[0], split))
