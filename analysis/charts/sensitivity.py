"""Charts of what cuts do to a model: layers, protection, split, foresight.

`result` is what pruning/runs/sensitivity/results.py reads. Points without a perplexity (no such plan, or not finite) are
left out."""

import numpy as np
import plotly.graph_objects as go
from plotly.colors import get_colorscale

from pruning.palette import COLOURS
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP

from ..sensitivity import foresight_ranks, mean_by_ratio
from .frame import HEIGHT, SMALL, TEXT, Translate, figure_of, hover, layer_axis, marker, percent, spans_decades

_SYMBOLS, _DASHES = ("circle", "square", "diamond"), ("solid", "dash", "dot")
_PANELS = ("", "2", "3")  # what Plotly has behind `x` and `y` for axes side by side
_LINES = ("actual", "target", "layer")
_HALF_A_BOX = 0.28  # of the drawing of what follows from a root; its rows are 1 apart


def layer_sensitivity(result, t: Translate) -> go.Figure:
    """Perplexity with one layer's attention, or its MLP, cut alone: bars that begin at the perplexity of the whole model."""
    traces = [_layer_bars(result, kind, t) for kind in GROUP_TYPES]
    layers = 1 + max(point["layer"] for point in result.points)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": t("chart.sensitivity.whole", perplexity=f"{result.perplexity:.4g}"),
            "x": [-0.5, layers - 0.5],
            "y": [result.perplexity] * 2,
            "line": {"color": COLOURS["target"], "width": 2, "dash": "dash"},
            "hoverinfo": "skip",
        }
    )
    worst = max((p for p in result.points if p["kind"] != "both"), key=lambda p: p["rise"])
    title = t(
        f"chart.sensitivity.title.{worst['kind']}",
        layer=worst["layer"],
        before=f"{result.perplexity:.4g}",
        after="∞" if worst["perplexity"] is None else f"{worst['perplexity']:.4g}",
    )
    values = np.array([p["perplexity"] for p in result.points if p["perplexity"]])
    yaxis = {"title": t("chart.perplexity.axis"), "type": "log" if spans_decades(values) else "linear"}
    return figure_of(traces, title, "sensitivity", HEIGHT, xaxis=layer_axis(layers, t), yaxis=yaxis, barmode="group")


def _layer_bars(result, kind: str, t: Translate) -> dict:
    points = [p for p in result.points if p["kind"] == kind and p["perplexity"] is not None]
    text = t(
        "chart.sensitivity.hover",
        layer="%{x}",
        kind=t(f"chart.kind.{kind}"),
        perplexity="%{customdata[0]:,.4f}",
        rise="%{customdata[1]:+.4f}",
        error="%{customdata[2]:.4f}",
        removed="%{customdata[3]:,}",
    )
    return {
        "type": "bar",
        "name": t(f"chart.kind.{kind}"),
        "x": [p["layer"] for p in points],
        "y": [p["perplexity"] - result.perplexity for p in points],
        "base": [result.perplexity] * len(points),
        "marker": marker(kind),
        "customdata": [[p["perplexity"], p["rise"], p["error"], p["removed"]] for p in points],
        "hovertemplate": hover(text),
        "meta": {"kind": kind},
    }


def foresight(result, kind: str, t: Translate) -> go.Figure:
    """How each method ranks the layers, a line of cells each, below the measured ranks; best Spearman correlation on top."""
    ranks = foresight_ranks(result, kind)
    names = [t("chart.foresight.measured") if row.method is None else f"{row.method} ({row.shown})" for row in ranks]
    values = np.array([row.ranks for row in ranks])
    layers = values.shape[1]
    text = t("chart.foresight.hover", layer="%{x}", method="%{y}", rank="%{z:.0f}", layers=layers)
    cells = {
        "type": "heatmap",
        "x": list(range(layers)),
        "y": names,
        "z": values,
        "colorscale": get_colorscale("Cividis"),
        "reversescale": True,
        "xgap": 1,
        "ygap": 2,
        "colorbar": {"title": {"text": t("chart.foresight.colour"), "side": "right"}},
        "hovertemplate": hover(text),
        "meta": {"kind": "foresight"},
    }
    best = ranks[1]
    title = t("chart.foresight.title", kind=t(f"chart.kind.{kind}"), method=best.method, spearman=best.shown)
    yaxis = {"autorange": "reversed", "type": "category", "showgrid": False}
    return figure_of([cells], title, f"foresight-{kind}", HEIGHT, xaxis=layer_axis(layers, t), yaxis=yaxis)


