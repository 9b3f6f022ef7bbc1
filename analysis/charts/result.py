"""Charts of what came out: sizes of components, sparsity of layers, perplexity before and after."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pruning.planning.plan import PruningPlan
from pruning.planning.shape import MLP, ModelShape

from .frame import (
    HEIGHT,
    SMALL,
    TEXT,
    Translate,
    bars,
    figure_of,
    hover,
    layer_axis,
    marker,
    percent,
    spans_decades,
    whole_model_lines,
)

_STAGES = ("before", "after", "repaired", "recovered")
STAGE_COLOURS = dict(zip(_STAGES, ("kept", "cut", MLP, "actual"), strict=True))
STAGE_PATTERNS = dict(zip(_STAGES, ("", "x", "/", "."), strict=True))


def sparsity_bars(layers: pd.DataFrame, plan: PruningPlan, t: Translate) -> go.Figure:
    """Sparsity of each layer (`layers`: `layer_table` of planning/matrices.py) against what the plan asked of it."""
    numbers = layers["layer_idx"].to_numpy()
    actual = bars(numbers, layers["sparsity"].to_numpy(), "cut", t("chart.sparsity.actual"), "layer") | {
        "customdata": layers[["planned_sparsity", "params_before", "params_after"]].to_numpy(),
        "hovertemplate": hover(
            t(
                "chart.sparsity.hover",
                layer="%{x}",
                actual="%{y:.4%}",
                planned="%{customdata[0]:.4%}",
                before="%{customdata[1]:,}",
                after="%{customdata[2]:,}",
            )
        ),
    }
    planned = {
        "type": "scatter",
        "mode": "markers",
        "name": t("chart.sparsity.planned"),
        "x": numbers,
        "y": layers["planned_sparsity"].to_numpy(),
        "marker": {"symbol": "line-ew", "size": 14, "line": {"color": TEXT, "width": 3}},
        "hoverinfo": "skip",
    }
    return figure_of(
        [actual, planned, *whole_model_lines(plan, t)],
        t("chart.sparsity.title"),
        "sparsity",
        HEIGHT,
        xaxis=layer_axis(len(layers), t),
        yaxis={"title": t("chart.sparsity.axis"), "tickformat": ".0%", "rangemode": "tozero"},
    )


def parameter_shares(shape: ModelShape, t: Translate) -> go.Figure:
    """Parameters of each component as horizontal bars, each with its share of the whole."""
    components = shape.components
    values = list(components.values())
    shares = [value / shape.parameters for value in values]
    components_as_bars = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": [t(f"chart.kind.{kind}") for kind in components],
        "text": [percent(share) for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": shares,
        "marker": marker(list(components)),
        "hovertemplate": hover(t("chart.shares.hover", kind="%{y}", parameters="%{x:,}", share="%{customdata:.4%}")),
    }
    return figure_of(
        [components_as_bars],
        t("chart.shares.title", total=f"{shape.parameters:,}"),
        "shares",
        SMALL,
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
            "marker": marker(STAGE_COLOURS[stage], STAGE_PATTERNS[stage]),
            "hovertemplate": hover(
                t("chart.perplexity.hover", stage=t(f"chart.stage.{stage}"), dataset="%{x}", value="%{y:,.6g}")
            ),
        }
        for stage, values in stages.items()
    ]
    basis = metrics.get("basis") or {}
    known = {"windows", "seq_len"} <= basis.keys()
    title = t("chart.perplexity.axis.basis", **basis) if known else t("chart.perplexity.axis")
    numbers = np.array([value for values in stages.values() for value in values.values()])
    yaxis = {"title": title, "type": "log" if spans_decades(numbers) else "linear"}
    return figure_of(traces, t("chart.perplexity.title"), "perplexity", HEIGHT, yaxis=yaxis)
