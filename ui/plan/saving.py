"""The button that writes a plan into the experiment, so that it can be cut."""

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.planning.planner import Planned
from pruning.runs.status import idle
from ui import workspace
from ui.links import link
from ui.translation import error_text, t
from ui.workspace import Measured


def show(found: Measured, planned: Planned) -> None:
    """Draws the button; a plan for an experiment that was cut already goes into a new one, nothing is overwritten."""
    saved, plan = workspace.saved_plan(found.experiment), planned.plan
    if saved is not None and saved.remove_empty_layers == plan.remove_empty_layers and (saved.kept == plan.kept).all():
        st.success(t("plan.saved"), icon=":material/check:")
        link("prune", t("plan.next"))
        return
    if found.was_cut:
        st.caption(t("plan.save.branch", experiment=found.experiment.name))
    if st.button(t("plan.save"), type="primary", icon=":material/check:", width="stretch", key="save_plan"):
        try:
            experiment = _save(found, planned)
        except PruningError as error:
            st.error(error_text(error), icon=":material/error:")
            return
        # Not st.switch_page: it would clear the URL, which Streamlit refuses while sliders are bound to it.
        workspace.open_experiment(experiment.name)
        st.rerun()


def _save(found: Measured, planned: Planned) -> Experiment:
    def write(experiment: Experiment) -> None:
        experiment.write_plan(planned.plan, found.table, planned.rates)
        experiment.change_settings(**planned.plan.settings | {"experiment_name": experiment.name})

    with idle(found.experiment, but_for="try"):  # trying reads no plan.json
        if not found.was_cut:
            write(found.experiment)
            return found.experiment
    return found.experiment.branch(write)  # which gives it the name that is free
