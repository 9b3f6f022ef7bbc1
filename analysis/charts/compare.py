"""Charts of many experiments: what perplexity costs in parameters, and every figure of each as a line.

`rows` is the table of pruning/experiment_table.py. Each point of an experiment carries its name first in `customdata`, so
that a click can open it.
"""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pruning.palette import COLOURS
from pruning.strategies import STRATEGIES

from .frame import TALL, Translate, figure_of, hover, percent, spans_decades

_SERIES = ("attention", "mlp", "actual", "target", "cut", "protected")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon")
_COMPARABLE = ("fingerprint", "dataset", "seq_len", "windows", "corpus_sha256")
_MOST_LABELS = 12
_WORDS = ("model", "method", "strategy", "split", "protected")
_FIGURES = {"ratio_actual": ".1%", "parameters": ",.4s", "tokens_per_second": ",.4s", "perplexity": ",.4s"}
Ranges = list[list[float]]


def pareto_front(parameters: np.ndarray, perplexity: np.ndarray) -> np.ndarray:
    """Positions of the points that no other one beats (as small, and better, or the other way round), smallest first."""
    order = np.lexsort((perplexity, parameters))
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], perplexity[order]]))[:-1]
    return order[perplexity[order] < best_before]


def pareto(rows: pd.DataFrame, t: Translate, current: str | None = None) -> go.Figure:
    """Perplexity over parameters, the points that no other beats joined; the experiment `current` is ringed.

    Only what was measured on one model and one text is joined: each such set is a series of its own, and has the model before
    the cut as a star. Experiments without a finite perplexity are left out and counted in the title.
    """
    drawn = rows[np.isfinite(rows["perplexity"]) & rows["parameters"].notna()]
    traces, several = [], drawn.groupby(list(_COMPARABLE), dropna=False, sort=False)
    for number, (_, series) in enumerate(several):
        traces += _series(series, number, len(drawn) <= _MOST_LABELS, _series_name(series.iloc[0], len(several) > 1, t), t)
    open_one = drawn[drawn["name"] == current]
    if len(open_one):
        traces.append(_ring(open_one, t))
    missing = len(rows) - len(drawn)
    title = t("chart.pareto.title.missing", missing=missing, count=len(rows)) if missing else t("chart.pareto.title")
    return figure_of(
        traces,
        title,
        "pareto",
        TALL,
        xaxis={"title": t("chart.axis.parameters")},
        yaxis={
            "title": t("chart.perplexity.axis"),
            "type": "log" if spans_decades(drawn["perplexity"].to_numpy()) else "linear",
        },
    )


def _series(rows: pd.DataFrame, number: int, labelled: bool, name: str, t: Translate) -> list[dict]:
    """Line of the best, the points, and the model before the cut; the legend explains line and star once."""
    colour, symbol = COLOURS[_SERIES[number % len(_SERIES)]], _SYMBOLS[number % len(_SYMBOLS)]
    parameters, perplexity = rows["parameters"].to_numpy(), rows["perplexity"].to_numpy()
    whole = rows[rows["perplexity_before"].notna() & np.isfinite(rows["perplexity_before"])].head(1)
    every_parameters = np.concatenate([parameters, whole["parameters_before"]])
    every_perplexity = np.concatenate([perplexity, whole["perplexity_before"]])
    front = pareto_front(every_parameters, every_perplexity)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": t("chart.pareto.front"),
        "x": every_parameters[front],
        "y": every_perplexity[front],
        "line": {"color": colour, "width": 2, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": not number,
        "meta": {"kind": "front"},
    }
    points = {
        "type": "scatter",
        "mode": "markers+text" if labelled else "markers",
        "name": name,
        "x": parameters,
        "y": perplexity,
        "text": [f"\u00a0\u00a0{name}" for name in rows["name"]],  # clear of the ring
        "textposition": "middle right",
        "textfont": {"size": 10},
        "cliponaxis": False,
        "marker": {"color": colour, "size": 11, "symbol": symbol},
        "customdata": [[row["name"], _settings_text(row, t)] for row in rows.to_dict("records")],
        "hovertemplate": hover(f"{_hover_text('%{customdata[0]}', t)}<br>%{{customdata[1]}}"),
        "meta": {"kind": "experiment"},
    }
    before = {
        "type": "scatter",
        "mode": "markers",
        "name": t("chart.pareto.before"),
        "x": whole["parameters_before"].to_list(),
        "y": whole["perplexity_before"].to_list(),
        "marker": {"color": colour, "size": 14, "symbol": "star"},
        "hovertemplate": hover(_hover_text(t("chart.pareto.before"), t)),
        "showlegend": not number,
        "meta": {"kind": "before"},
    }
    return [line, points, *([before] if len(whole) else [])]


