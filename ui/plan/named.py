"""Plans kept under a name: keep the one on screen, open one, compare two, forget one."""

import pandas as pd
import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.planning.plan import PruningPlan, plan_totals
from pruning.words import readable_size
from ui import workspace
from ui.page_frame import chart
from ui.plan import fixed
from ui.translation import error_text, t, words
from ui.workspace import Measured

_ERROR_KEY, _NAME_KEY = "named_plan_error", "plan_name"
_ON_SCREEN = ""  # stands for the plan on screen; no kept plan can have this name


def show(found: Measured, plan: PruningPlan) -> None:
    """The field that keeps the plan, the list of those kept, and the comparison."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(t("plans.name"), key=_NAME_KEY, placeholder=t("plans.name.placeholder"))
        st.button(t("plans.keep"), icon=":material/bookmark_add:", key="keep_plan", on_click=_keep, args=(found, plan))
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")
    names = found.experiment.named_plans()
    if not names:
        st.info(t("plans.empty"), icon=":material/info:")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(t("plans.kept"), names, key="named_plan")
        st.button(
            t("plans.open"),
            icon=":material/folder_open:",
            key="open_plan",
            on_click=_do(fixed.open_named),
            args=(found, chosen),
        )
        st.button(t("plans.forget"), icon=":material/delete:", key="forget_plan", on_click=_do(_forget), args=(found, chosen))
    _comparison(found, plan, names)


def _comparison(found: Measured, plan: PruningPlan, names: list[str]) -> None:
    st.markdown(f"**{t('plans.compare')}**")
    choices = [_ON_SCREEN, *names]
    left, right = st.columns(2)
    first = left.selectbox(t("plans.first"), choices, format_func=_shown_name, key="compare_first")
    second = right.selectbox(t("plans.second"), choices, index=1, format_func=_shown_name, key="compare_second")
    try:
        pair = [plan if name == _ON_SCREEN else workspace.named_plan(found.experiment, name) for name in (first, second)]
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    shown = (_shown_name(first), _shown_name(second))
    rows = [_row(name, one, found.bytes_per_parameter) for name, one in zip(shown, pair, strict=True)]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={
            "plan": st.column_config.TextColumn(t("plans.name")),
            "ratio": st.column_config.NumberColumn(t("plan.actual"), format="percent"),
            "parameters": st.column_config.NumberColumn(t("plan.parameters"), format="localized"),
            "size": st.column_config.TextColumn(t("plan.size")),
            "attention": st.column_config.NumberColumn(t("plan.heads_removed"), format="localized"),
            "mlp": st.column_config.NumberColumn(t("plan.channels_removed"), format="localized"),
            "layers": st.column_config.NumberColumn(t("plan.layers_removed")),
        },
        alt=t("plans.compare"),
    )
    if pair[0].digest == pair[1].digest:
        st.success(t("plans.same"), icon=":material/check:")
    else:
        chart(charts.plan_difference(pair[0], pair[1], shown, words), "difference", t("plans.difference.alt"))


def _shown_name(name: str) -> str:
    return words("plans.on_screen") if name == _ON_SCREEN else name


def _row(name: str, plan: PruningPlan, bytes_per_parameter: int) -> dict:
    totals = plan_totals(plan, bytes_per_parameter)
    return {
        "plan": name,
        "ratio": plan.actual_ratio,
        "parameters": totals.parameters_after,
        "size": readable_size(totals.bytes_after),
        "attention": totals.attention_groups_removed,
        "mlp": totals.mlp_channels_removed,
        "layers": totals.layers_removed,
    }


def _keep(found: Measured, plan: PruningPlan) -> None:
    try:
        found.experiment.write_named_plan(st.session_state[_NAME_KEY].strip(), plan)
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
        return
    st.session_state["named_plan"] = st.session_state[_NAME_KEY].strip()
    st.session_state[_NAME_KEY] = ""


def _forget(found: Measured, name: str) -> None:
    if fixed.name_of(found.experiment) == name:
        fixed.leave(found.experiment)
    found.experiment.forget_named_plan(name)
    st.session_state.pop("named_plan", None)


def _do(action):
    """The action as a callback: an error becomes a sentence on the page."""

    def callback(*args) -> None:
        try:
            action(*args)
        except PruningError as error:
            st.session_state[_ERROR_KEY] = error_text(error)

    return callback
