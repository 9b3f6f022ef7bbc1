"""What will be cut, how it will be judged, and the button that cuts."""

import streamlit as st

from analysis import size
from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.planning.plan import PruningPlan
from pruning.runs.jobs import queue
from pruning.settings import resolve
from ui import settings_widgets, workspace
from ui.access import check_corpus
from ui.translation import error_text, t

_ERROR_KEY = "cut_error"
_JUDGED_BY = ("prompt", "eval_corpus", "eval_seq_len", "eval_windows")


def show(experiment: Experiment, plan: PruningPlan, disabled: bool) -> None:
    """Draws the form; the button hands the cut to the worker."""
    totals = size.plan_totals(plan, 1)
    with st.container(border=True):
        st.markdown(
            t(
                "prune.plan",
                ratio=plan.actual_ratio,
                target=plan.settings.get("pruning_ratio", plan.actual_ratio),
                basis=t(f"basis.{plan.settings.get('ratio_basis', 'model')}"),
                attention=totals.attention_groups_removed,
                mlp=totals.mlp_channels_removed,
                layers=totals.layers_removed,
            )
        )
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


def _start(experiment: Experiment) -> None:
    try:
        given = {name: st.session_state[name] for name in _JUDGED_BY if st.session_state.get(name) is not None}
        known = experiment.settings
        check_corpus(given.get("eval_corpus", known["eval_corpus"]))
        settings = known | {name: resolve(given)[name] for name in given}
        experiment.write_settings(settings | {"test_before_prune": True, "test_after_prune": True, "save_model": True})
        queue().submit("prune", experiment, workspace.hub_token())
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
