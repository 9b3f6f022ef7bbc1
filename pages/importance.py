"""Importance: measure on calibration text, then see layers and groups."""

import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.planning.allocation import Protection
from pruning.planning.shape import ATTENTION, MLP
from ui import calibration_form, job_panel, workspace
from ui.page_frame import chart, explanation, heading
from ui.translation import error_text, plain, t

heading("importance")
st.caption(t("importance.model", model=plain(workspace.chosen_model())))

experiment = workspace.current_experiment()
form = st.container()
active = job_panel.show(experiment, ("measure",)) if experiment else False
with form:
    calibration_form.show(disabled=active)

try:
    found = workspace.measured()
except PruningError as error:
    st.error(error_text(error), icon=":material/error:")
    st.stop()
if found is None:
    if not active:
        st.info(t("importance.empty"), icon=":material/info:")
    st.stop()

table, source = found.table, found.table.source
st.subheader(t("importance.result", experiment=found.experiment.name))
if "calibration" in source:
    calibration = source["calibration"] | {"corpus": plain(source["calibration"]["corpus"])}
    st.caption(t("importance.basis", method=source["method"], groups=len(table.order), **calibration))
else:
    st.warning(t("importance.basis_unknown", groups=len(table.order)), icon=":material/warning:")

log = st.toggle(t("importance.log"), key="importance_log", bind="query-params")
protection = Protection.resolve(table.shape.num_layers)
chart(charts.layer_importance_bars(table, t, log, protection), "layer_importance", t("importance.layers.alt"))
chart(charts.importance_heatmap(table, ATTENTION, t), "heatmap_attention", t("importance.attention.alt"))
chart(charts.importance_heatmap(table, MLP, t), "heatmap_mlp", t("importance.mlp.alt"))

layer = table.shape.layers[0]
explanation("importance", attention=layer.attention_group_cost, mlp=layer.mlp_channel_cost, ratio=layer.num_key_value_groups)
st.page_link(workspace.PAGES_FOLDER / "plan.py", label=t("importance.next"), icon=":material/arrow_forward:")
