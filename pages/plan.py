"""Plan: ratio, protection and balance by slider; every change is drawn from the table, the model is not touched."""

import streamlit as st

from pruning.errors import PruningError
from pruning.planning.planner import Planned, plan_from_settings
from pruning.settings import Settings
from ui import job_panel, sections
from ui.page_frame import explanation, fragment, heading, measured_or_stop
from ui.plan import fixed, form, groups, hand_changes, named, results, saving, trials, upload
from ui.translation import error_text, t
from ui.workspace import Measured

SECTIONS = ("groups", "preview", "sweep", "plans", "file")
LAST_VALID = "last_valid_plan"

heading("plan")
found = measured_or_stop()
table, experiment = found.table, found.experiment
active = job_panel.show(experiment, ("try",))


@fragment
def shape_plan() -> None:
    """Sliders and their charts: moving one redraws only these."""
    controls, shown = st.columns([3, 7], gap="medium")
    problem = None
    with controls:
        try:
            fixed.open_first(found, form.opened_by_link(table.shape.num_layers))
            fixed.open_waiting(found)
            settings = form.show(experiment, table.shape, found.layers is not None)
            planned = plan_now(found, settings)
            st.session_state[LAST_VALID] = experiment.name, planned
        except PruningError as error:
            of, planned = st.session_state.get(LAST_VALID, (None, None))
            problem, planned = error, planned if of == experiment.name else None
    with shown:
        messages = st.container()  # always there, so that charts below it stay where they are
        if problem is not None:
            messages.error(error_text(problem), icon=":material/error:")
        if planned is None:
            return
        with messages:
            fixed_plan_note()
            if problem is not None:
                st.caption(t("plan.last_valid"))
            results.sentences(found, planned)
        results.strip(planned.plan, found.bytes_per_parameter)
        results.show_charts(found, planned)
    if problem is not None:
        return
    with controls:
        saving.show(found, planned)
    section = sections.pick("plan", SECTIONS)
    if section == "groups":
        groups.show(table, planned.plan, planned.protection, f"{experiment.name}-groups.csv", change_by_hand)
    elif section == "preview":
        trials.preview(found, planned.plan, disabled=active)
    elif section == "sweep":
        trials.sweep(found, settings, disabled=active)
    elif section == "plans":
        named.show(found, planned.plan)
    else:
        upload.show(found, settings)


def plan_now(found: Measured, settings: Settings) -> Planned:
    """The plan that is open: a kept one, or the one that the sliders give."""
    name = fixed.name_of(found.experiment)
    if name is not None:
        return fixed.planned(found, name, settings)
    return plan_from_settings(found.table, settings, found.layers)


def fixed_plan_note() -> None:
    """Says that a kept plan is shown instead of the sliders' plan, and offers to go back to the sliders."""
    name = fixed.name_of(experiment)
    if name is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(t("plan.fixed", name=name), icon=":material/bookmark:")
            st.button(t("plan.fixed.leave"), key="leave_fixed", on_click=fixed.leave, args=(experiment,))


def change_by_hand(what: str, positions) -> None:
    hand_changes.change(experiment, table.groups, what, positions)


shape_plan()
layer = table.shape.layers[0]
explanation("plan", attention=layer.attention_group_cost, mlp=layer.mlp_channel_cost, layers=table.shape.num_layers)