def _series_name(row: pd.Series, one_of_several: bool, t: Translate) -> str:
    if not isinstance(row["dataset"], str):
        return t("chart.pareto.series.unknown", model=row["model"])
    basis = {"dataset": row["dataset"], "windows": f"{row['windows']:.0f}", "seq_len": f"{row['seq_len']:.0f}"}
    name = t("chart.pareto.series", model=row["model"], **basis)
    digest = row["corpus_sha256"]
    return t("chart.pareto.series.text", name=name, digest=digest[:8]) if one_of_several and isinstance(digest, str) else name


def _hover_text(name: str, t: Translate) -> str:
    return t("chart.pareto.hover", name=name, parameters="%{x:,}", perplexity="%{y:,.4g}")


def _settings_text(row: dict, t: Translate) -> str:
    words = {name: _said(name, row[name], t) for name in _WORDS}
    ratios = ("ratio_target", "ratio_actual")
    target, actual = ("-" if math.isnan(row[name]) else percent(row[name]) for name in ratios)
    return t("chart.pareto.settings", target=target, actual=actual, **words)


def _ring(rows: pd.DataFrame, t: Translate) -> dict:
    ring = {"symbol": "circle-open", "size": 20, "color": COLOURS["target"], "line": {"width": 3}}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": t("chart.pareto.current"),
        "x": rows["parameters"].to_list(),
        "y": rows["perplexity"].to_list(),
        "marker": ring,
        "hoverinfo": "skip",  # the point under it answers
        "meta": {"kind": "current"},
    }


def parallel(rows: pd.DataFrame, t: Translate) -> go.Figure:
    """Every experiment as a line through its settings and figures, coloured by perplexity; dragging along an axis filters."""
    drawn = parallel_rows(rows)
    dimensions = []
    for column in parallel_columns(rows):
        dimension = {"label": t(f"chart.parallel.{column}"), "values": _positions(drawn, column)}
        if column in _WORDS:
            said = [_short(_said(column, word, t)) for word in _words_of(drawn, column)]
            dimension |= {"tickvals": list(range(len(said))), "ticktext": said, "range": [-0.5, len(said) - 0.5]}
        else:
            dimension["tickformat"] = _FIGURES[column]
        dimensions.append(dimension)
    lines = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {
            "color": drawn["perplexity"].to_list(),
            "colorscale": [[0, COLOURS["actual"]], [0.5, COLOURS["mlp"]], [1, COLOURS["target"]]],
            "showscale": False,
        },
        "unselected": {"line": {"color": COLOURS["protected"], "opacity": 0.15}},
        "labelangle": 0,
        "uirevision": parallel_revision(rows),
        "meta": {"kind": "experiments"},
    }
    title = t("chart.parallel.title", drawn=len(drawn), count=len(rows))
    margin = {"l": 80, "r": 60, "t": 100, "b": 40}
    return figure_of([lines], title, "parallel", TALL, margin=margin)


def parallel_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The experiments that have a line: those with a finite perplexity."""
    return rows[np.isfinite(rows["perplexity"]) & rows["ratio_actual"].notna()]


def parallel_columns(rows: pd.DataFrame) -> list[str]:
    """The columns that have an axis, left to right: those in which every line has a value."""
    drawn = parallel_rows(rows)
    return [column for column in (*_WORDS, *_FIGURES) if len(drawn) and drawn[column].notna().all()]


def parallel_revision(rows: pd.DataFrame) -> str:
    """Changes when a filter drawn on the axes would mean something else: another axis, another word on one."""
    drawn = parallel_rows(rows)
    return repr([(c, _words_of(drawn, c) if c in _WORDS else "") for c in parallel_columns(rows)])


def parallel_filter(rows: pd.DataFrame, ranges: list[Ranges | None]) -> np.ndarray:
    """Which rows are within the ranges that were drawn, one list of [low, high] per axis; [rows] bool."""
    drawn = parallel_rows(rows)
    within = np.ones(len(drawn), dtype=bool)
    for column, wanted in zip(parallel_columns(rows), ranges, strict=True):
        if wanted:
            values = _positions(drawn, column)
            within &= np.any([(low <= values) & (values <= high) for low, high in wanted], axis=0)
    return rows.index.isin(drawn.index[within])


def _positions(drawn: pd.DataFrame, column: str) -> np.ndarray:
    """Where the lines cross an axis."""
    if column not in _WORDS:
        return drawn[column].to_numpy(dtype=float)
    words = _words_of(drawn, column)
    return np.array([words.index(word) for word in drawn[column]], dtype=float)


def _words_of(drawn: pd.DataFrame, column: str) -> list[str]:
    return sorted(set(drawn[column]))


def _said(column: str, word: str, t: Translate) -> str:
    """The word itself, but a strategy by the name that the Plan page has for it."""
    return t(f"plan.strategy.{word}") if column == "strategy" and word in STRATEGIES else word


def _short(word: str, most: int = 18) -> str:
    """Room between two axes is scarce; of a path its end says more than its beginning."""
    return word if len(word) <= most else f"…{word[-most + 1 :]}"
