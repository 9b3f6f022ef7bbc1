"""Trials and sweeps: plans tried by masking, in the worker, so that settings can be compared without cutting."""

import pandas as pd
import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.planning.allocation import parse_split
from pruning.planning.plan import PruningPlan
from pruning.runs import trials
from pruning.runs.jobs import queue
from pruning.runs.trials import JUDGED_BY, WHOLE, Trial, Waiting
from pruning.settings import SETTINGS, Settings, merged
from pruning.strategies import STRATEGIES
from ui import settings_widgets, workspace
from ui.access import check_corpus
from ui.page_frame import chart
from ui.plan import fixed, form
from ui.plan.values import values_of
from ui.translation import duration, error_text, t, words
from ui.workspace import Measured

_AXES = ("split", "ratio", "grid")
_MOST_SHOWN = 50


def preview(found: Measured, plan: PruningPlan, disabled: bool) -> None:
    """The button that tries the plan on screen, and the list of what was tried."""
    judged_by = _judged_by(found)
    known = trials.find_plan(_trials(found), plan, judged_by)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _windows()
        _start_button(
            found,
            t("trial.preview"),
            [_waiting(found, plan)],
            judged_by,
            disabled or known is not None,
            key="preview",
        )
    whole = trials.find_by_digest(_trials(found), WHOLE, judged_by)
    if known is not None:
        text = t("trial.known", perplexity=_shown(known.perplexity), **_basis(known))
        if whole is not None:
            text += " " + t("trial.whole", perplexity=_shown(whole.perplexity))
        st.success(text, icon=":material/check:")
    else:
        st.caption(t("trial.explanation"))
    _list(found)


def sweep(found: Measured, settings: Settings, disabled: bool) -> None:
    """Split, ratio or both over their whole range: the button, the chart, and the point that is clicked."""
    judged_by = _judged_by(found)
    axis = st.segmented_control(
        t("trial.axis"), _AXES, default="split", format_func=lambda a: t(f"trial.axis.{a}"), required=True, key="sweep_axis"
    )
    points = trials.sweep(settings, axis)
    all_trials = _trials(found)
    known = [trials.find_by_settings(all_trials, found.table, one, judged_by) for one in points]
    done = {i: trial for i, trial in enumerate(known) if trial is not None}
    missing = [Waiting(one) for i, one in enumerate(points) if i not in done]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _windows()
        label = t(f"trial.sweep.{_progress(len(missing), len(points))}", points=len(missing))
        _start_button(found, label, missing, judged_by, disabled or not missing, key="sweep")
    if missing:
        st.caption(_expected_time(all_trials, judged_by, len(missing)))
    if STRATEGIES[settings.strategy].has_layer_rates:
        st.caption(t("trial.sweep.bounds"))
    if not done:
        return
    current = (settings.pruning_distribution, settings.pruning_ratio)
    shown = [_point(points[i], trial) for i, trial in done.items()]
    figure = charts.sweep_grid(shown, words, current) if axis == "grid" else charts.sweep_curve(shown, axis, words, current)
    chart(figure, f"sweep_{axis}", t("trial.sweep.alt"), on_click=lambda click: _take(found, points[0], click))
    st.caption(t("trial.click"))


def _progress(missing: int, points: int) -> str:
    """Which label the sweep's button has, as the end of its key."""
    return "start" if missing == points else "go_on" if missing else "done"


def _take(found: Measured, swept: dict, click: dict) -> None:
    """Makes the clicked point the current setting, with the bounds of the sweep; runs before the page is drawn."""
    where = click.get("customdata")
    if not where:
        return
    split, ratio = str(where[0]), float(where[1])
    values = form.values_now(found.experiment)
    name = "split" if STRATEGIES[values["strategy"]].compares_layers else "shares"
    bounds = (swept["layer_min_pruning_rate"], swept["layer_max_pruning_rate"])
    _set_sliders(found, values | {name: split, "ratio": ratio, "bounds": bounds})


def _set_sliders(found: Measured, values: dict) -> None:
    fixed.leave(found.experiment)
    form.set_values(found.experiment.name, values)


