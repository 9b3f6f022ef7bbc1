"""Export: the cut model in the form a person needs, made, checked and downloaded."""

import streamlit as st

from pruning.planning.checkpoint_header import CheckpointHeader
from ui import job_panel, workspace
from ui.export import form
from ui.page_frame import explanation, first_do, heading, measured_or_stop
from ui.translation import t

heading("export")
experiment = measured_or_stop().experiment
result = workspace.result_of(experiment)
checks = result.metrics.get("export_check", {}) if result else {}
if not checks.get("hf") or not experiment.is_saved:
    first_do("prune", "not_cut")

header = CheckpointHeader.read(experiment.model_folder)
name = form.choose_format(header)
active = job_panel.show(experiment, ("pack", "export"))
form.clean_up(experiment, disabled=active)
if form.is_possible(experiment, name, header):
    form.show_check(checks.get(name))
    form.show(experiment, name, disabled=active)
    if not active:
        form.download(experiment, name, checks)
    st.subheader(t("export.load"))
    form.show_code(experiment, name, header)
form.push(experiment, disabled=active)
st.markdown(t("export.folder", folder=experiment.model_folder.resolve()))
with st.expander(t("export.card")):
    # As it is, not drawn: a card is a stranger's text where the experiment is, and its pictures would be fetched.
    st.code(experiment.path("model", "README.md").read_text(encoding="utf-8"), language="markdown", wrap_lines=True)
explanation("export")
