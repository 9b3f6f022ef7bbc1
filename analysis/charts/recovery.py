"""Charts of repair and training: output errors of matrices, loss and learning rate, perplexity on its way back."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pruning.palette import COLOURS
from pruning.planning.shape import ATTENTION, MLP
from pruning.runs.training_history import TrainingHistory

from .frame import HEIGHT, SMALL, TEXT, Translate, attention_above_mlp, figure_of, hover, layer_axis, marker, spans_decades
from .result import STAGE_COLOURS, STAGE_PATTERNS

_KIND_OF = {"o_proj": ATTENTION, "down_proj": MLP}
_STAGE_OF = {"before": "after", "after": "repaired"}  # before the repair is after the cut


def training_loss(history: TrainingHistory, t: Translate) -> go.Figure:
    """Loss of each step so far, and the learning rate on an axis of its own; the x axis is the whole training."""
    points = history.points.dropna(subset="loss")
    loss = _line(points["step"], points["loss"], COLOURS["layer"], t("chart.training.loss")) | {
        "hovertemplate": hover(t("chart.training.hover.loss", step="%{x}", loss="%{y:.4g}"))
    }
    rate = _line(points["step"], points["learning_rate"], COLOURS["target"], t("chart.training.rate"), "dash") | {
        "yaxis": "y2",
        "hovertemplate": hover(t("chart.training.hover.rate", step="%{x}", rate="%{y:.3g}")),
    }
    return figure_of(
        [loss, rate],
        t("chart.training.title"),
        "training_loss",
        HEIGHT,
        xaxis=_steps_axis(history, t),
        yaxis={"title": t("chart.training.axis.loss")},
        yaxis2={
            "title": t("chart.training.axis.rate"),
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
            "tickformat": ".1e",
            "automargin": True,
        },
    )


def recovery_perplexity(history: TrainingHistory, t: Translate) -> go.Figure:
    """Perplexity at each evaluation between two lines: the unpruned model, and the model that training began with."""
    measured = history.measured
    curve = _line(measured["step"], measured["perplexity"], COLOURS[STAGE_COLOURS["recovered"]], t("chart.recovery.curve")) | {
        "mode": "lines+markers",
        "marker": {"size": 8, "symbol": "circle"},
        "hovertemplate": hover(t("chart.recovery.hover", step="%{x}", perplexity="%{y:,.4g}")),
    }
    began = "repaired" if history.began_repaired else "after"
    lines = [line for line in (("before", history.before, "dash"), (began, history.after, "dot")) if line[1] is not None]
    across = [
        _line(
            [0, history.steps],
            [value, value],
            COLOURS[STAGE_COLOURS[stage]],
            t(f"chart.recovery.line.{stage}", perplexity=f"{value:,.2f}"),
            dash,
        )
        | {"hoverinfo": "name"}
        for stage, value, dash in lines
    ]
    numbers = np.array([*measured["perplexity"], *(value for _, value, _ in lines)])
    return figure_of(
        [*across, curve, *_best(history, t)],
        t("chart.recovery.title"),
        "recovery_perplexity",
        HEIGHT,
        xaxis=_steps_axis(history, t),
        yaxis={
            "title": t("chart.perplexity.axis.basis", **history.validation),
            "type": "log" if spans_decades(numbers) else "linear",
        },
    )


def repair_errors(matrices: pd.DataFrame, num_layers: int, t: Translate) -> go.Figure:
    """Output error of each repaired matrix before and after, `o_proj` above `down_proj` where both were repaired.

    `matrices` is what `repaired_matrices` of runs/training_history.py gives; `num_layers` are those of the model before the
    cut.
    """
    shown = [matrix for matrix in _KIND_OF if (matrices["matrix"] == matrix).any()]
    axes = {matrix: {"title": matrix, "tickformat": ".0%", "rangemode": "tozero"} for matrix in shown}
    if len(shown) > 1:
        panels = attention_above_mlp(t)
        layout = {"yaxis2": panels["yaxis2"] | axes["o_proj"], "yaxis": panels["yaxis"] | axes["down_proj"]}
    else:
        layout = {"yaxis": axes[shown[0]]} if shown else {}
    traces = [
        _errors(matrices[matrices["matrix"] == matrix], matrix, when, t)
        | {"yaxis": "y" if matrix == shown[-1] else "y2", "showlegend": matrix == shown[0]}
        for matrix in shown
        for when in _STAGE_OF
    ]
    height = HEIGHT if len(shown) > 1 else SMALL
    return figure_of(traces, t("chart.repair.title"), "repair_errors", height, xaxis=layer_axis(num_layers, t), **layout)


def _errors(rows: pd.DataFrame, matrix: str, when: str, t: Translate) -> dict:
    stage = _STAGE_OF[when]
    return {
        "type": "bar",
        "name": t(f"chart.stage.{stage}"),
        "legendgroup": stage,
        "offsetgroup": stage,
        "x": rows["layer_idx"].to_numpy(),
        "y": rows[f"error_{when}"].to_numpy(),
        "meta": {"kind": _KIND_OF[matrix]},
        "marker": marker(STAGE_COLOURS[stage], STAGE_PATTERNS[stage]),
        "hovertemplate": hover(
            t("chart.repair.hover", layer="%{x}", matrix=matrix, stage=t(f"chart.stage.{stage}"), error="%{y:.2%}")
        ),
    }


def _best(history: TrainingHistory, t: Translate) -> list[dict]:
    """The state that is kept, ringed."""
    if history.best_step is None:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": t("chart.recovery.best", step=f"{history.best_step:,}", perplexity=f"{history.best_perplexity:,.2f}"),
            "x": [history.best_step],
            "y": [history.best_perplexity],
            "marker": {"symbol": "circle-open", "size": 17, "color": TEXT, "line": {"width": 3}},
            "hoverinfo": "skip",  # the point under it answers
        }
    ]


def _line(x, y, colour: str, name: str, dash: str = "solid") -> dict:
    line = {"color": colour, "width": 2, "dash": dash}
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": line}


def _steps_axis(history: TrainingHistory, t: Translate) -> dict:
    """From nothing to the last step, so that the curve grows into its chart."""
    return {"title": t("chart.axis.step"), "range": [-0.02 * history.steps, 1.02 * history.steps]}