def _point(settings: dict, trial: Trial) -> dict:
    split = settings["pruning_distribution"]
    shares = parse_split(split)
    return {
        "split": split,
        "attention_share": shares[0] if shares else None,
        "ratio": settings["pruning_ratio"],
        "actual_ratio": trial.actual_ratio,
        "perplexity": trial.perplexity,
        "reason": trial.reason,
    }


def _list(found: Measured) -> None:
    """What was tried, newest first; the chosen row's settings can be taken."""
    tried = [trial for trial in reversed(_trials(found)) if trial.digest != WHOLE and not trial.reason][:_MOST_SHOWN]
    if not tried:
        return
    rows = pd.DataFrame([_row(trial) for trial in tried])
    selected = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="trial_rows",
        column_config={
            "strategy": st.column_config.TextColumn(t("plan.strategy")),
            "target": st.column_config.NumberColumn(t("plan.target"), format="percent"),
            "split": st.column_config.TextColumn(t("plan.split")),
            "actual": st.column_config.NumberColumn(t("plan.actual"), format="percent"),
            "perplexity": st.column_config.NumberColumn(t("trial.perplexity"), format="%.3f"),
            "basis": st.column_config.TextColumn(t("trial.basis")),
        },
        alt=t("trial.list.alt"),
    )
    chosen = [tried[i] for i in selected.selection.rows if i < len(tried)]
    usable = bool(chosen) and "strategy" in chosen[0].settings
    st.button(
        t("trial.take"),
        icon=":material/tune:",
        key="take_trial",
        disabled=not usable,
        on_click=lambda: _set_sliders(found, values_of(merged(Settings(), chosen[0].settings), found.table.shape.num_layers)),
    )


def _row(trial: Trial) -> dict:
    settings = trial.settings
    return {
        "strategy": words(f"plan.strategy.{settings['strategy']}") if "strategy" in settings else words("trial.from_file"),
        "target": settings.get("pruning_ratio"),
        "split": settings.get("pruning_distribution"),
        "actual": trial.actual_ratio,
        "perplexity": trial.perplexity,
        "basis": words("trial.basis.text", **_basis(trial)),
    }


def _start_button(found: Measured, label: str, waiting: list[Waiting], judged_by: dict, disabled: bool, key: str) -> None:
    if not st.button(label, icon=":material/experiment:", key=key, disabled=disabled):
        return
    try:
        check_corpus(judged_by["eval_corpus"])
        asked = trials.arguments(waiting, judged_by)
        queue().submit("try", found.experiment, workspace.permissions(found.experiment), asked)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    st.rerun()


def _windows() -> None:
    settings_widgets.number("eval_windows", max_value=1_000_000, width=160)


def _judged_by(found: Measured) -> dict:
    known = found.experiment.settings
    windows = st.session_state.get("eval_windows", SETTINGS["eval_windows"].default)  # as its field, which is drawn below
    return known.of(JUDGED_BY) | {"eval_windows": windows}


def _trials(found: Measured) -> list[Trial]:
    return trials.read_trials(found.experiment)


def _waiting(found: Measured, plan: PruningPlan) -> Waiting:
    """The plan on screen: by its settings where the sliders give it, else as it is, under its name."""
    name = fixed.name_of(found.experiment)
    return Waiting(plan.settings) if name is None else Waiting({"name": name, "digest": plan.digest}, plan.to_json())


def _basis(trial: Trial) -> dict:
    return {name: trial.basis.get(name, "?") for name in ("dataset", "windows", "seq_len")}


def _expected_time(all_trials: list[Trial], judged_by: dict, count: int) -> str:
    measured = [trial.seconds for trial in all_trials if trial.judged_by == judged_by and trial.seconds]
    if not measured:
        return t("trial.sweep.points", points=count)
    return t("trial.sweep.time", points=count, time=duration(count * measured[-1]))


def _shown(perplexity: float | None) -> str:
    return t("prune.infinite") if perplexity is None else f"{perplexity:.2f}"
