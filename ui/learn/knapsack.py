"""Chapter 5: value for money. The budget is dragged, and the knapsack fills with the lowest scores."""

import streamlit as st

from analysis import charts, sensitivity
from pruning.errors import PruningError
from pruning.planning.protection import Protection
from ui.learn.frame import Subject, measured, try_plan
from ui.page_frame import chart
from ui.translation import error_text, t, words

_FIRST = 0.25  # the budget at first


def show(about: Subject) -> None:
    layer = about.shape.layers[0]
    numbers = sensitivity.attention_query_heads(layer)
    st.markdown(t("learn.knapsack.idea", **numbers))
    found = measured(about)
    if found is None:
        return
    protection = Protection.resolve(about.shape.num_layers)
    most = sensitivity.largest_budget(found.table, protection)
    ratio = st.slider(t("learn.knapsack.budget"), 0.01, most, min(_FIRST, most), 0.01, format="percent", key="learn_budget")
    try:
        filled = sensitivity.fill_budget(found.table, ratio, protection)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    chart(charts.budget_filled(filled, words), "budget", t("learn.knapsack.alt"))
    chart(charts.score_curve(found.table, filled.plan, protection, words), "learn_curve", t("plan.curve.alt"))
    st.markdown(
        t(
            "learn.knapsack.text",
            ratio=ratio,
            score=filled.cut_score,
            attention=filled.attention.groups,
            attention_of=filled.attention.of,
            attention_parameters=filled.attention.parameters,
            mlp=filled.mlp.groups,
            mlp_of=filled.mlp.of,
            mlp_parameters=filled.mlp.parameters,
            emptied=filled.mlp.layers_emptied,
            **{name: numbers[name] for name in ("attention_cost", "mlp_cost", "times")},
        )
    )
    try_plan(about, "knapsack", strategy="global", ratio=ratio)
