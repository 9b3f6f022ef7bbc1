"""What every chapter of the Learn page needs: the model, its measurement if there is one, links to try things."""

from dataclasses import dataclass

import streamlit as st

from pruning.errors import PruningError
from pruning.planning.shape import ModelShape
from ui import workspace
from ui.importance import form as calibration_form
from ui.links import go_to
from ui.plan import form as plan_form
from ui.plan.values import default_values
from ui.translation import error_text, t
from ui.workspace import Measured


@dataclass(frozen=True)
class Subject:
    """The model that the chapters are about: that of the open experiment, else the chosen one. `active`: a job runs."""

    name: str
    shape: ModelShape
    found: Measured | None
    active: bool


def subject(active: bool) -> Subject | None:
    """The model that the page is about; None, with the reason shown, if not even its sizes are known."""
    try:
        found = workspace.measured()
        if found is not None:
            return Subject(found.experiment.settings.base_model, found.table.shape, found, active)
        name = workspace.chosen_model()
        return Subject(name, workspace.summary_of(name).shape, None, active)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return None


def measured(about: Subject) -> Measured | None:
    """The measurement of this model; without one, the offer to make it."""
    if about.found is None:
        st.info(t("learn.not_measured", model=about.name), icon=":material/info:")
        calibration_form.offer(about.active)
    return about.found


def try_plan(about: Subject, chapter: str, **values) -> None:
    """The end of a chapter: something to try on the Plan page, opened with these values of its widgets."""
    if about.found is None:
        return
    experiment = about.found.experiment
    wanted = default_values(about.shape.num_layers) | values
    _try(chapter, "plan", lambda: plan_form.set_values(experiment.name, wanted))


def try_importance(about: Subject, chapter: str, section: str) -> None:
    """The same on a section of the Importance page."""
    if about.found is not None:
        _try(chapter, "importance", lambda: st.session_state.update(importance_section=section))


def _try(chapter: str, page: str, prepare) -> None:
    with st.container(border=True, key=f"try_{chapter}"):
        st.markdown(t(f"learn.{chapter}.try"))
        if st.button(t(f"learn.open.{page}"), icon=":material/arrow_forward:", key=f"open_{chapter}", on_click=prepare):
            go_to(page)
