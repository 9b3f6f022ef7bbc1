"""Plan: ratio, protection and balance by slider; every change is drawn from the table, the model is not touched."""

import streamlit as st

from analysis import charts, size
from pruning.errors import PruningError
from pruning.runs.planner import floors_from_settings, plan_from_settings, protection_from_settings
from ui import group_table_view, plan_form, plan_saving
from ui.page_frame import chart, explanation, heading, measured_or_stop
from ui.translation import error_text, t

heading("plan")
found = measured_or_stop()
table = found.table


@st.fragment
def shape_plan() -> None:
    """Sliders and their charts: moving one redraws only these."""
    controls, results = st.columns([1, 3], gap="medium")
    with controls:
        settings = plan_form.show(found.experiment, table.shape.num_layers)
    with results:
        try:
            plan = plan_from_settings(table, settings)
        except PruningError as error:
            st.error(error_text(error), icon=":material/error:")
            return
        plan_strip(plan, settings)
        protection = protection_from_settings(table.shape.num_layers, settings)
        chart(charts.pruning_rates(plan, protection, t), "rates", t("plan.rates.alt"))
        chart(charts.score_curve(table, plan, protection, t, floors_from_settings(settings)), "curve", t("plan.curve.alt"))
        chart(charts.groups_cut(plan, t), "groups_cut_plan", t("plan.groups.alt"))
    with controls:
        plan_saving.show(found, plan)
    st.subheader(t("plan.table"))
    group_table_view.show(table, plan, f"{found.experiment.name}-groups.csv")


def plan_strip(plan, settings: dict) -> None:
    """Target and actual side by side, each with its basis."""
    totals = size.plan_totals(plan, found.bytes_per_parameter)
    target, actual, parameters, weights = st.columns(4)
    basis = {"delta_color": "off", "delta_arrow": "off"}
    target.metric(t("plan.target"), f"{settings['pruning_ratio']:.2%}", t(f"basis.{settings['ratio_basis']}"), **basis)
    actual.metric(t("plan.actual"), f"{plan.actual_ratio:.2%}", t("basis.model"), **basis)
    parameters.metric(t("plan.parameters"), f"{totals.parameters_after:,}", f"{-totals.parameters_removed:,}", **basis)
    weights.metric(t("plan.size"), size.readable(totals.bytes_after), f"-{size.readable(totals.bytes_removed)}", **basis)
    heads, channels, layers, _ = st.columns(4)
    heads.metric(t("plan.heads_removed"), f"{totals.attention_groups_removed:,}")
    channels.metric(t("plan.channels_removed"), f"{totals.mlp_channels_removed:,}")
    layers.metric(t("plan.layers_removed"), totals.layers_removed)


shape_plan()
layer = table.shape.layers[0]
explanation("plan", attention=layer.attention_group_cost, mlp=layer.mlp_channel_cost, layers=table.shape.num_layers)