def protection_curves(result, t: Translate) -> go.Figure:
    """Perplexity over the ratio, all layers cut and first and last spared: means of the seeds, bars from lowest to highest."""
    traces, values = [], []
    for look, name in (("cut", "all"), ("protected", "protected")):
        means = mean_by_ratio(result, name)
        values += [mean.highest for mean in means]
        text = t(
            "chart.protection.hover",
            ratio="%{x:.0%}",
            perplexity="%{y:,.4g}",
            low="%{customdata[0]:,.4g}",
            high="%{customdata[1]:,.4g}",
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": t(
                    f"chart.protection.{name}", first=result.question.options["first"], last=result.question.options["last"]
                ),
                "x": [mean.ratio for mean in means],
                "y": [mean.mean for mean in means],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [mean.highest - mean.mean for mean in means],
                    "arrayminus": [mean.mean - mean.lowest for mean in means],
                    "width": 6,
                },
                "line": {"color": COLOURS[look], "width": 2, "dash": "dash" if name == "all" else "solid"},
                "marker": {"color": COLOURS[look], "size": 10, "symbol": "x" if name == "all" else "circle"},
                "customdata": [[mean.lowest, mean.highest] for mean in means],
                "hovertemplate": hover(text),
                "meta": {"kind": name},
            }
        )
    figure = _perplexity_over("ratio", traces, [result.perplexity, *values], "protection", t)
    return figure.update_yaxes(type="log")  # beside the last ratio the differences of the first ones would not show


def protection_trained(result, t: Translate) -> go.Figure:
    """Perplexity of both cuts alone (hatched) and after the same training, bars for each ratio."""
    reached = [point for point in result.points if "difference" in point]
    traces, values = [], [result.perplexity]
    for look, name in (("cut", "all"), ("protected", "protected")):
        for stage, pattern in (("cut", "/"), ("trained", "")):
            scenario = t(
                f"chart.protection.{name}", first=result.question.options["first"], last=result.question.options["last"]
            )
            points = [point for point in reached if point[name][stage]["perplexity"] is not None]
            perplexities = [point[name][stage]["perplexity"] for point in points]
            values += perplexities
            traces.append(
                {
                    "type": "bar",
                    "name": t(f"chart.trained.{stage}", scenario=scenario),
                    "x": [percent(point["ratio"]) for point in points],
                    "y": perplexities,
                    "marker": marker(look, pattern),
                    "texttemplate": "%{y:,.4g}",
                    "hovertemplate": hover(t("chart.trained.hover", ratio="%{x}", perplexity="%{y:,.4g}")),
                    "meta": {"kind": f"{name}-{stage}"},
                }
            )
    yaxis = {"title": t("chart.perplexity.axis"), "type": "log" if spans_decades(np.array(values)) else "linear"}
    xaxis = {"title": t("chart.sweep.axis.ratio"), "type": "category"}
    return figure_of(traces, t("chart.trained.title"), "trained", HEIGHT, xaxis=xaxis, yaxis=yaxis, barmode="group")


def protection_grid(result, t: Translate) -> go.Figure:
    """How the loss changes when n first and m last layers are spared instead of none, at the same number of parameters."""
    options = result.question.options
    firsts, lasts = options["firsts"], options["lasts"]
    cells = {
        (p["first"], p["last"]): (p["difference"]["mean"], p["difference"]["error"], p["perplexity"])
        for p in result.points
        if "difference" in p
    }
    values = np.array([[cells.get((n, m), (np.nan,) * 3)[0] for m in lasts] for n in firsts])
    most = float(np.nanmax(np.abs(values))) if cells else 1.0
    text = t(
        "chart.grid.hover",
        first="%{y}",
        last="%{x}",
        loss="%{z:+.4f}",
        error="%{customdata[1]:.4f}",
        perplexity="%{customdata[2]:,.4g}",
    )
    heatmap = {
        "type": "heatmap",
        "x": [str(m) for m in lasts],
        "y": [str(n) for n in firsts],
        "z": values,
        "zmin": -most,
        "zmax": most,
        "colorscale": [[0, COLOURS["actual"]], [0.5, "#DDDDDD"], [1, COLOURS["cut"]]],
        "texttemplate": "%{z:+.3f}",
        "customdata": [[list(cells.get((n, m), (None,) * 3)) for m in lasts] for n in firsts],
        "hovertemplate": hover(text),
        "colorbar": {"title": {"text": t("chart.grid.colour"), "side": "right"}},
        "xgap": 2,
        "ygap": 2,
        "meta": {"kind": "grid"},
    }
    return figure_of(
        [heatmap],
        t("chart.grid.title", ratio=percent(options["ratio"])),
        "protection-grid",
        HEIGHT,
        xaxis={"title": t("chart.grid.last"), "type": "category"},
        yaxis={"title": t("chart.grid.first"), "type": "category"},
    )


