"""Prune: cut for real, then see exactly what changed."""

import streamlit as st

from analysis import charts, diff
from pruning.errors import PruningError
from ui import cut_form, job_panel, matrix_view, repair_view, workspace, written_texts
from ui.page_frame import chart, explanation, first_do, heading, measured_or_stop
from ui.translation import error_text, t, words

heading("prune")
found = measured_or_stop()
experiment = found.experiment
if not experiment.is_planned:
    first_do("plan", "not_planned")
try:
    plan = experiment.read_plan()
except PruningError as error:
    st.error(error_text(error), icon=":material/error:")
    st.stop()

form = st.container()
active = job_panel.show(experiment, ("prune",))
with form:
    cut_form.show(found, plan, disabled=active)
result = workspace.result_of(experiment)
if result is None:
    if not active:
        st.info(t("prune.empty"), icon=":material/info:")
    st.stop()

matrices, metrics, samples = result.matrices, result.metrics, result.samples
st.subheader(t("prune.result", experiment=experiment.name))
matrix_view.totals(metrics)

layers = diff.layer_table(plan, matrices)
chart(charts.sparsity_bars(layers, plan, words), "sparsity", t("prune.sparsity.alt"))
left, right = st.columns([3, 2])
with left:
    chart(charts.groups_cut(plan, words), "groups_cut", t("prune.groups.alt"))
with right:
    if metrics.get("perplexity"):
        chart(charts.perplexity_bars(metrics, words), "perplexity", t("prune.perplexity.alt"))
        st.caption(t("prune.perplexity.basis", **metrics["basis"]))

if samples:
    st.subheader(t("prune.samples"))
    st.caption(t("prune.samples.basis"))
    written_texts.show(samples, ("before", "after", "repaired"))

repair_view.show(experiment, plan.shape.num_layers)
st.subheader(t("prune.matrices"))
matrix_view.checks(diff.checks(plan, matrices))
matrix_view.table(matrices, f"{experiment.name}-pruning_analysis.csv")
explanation("prune", layers=plan.shape.num_layers)
with st.container(horizontal=True):
    st.page_link(workspace.PAGES_FOLDER / "recover.py", label=t("prune.recover"), icon=":material/arrow_forward:")
    st.page_link(workspace.PAGES_FOLDER / "export.py", label=t("prune.next"), icon=":material/arrow_forward:")
