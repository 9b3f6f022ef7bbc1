"""Export: the checked model folder, packed and downloaded."""

import streamlit as st

from analysis import size
from pruning.experiment import ZIP_FILE
from pruning.planning.checkpoint_header import CheckpointHeader
from ui import export_form, job_panel, workspace
from ui.page_frame import explanation, first_do, heading, measured_or_stop
from ui.translation import t

heading("export")
experiment = measured_or_stop().experiment
result = workspace.result_of(experiment)
check = result.metrics.get("export_check", {}).get("hf") if result else None
if check is None or not experiment.is_saved:
    first_do("prune", "not_cut")

header = CheckpointHeader.read(experiment.model_folder)
st.subheader(t("export.format"))
st.markdown(t("export.kind.stock" if header.shape.is_uniform else "export.kind.own", model_type=header.config["model_type"]))
with st.container(horizontal=True):
    st.metric(t("export.size"), size.readable(header.weight_bytes), border=True)
    st.metric(t("export.dtype"), header.dtype, border=True)
    st.metric(t("export.difference"), f"{check['max_abs_diff']:.1e}", border=True, help=t("export.difference.help"))
    st.metric(t("export.top1"), f"{check['top1']:.2%}", border=True, help=t("export.top1.help"))
st.success(t("export.checked"), icon=":material/verified:")

active = job_panel.show(experiment, ("pack",))
export_form.show(experiment, disabled=active)
if experiment.has(ZIP_FILE) and not active:
    export_form.download(experiment)
st.markdown(t("export.folder", folder=experiment.model_folder.resolve()))
st.subheader(t("export.load"))
st.code(export_form.sample_code(header), language="python")
with st.expander(t("export.card")):
    st.markdown(experiment.path("model", "README.md").read_text(encoding="utf-8").partition("\n---\n")[2])
explanation("export")