def split_curves(result, t: Translate) -> go.Figure:
    """Perplexity over attention's share of what goes, a line per ratio; what the scores chose by themselves is starred."""
    traces, values = [], [result.perplexity]
    reached = [p for p in result.points if p.get("perplexity") is not None]
    for number, ratio in enumerate(result.question.options["ratios"]):
        of_ratio = sorted(
            (p for p in reached if p["ratio"] == ratio and p["split"] != "auto"), key=lambda p: p["attention"] / p["removed"]
        )
        own = [p for p in reached if p["ratio"] == ratio and p["split"] == "auto"]
        look = {"color": COLOURS[_LINES[number % 3]]}
        name = t("chart.sweep.series.split", ratio=percent(ratio))
        dash, symbol = _DASHES[number % 3], _SYMBOLS[number % 3]
        traces.append(
            _split_line(of_ratio, t)
            | {
                "mode": "lines+markers",
                "name": name,
                "line": look | {"dash": dash, "width": 2},
                "marker": look | {"symbol": symbol, "size": 9},
            }
        )
        star = look | {"symbol": "star", "size": 17, "line": {"color": TEXT, "width": 1}}
        traces.append(
            _split_line(own, t) | {"mode": "markers", "name": t("chart.split.own", ratio=percent(ratio)), "marker": star}
        )
        values += [p["perplexity"] for p in of_ratio]
    return _perplexity_over("split", traces, values, "split", t)


def _perplexity_over(axis: str, traces: list[dict], values: list[float], name: str, t: Translate) -> go.Figure:
    """A chart of perplexities over the ratio or the split; `values` are all that it shows."""
    log = spans_decades(np.array(values))
    return figure_of(
        traces,
        t(f"chart.{name}.title"),
        name,
        HEIGHT,
        xaxis={"title": t(f"chart.sweep.axis.{axis}"), "tickformat": ".0%"},
        yaxis={"title": t("chart.perplexity.axis"), "type": "log" if log else "linear"},
    )


def _split_line(points: list[dict], t: Translate) -> dict:
    text = t(
        "chart.sweep.hover",
        split="%{customdata[0]}",
        ratio="%{customdata[1]:.0%}",
        actual="%{customdata[2]:.2%}",
        perplexity="%{y:,.4g}",
    )
    return {
        "type": "scatter",
        "x": [p["attention"] / p["removed"] for p in points],
        "y": [p["perplexity"] for p in points],
        "customdata": [[p["split"], p["ratio"], p["actual_ratio"]] for p in points],
        "hovertemplate": hover(text),
        "meta": {"kind": "split"},
    }


def matrix_corners(result, t: Translate) -> go.Figure:
    """The same corner of a matrix whole, with zeros, and with rows gone: sizes of weights as brightness, zeros empty."""
    corner = result.whole["corner"]
    traces, titles = [], []
    largest = float(np.max(corner["dense"]))
    rows = len(corner["dense"])
    for panel, name in zip(_PANELS, ("dense", "zeros", "smaller"), strict=True):
        values = np.array(corner[name], dtype=float)
        if name == "smaller":
            values = values[: len(result.whole["kept_rows"])]
        traces.append(
            {
                "type": "heatmap",
                "z": np.where(values == 0, np.nan, values),
                "zmin": 0,
                "zmax": largest,
                "colorscale": get_colorscale("Cividis"),
                "showscale": False,
                "xaxis": f"x{panel}",
                "yaxis": f"y{panel}",
                "hovertemplate": hover(t("chart.matrix.hover", row="%{y}", column="%{x}", size="%{z:.3g}")),
                "meta": {"kind": name},
            }
        )
        titles.append(t(f"chart.matrix.{name}", rows=result.whole[name]["shape"][0], columns=result.whole[name]["shape"][1]))
    axes = {}
    for number, (panel, title) in enumerate(zip(_PANELS, titles, strict=True)):
        left = number * 0.345
        axes[f"xaxis{panel}"] = {"domain": [left, left + 0.31], "title": title, "anchor": f"y{panel}", "showgrid": False}
        axes[f"yaxis{panel}"] = {"anchor": f"x{panel}", "range": [rows - 0.5, -0.5], "showgrid": False}
    axes["yaxis"]["title"] = t("chart.matrix.rows")
    return figure_of(traces, t("chart.matrix.title", rows=rows), "matrix", HEIGHT, **axes)


