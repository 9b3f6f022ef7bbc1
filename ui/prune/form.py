"""What will be cut, how it will be judged, and the button that cuts."""

from dataclasses import replace

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.planning.plan import PruningPlan, plan_totals
from pruning.planning.planner import settings_give
from pruning.runs.jobs import queue
from pruning.settings import resolve
from ui import settings_widgets, workspace
from ui.access import check_corpus
from ui.translation import error_text, t
from ui.workspace import Measured

_ERROR_KEY = "cut_error"
_JUDGED_BY = ("prompt", "eval_corpus", "eval_seq_len", "eval_windows")
_CUT_BY = ("iterative_steps", "reconstruct", "reconstruct_tokens")
_MOST_ROUNDS = 100


def show(found: Measured, plan: PruningPlan, disabled: bool) -> None:
    """Draws the form; the button hands the cut to the worker."""
    experiment = found.experiment
    totals = plan_totals(plan, 1)
    with st.container(border=True):
        st.markdown(
            t(
                "prune.plan",
                ratio=plan.actual_ratio,
                target=plan.settings.get("pruning_ratio", plan.actual_ratio),
                basis=t(f"basis.{plan.target_basis}"),
                attention=totals.attention_groups_removed,
                mlp=totals.mlp_channels_removed,
                layers=totals.layers_removed,
            )
        )
        _way_of_cutting(found, plan)
        with st.expander(t("prune.judge")):
            columns = st.columns(3)
            with columns[0]:
                settings_widgets.text("eval_corpus")
            with columns[1]:
                settings_widgets.number("eval_windows", max_value=1_000_000)
            with columns[2]:
                settings_widgets.number("eval_seq_len", max_value=131_072)
            settings_widgets.area("prompt")
        label = t("prune.again") if workspace.result_of(experiment) else t("prune.start")
        st.button(
            label,
            type="primary",
            icon=":material/content_cut:",
            on_click=_start,
            args=(experiment,),
            disabled=disabled,
            key="cut",
        )
        if message := st.session_state.pop(_ERROR_KEY, None):
            st.error(message, icon=":material/error:")


def _way_of_cutting(found: Measured, plan: PruningPlan) -> None:
    """At once or in rounds; with repair or without. A plan that the settings do not give is cut as it is."""
    is_of_settings = settings_give(plan, found.table, found.experiment.settings, found.layers)
    if not is_of_settings:
        st.session_state["iterative_steps"] = 1
    columns = st.columns(3, vertical_alignment="bottom")
    with columns[0]:
        rounds = settings_widgets.number("iterative_steps", max_value=_MOST_ROUNDS, disabled=not is_of_settings)
    with columns[1]:
        repairs = settings_widgets.switch("reconstruct")
    with columns[2]:
        settings_widgets.number("reconstruct_tokens", max_value=10_000_000, disabled=not repairs)
    if rounds > 1:
        st.caption(t("prune.rounds", rounds=rounds))
    elif (made_in := plan.settings.get("iterative_steps", 1)) > 1:
        st.caption(t("prune.rounds.made", rounds=made_in))
    elif not is_of_settings:
        st.caption(t("prune.rounds.fixed"))


def _start(experiment: Experiment) -> None:
    try:
        given = {name: st.session_state[name] for name in (*_JUDGED_BY, *_CUT_BY) if st.session_state.get(name) is not None}
        known = experiment.settings
        check_corpus(given.get("eval_corpus", known.eval_corpus))
        settings = replace(known, **resolve(given).of(given))
        asked = {"test_before_prune": True, "test_after_prune": True, "save_model": True, "finetune": False}
        queue().submit("prune", experiment, workspace.permissions(experiment), {"settings": settings.as_dict() | asked})
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
