"""Model: choose one and see its sizes before any weight is read."""

import streamlit as st

from analysis import charts, size
from pruning.errors import PruningError
from pruning.model.model_source import DEMO
from pruning.words import readable_size
from ui import access, workspace
from ui.importance import methods
from ui.links import link
from ui.page_frame import chart, explanation, heading
from ui.translation import error_text, t, words

heading("model")

SOURCES = ("demo", "folder", "hub")
current = workspace.chosen_model()
known_source = "demo" if current == DEMO else "hub" if workspace.is_hub_id(current) else "folder"
source = st.segmented_control(
    t("model.source"), SOURCES, default=known_source, format_func=lambda s: t(f"model.source.{s}"), required=True, key="source"
)
base_model = DEMO
if source != "demo":
    base_model = st.text_input(
        t(f"model.{source}.label"),
        value="" if known_source != source else current,
        placeholder=t(f"model.{source}.placeholder"),
        help=t(f"model.{source}.help"),
        key=f"model_{source}",
    ).strip()
if source == "hub":
    token = st.text_input(
        t("model.token.label"),
        value=st.session_state.get(workspace.TOKEN_KEY, ""),
        type="password",
        key="token_field",
        help=t("model.token.help"),
    )
    workspace.remember_token(token)
if source == "folder" and base_model:
    base_model = workspace.as_folder(base_model)
if not base_model:
    st.info(t("model.empty"), icon=":material/info:")
    st.stop()

try:
    with st.spinner(t("model.reading")):
        found = workspace.summary_of(base_model)
except PruningError as error:
    st.error(error_text(error), icon=":material/error:")
    st.stop()
workspace.choose_model(base_model)
if source != "demo" and access.is_beyond_loopback():
    st.caption(t("model.no_code"))
elif source != "demo":
    st.checkbox(
        t("setting.trust_remote_code"),
        key=workspace.trust_key(base_model),
        help=t("help.trust_remote_code"),
        persist_state="session",
    )

shape, layer = found.shape, found.shape.layers[0]
with st.container(horizontal=True):
    st.metric(t("model.parameters"), f"{shape.parameters:,}", border=True)
    st.metric(t("model.layers"), shape.num_layers, border=True)
    st.metric(t("model.heads"), layer.num_attention_heads, border=True)
    st.metric(t("model.kv_heads"), layer.num_key_value_heads, border=True)
    st.metric(t("model.gqa"), f"{layer.num_key_value_groups} : 1", border=True)
    st.metric(t("model.disk"), readable_size(found.weight_bytes), border=True)
if not shape.is_uniform:
    st.caption(t("model.not_uniform"))
if found.keeps_head:
    st.caption(t("model.keeps_head"))

left, right = st.columns([3, 2])
with left:
    chart(charts.parameter_shares(shape, words), "parameter_shares", t("model.shares.alt"))
with right:
    components = size.component_table(shape)
    components["component"] = [t(f"chart.kind.{name}") for name in components["component"]]
    st.dataframe(
        components,
        hide_index=True,
        column_config={
            "component": st.column_config.TextColumn(t("table.component")),
            "parameters": st.column_config.NumberColumn(t("table.parameters"), format="localized"),
            "share": st.column_config.NumberColumn(t("table.share"), format="percent"),
        },
        alt=t("model.shares.alt"),
    )
    st.caption(
        t(
            "model.group_costs",
            attention=layer.attention_group_cost,
            mlp=layer.mlp_channel_cost,
            dtype=found.dtype or t("model.dtype_unknown"),
        )
    )

st.subheader(t("method.memory.title"))
methods.memory_table(shape, bytes_per_parameter=4, tokens=methods.default_tokens())
if not found.weights_checked:
    st.caption(t("model.unchecked"))
explanation("model", ratio=layer.num_key_value_groups, heads=layer.num_attention_heads, kv_heads=layer.num_key_value_heads)
link("importance", t("model.next"))