def layer_to_scale(boxes: list, t: Translate) -> go.Figure:
    """The matrices of one layer drawn to scale (`layer_boxes`), with the rows or columns of one group lit up."""
    shapes, marks = [], {"x": [], "y": [], "text": []}
    for box in boxes:
        kind = ATTENTION if box.module in ("q_proj", "k_proj", "v_proj", "o_proj") else MLP
        outline = {"color": COLOURS[kind], "width": 2}
        shapes.append(
            _rectangle(box.x, box.y, box.columns, box.rows) | {"line": outline, "fillcolor": "rgba(138, 145, 156, 0.15)"}
        )
        if box.lit is not None:
            shapes.append(_rectangle(*box.lit) | {"line": {"width": 1, "color": COLOURS["cut"]}, "fillcolor": COLOURS["cut"]})
        marks["x"].append(box.x + box.columns / 2)
        marks["y"].append(box.y)
        marks["text"].append(f"{box.module}<br>{box.rows:,} × {box.columns:,}")
    names = {
        "type": "scatter",
        "mode": "text",
        "textposition": "top center",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    } | marks
    right, bottom = max(b.x + b.columns for b in boxes), max(b.y + b.rows for b in boxes)
    axis = {"visible": False, "showgrid": False}
    return figure_of(
        [names],
        t("chart.group.title"),
        "layer-to-scale",
        HEIGHT,
        shapes=shapes,
        xaxis=axis | {"range": [-0.02 * right, 1.02 * right]},
        yaxis=axis | {"range": [1.02 * bottom, -0.4 * bottom], "scaleanchor": "x"},
    )


def _rectangle(x: float, y: float, width: float, height: float) -> dict:
    return {"type": "rect", "x0": x, "x1": x + width, "y0": y, "y1": y + height, "layer": "below"}


def propagation(consequences: list, t: Translate) -> go.Figure:
    """What follows from a root matrix: arrows from it to the matrices that lose rows or columns with it."""
    places, texts, arrows = {}, [], []
    roots = list(dict.fromkeys(one.root for one in consequences))
    for row, root in enumerate(roots):
        for column, one in enumerate(c for c in consequences if c.root == root):
            places[one.module] = (column, -row)
            texts.append(f"<b>{one.module}</b><br>{t(f'chart.propagation.{one.what}', count=one.count)}")
            if one.module != root:
                arrows.append((places[root], places[one.module]))
    kinds = [ATTENTION if root == roots[0] else MLP for root in (c.root for c in consequences)]
    boxes = [
        _rectangle(x - 0.36, y - _HALF_A_BOX, 0.72, 2 * _HALF_A_BOX)
        | {"line": {"color": COLOURS[kind], "width": 4 if module in roots else 2}}
        for (module, (x, y)), kind in zip(places.items(), kinds, strict=True)
    ]
    names = {
        "type": "scatter",
        "mode": "text",
        "x": [x for x, _ in places.values()],
        "y": [y for _, y in places.values()],
        "text": texts,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    lines = [_path_over(*arrow) for arrow in arrows]
    heads = [
        {
            "x": end[0],
            "y": end[1] + _HALF_A_BOX,
            "ax": 0,
            "ay": -10,
            "showarrow": True,
            "arrowhead": 2,
            "arrowcolor": TEXT,
            "text": "",
        }
        for _, end in arrows
    ]
    axis = {"visible": False, "showgrid": False, "fixedrange": True}
    return figure_of(
        [names],
        t("chart.propagation.title"),
        "propagation",
        SMALL,
        shapes=[*boxes, *lines],
        annotations=heads,
        xaxis=axis | {"range": [-0.5, max(x for x, _ in places.values()) + 0.5]},
        yaxis=axis | {"range": [-len(roots) + 0.6, 0.6]},
    )


def _path_over(start: tuple[float, float], end: tuple[float, float]) -> dict:
    """A line from the top of one box over those between to the top of another."""
    top = start[1] + _HALF_A_BOX
    over = top + 0.12
    path = f"M {start[0]} {top} L {start[0]} {over} L {end[0]} {over} L {end[0]} {top}"
    return {"type": "path", "path": path, "line": {"color": TEXT, "width": 1.5}, "layer": "below"}


def budget_filled(gone, t: Translate) -> go.Figure:
    """The knapsack: parameters of what went, lowest score first, as one bar of attention and MLP (`fill_budget`)."""
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": t(f"chart.kind.{kind}"),
            "x": [getattr(gone, kind).parameters],
            "y": [""],
            "marker": marker(kind),
            "hovertemplate": hover(
                t(
                    "chart.budget.hover",
                    kind=t(f"chart.kind.{kind}"),
                    parameters="%{x:,}",
                    groups=f"{getattr(gone, kind).groups:,}",
                )
            ),
            "meta": {"kind": kind},
        }
        for kind in GROUP_TYPES
    ]
    line = {"type": "line", "x0": gone.budget, "x1": gone.budget, "yref": "paper", "y0": 0, "y1": 1}
    line |= {"line": {"color": COLOURS["target"], "width": 3, "dash": "dash"}}
    return figure_of(
        traces,
        t("chart.budget.title", filled=percent(gone.filled)),
        "budget",
        180,
        barmode="stack",
        shapes=[line],
        xaxis={"title": t("chart.axis.parameters"), "range": [0, gone.largest]},
    )
