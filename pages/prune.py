"""Prune: cut for real, then see exactly what changed."""

import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.planning.matrices import checks, layer_table
from ui import job_panel, workspace, written_texts
from ui.links import link
from ui.page_frame import chart, explanation, first_do, heading, measured_or_stop
from ui.prune import form, matrices
from ui.recover import repair
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

top = st.container()
active = job_panel.show(experiment, ("prune",))
with top:
    form.show(found, plan, disabled=active)
result = workspace.result_of(experiment)
if result is None:
    if not active:
        st.info(t("prune.empty"), icon=":material/info:")
    st.stop()

metrics, samples = result.metrics, result.samples
st.subheader(t("prune.result", experiment=experiment.name))
matrices.totals(metrics)

layers = layer_table(plan, result.matrices)
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

repair.show(experiment, plan.shape.num_layers)
st.subheader(t("prune.matrices"))
matrices.checks(checks(plan, result.matrices))
matrices.table(result.matrices, f"{experiment.name}-pruning_analysis.csv")
explanation("prune", layers=plan.shape.num_layers)
with st.container(horizontal=True):
    link("recover", t("prune.recover"))
    link("export", t("prune.next"))
