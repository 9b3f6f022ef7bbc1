"""What all charts share: the figure, colours, bars, the axis of layers, lines across the whole model.

Traces are plain dictionaries and go into one figure at once: plotly checks every object it is handed, and that would take
longer than all arithmetic. A trace over layers says in `meta` what a click on it means: {"kind": "attention"}, x is the layer.
"""

import re
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from pruning.palette import COLOURS
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import ATTENTION, MLP, ModelShape

Translate = Callable[..., str]

PATTERNS = {ATTENTION: "", MLP: "\\", "embeddings": ".", "norms": "-", "cut": "x", "kept": "", "layer": ""}
PATTERNS |= {"first": "x", "second": ""}

HEIGHT = 380
TALL = 480
SMALL = 240
GRID = "rgba(128, 136, 149, 0.25)"
TEXT = "#737B87"  # 4.3 : 1 on white and on Streamlit's dark background; a theme may replace it
ON_BARS = "#141820"  # text on the blue and the orange of bars: 5 : 1 and more, in both themes
READABLE_LAYERS = 40  # up to this many, every layer index is written under the axis
LOG_RATIO = 10  # numbers whose largest is more than this many times the smallest get a log axis
_NOT_OURS = re.compile(r"<(?!/?(?:br|b|sub|extra)>)")  # of what Plotly takes for markup, all but what charts here use
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": TEXT, "size": 12},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "xaxis": {"gridcolor": GRID, "zeroline": False, "automargin": True},
        "yaxis": {"gridcolor": GRID, "zeroline": False, "automargin": True},
    }
)


def figure_of(traces: list, title: str, name: str, height: int, **layout) -> go.Figure:
    """A figure of fixed height; `uirevision` keeps the zoom while only the numbers change.

    Names and reasons are shown as text: no links, which Plotly would make of `<a href=...>`. Everything goes in at once and
    unchecked, in the form that Plotly's check would give it (the tests compare): checking took longer than the rest.
    """
    return go.Figure(
        data=_as_it_is(traces),
        layout=_as_it_is(
            {
                "template": _TEMPLATE,
                "title": {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
                "height": height,
                "margin": {"l": 60, "r": 20, "t": 45, "b": 50},
                "legend": {
                    "orientation": "h",
                    "x": 0,
                    "y": 0,
                    "yref": "container",
                    "yanchor": "bottom",
                    "traceorder": "normal",
                },
                "uirevision": name,
                "bargap": 0.2,
                "hovermode": "closest",
            }
            | {name: _with_title_as_object(value) for name, value in layout.items()}
        ),
        _validate=False,
    )


def _with_title_as_object(value):
    """The axis whose title may be given as a string, which plotly.js does not read."""
    is_short = isinstance(value, dict) and isinstance(value.get("title"), str)
    return value | {"title": {"text": value["title"]}} if is_short else value


def _as_it_is(value):
    """The same with `<` written out wherever it would begin markup that is not ours; numbers are not looked at."""
    if isinstance(value, str):
        return _NOT_OURS.sub("&lt;", value)
    if isinstance(value, dict):
        return {key: _as_it_is(one) for key, one in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [_as_it_is(one) for one in value]
    return value


def layer_axis(layers: int, t: Translate, narrow: bool = False) -> dict:
    """The x axis of a chart over layers; every layer is numbered where there is room."""
    every = 4 if narrow and layers > READABLE_LAYERS / 2 else 1
    step = {"dtick": every, "tickfont": {"size": 10}, "tickangle": 0} if layers <= READABLE_LAYERS else {}
    return {"title": t("chart.axis.layer"), "range": [-0.6, layers - 0.4]} | step


def attention_above_mlp(t: Translate) -> dict:
    """The y axes of a figure with two panels: attention groups on `y2`, MLP channels on `y`."""
    return {
        "yaxis": {"title": t("chart.axis.mlp_channels"), "domain": [0, 0.46]},
        "yaxis2": {"title": t("chart.axis.attention_groups"), "domain": [0.54, 1], "anchor": "x", "gridcolor": GRID},
    }


def panel_of(kind: str) -> str:
    return "y2" if kind == ATTENTION else "y"


def bars(x: np.ndarray, y: np.ndarray, look: str, name: str, kind: str) -> dict:
    return {"type": "bar", "name": name, "x": x, "y": y, "marker": marker(look), "meta": {"kind": kind}}


def hover(text: str) -> str:
    """A hover template without the grey box in which plotly repeats the name."""
    return text + "<extra></extra>"


def marker(look: str | list[str], pattern: str | None = None) -> dict:
    colour = COLOURS[look] if isinstance(look, str) else [COLOURS[one] for one in look]
    shape = pattern if pattern is not None else PATTERNS[look] if isinstance(look, str) else [PATTERNS[one] for one in look]
    return {
        "color": colour,
        "line": {"width": 0},
        "pattern": {"shape": shape, "size": 6, "solidity": 0.25, "fgcolor": "rgba(20, 24, 32, 0.55)", "fillmode": "overlay"},
    }


def hatched(colour: str) -> dict:
    pattern = {"shape": "/", "size": 8, "solidity": 0.15, "fgcolor": colour, "bgcolor": "rgba(0, 0, 0, 0)"}
    return {"color": colour, "line": {"width": 0}, "opacity": 0.6, "pattern": pattern | {"fillmode": "replace"}}


def whole_model_lines(plan: PruningPlan, t: Translate) -> list[dict]:
    """Target (if the plan's settings have one) and actual ratio of the whole model, as labelled lines across all layers."""
    target, actual, layers = plan.settings.get("pruning_ratio"), plan.actual_ratio, plan.shape.num_layers
    lines = [("actual", actual, "dot", t("chart.line.actual", share=percent(actual)))]
    if target is not None:
        lines.insert(0, ("target", target, "dash", t(f"chart.line.target.{plan.target_basis}", share=percent(target))))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": [-0.5, layers - 0.5],
            "y": [share, share],
            "line": {"color": COLOURS[look], "width": 2, "dash": dash},
            "hovertemplate": hover(label),
            "meta": {"kind": look},
        }
        for look, share, dash, label in lines
    ]


def protected_shading(protection: Protection | None, layers: int, t: Translate) -> list[dict]:
    """Grey areas over the layers that `protection` spares altogether, one for each run of neighbours."""
    spared = [] if protection is None else np.flatnonzero(~protection.cuttable(layers).any(axis=1))
    runs = np.split(spared, np.flatnonzero(np.diff(spared) > 1) + 1) if len(spared) else []
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
            "label": {"text": t("chart.protected"), "textposition": "top center", "font": {"size": 10}},
        }
        for run in runs
    ]


def prunable_parameters(shape: ModelShape) -> np.ndarray:
    """Parameters of attention and MLP, norms left out, [layers, 2] int64."""
    return np.array([(layer.attention_parameters, layer.mlp_parameters) for layer in shape.layers], dtype=np.int64)


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", "\u00a0%")


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0 .. count - 1, evenly spaced, first and last among them."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)


def smallest_positive(scores: np.ndarray) -> float:
    above = scores[scores > 0]
    return float(above.min()) if len(above) else 1.0


def positive(scores: np.ndarray) -> np.ndarray:
    """Scores for a log scale: zeros are drawn at the smallest positive one (the hover text has the true value)."""
    return np.maximum(scores, smallest_positive(scores))


def spans_decades(numbers: np.ndarray) -> bool:
    """Whether the numbers need a log axis."""
    return bool(len(numbers)) and numbers.max() > LOG_RATIO * numbers.min() > 0
