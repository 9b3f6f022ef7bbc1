"""Recover: win back what a cut cost, by repair without training, LoRA or training in full."""

from functools import partial

import streamlit as st

from pruning.errors import PruningError
from ui import job_panel, workspace
from ui.page_frame import explanation, first_do, heading
from ui.recover import form, results
from ui.translation import error_text, t

heading("recover")
experiment = workspace.current_experiment()
if experiment is None or not experiment.is_recoverable:
    first_do("prune", "not_recoverable")
try:
    plan = experiment.read_plan()
    cancelled = results.cancelled_sentence(experiment)
    was_recovered = results.has_results(experiment)
except PruningError as error:
    st.error(error_text(error), icon=":material/error:")
    st.stop()

top = st.container()
active = job_panel.show(experiment, results.JOBS, partial(results.live, experiment), cancelled)
with top, st.expander(t("recover.form"), icon=":material/healing:", expanded=not (active or was_recovered)):
    form.show(experiment, plan, disabled=active)
if not active:
    job_panel.watch(experiment)
    results.advice(experiment)
if was_recovered and not active:
    results.results(experiment, plan)
explanation("recover")
if was_recovered and not active:
    results.links()
