"""The sidebar of every screen: which model, which experiment, how far it got."""

import streamlit as st

from pruning.experiment import Experiment
from pruning.runs.damage import fault_of
from pruning.runs.status import state_of
from ui import language, page_frame, tour, workspace
from ui.translation import error_text, t

_PICKER_KEY, _LANGUAGE_KEY = "experiment_picker", "language_picker"


def show() -> None:
    """Draws the sidebar below the navigation."""
    with st.sidebar:
        st.caption(t("sidebar.model", model=workspace.chosen_model()))
        _experiment_picker()
        experiment = workspace.current_experiment()
        if experiment is not None:
            _about(experiment)
        tour.switch()
        _language_picker()


def _experiment_picker() -> None:
    names = [experiment.name for experiment in workspace.experiments()]
    current = workspace.current_experiment()
    if current and current.name not in names:
        names.insert(0, current.name)
    # The open experiment may change elsewhere (a job was started); the picker follows it.
    st.session_state[_PICKER_KEY] = current.name if current else None
    st.selectbox(
        t("sidebar.experiment"),
        names,
        key=_PICKER_KEY,
        placeholder=t("sidebar.none_open" if names else "sidebar.no_experiment"),
        help=t("sidebar.experiment.help", root=workspace.output_root()),
        disabled=not names,
        on_change=lambda: workspace.open_experiment(st.session_state[_PICKER_KEY]),
    )


def _about(experiment: Experiment) -> None:
    if (fault := fault_of(experiment)) is not None:  # the pages must open all the same
        st.caption(t("sidebar.state.damaged"))
        st.error(error_text(fault))
        return
    with page_frame.explaining_damage():
        st.caption(t(f"sidebar.state.{state_of(experiment)}"))
        base_model = experiment.settings.base_model
        if base_model != workspace.chosen_model():
            st.caption(t("sidebar.other_model", model=str(base_model)))


def _language_picker() -> None:
    """The same text in every language, so that a person who cannot read the page finds it."""
    st.session_state[_LANGUAGE_KEY] = language.current()
    st.segmented_control(
        t("sidebar.language"),
        language.LANGUAGES,
        format_func=lambda name: t(f"sidebar.language.{name}"),
        required=True,
        key=_LANGUAGE_KEY,
        on_change=lambda: language.choose(st.session_state[_LANGUAGE_KEY]),
    )
