"""Chapter 6: what each score sees, and which of them foresaw what a cut does to a layer (`layers`)."""

import streamlit as st

from analysis import charts, sensitivity
from pruning.methods import IMPORTANCE_METHODS
from pruning.planning.shape import MLP
from pruning.runs.sensitivity.results import BOTH, KINDS, LAYERS
from ui.learn import measure
from ui.learn.frame import Subject, measured, try_importance
from ui.page_frame import chart
from ui.translation import t, words


def show(about: Subject) -> None:
    st.markdown(t("learn.scores.idea", methods=len(IMPORTANCE_METHODS)))
    st.markdown("\n".join(f"- `{method}`: {t(f'method.{method}.sees')}" for method in IMPORTANCE_METHODS))
    if measured(about) is None:
        return
    share = st.slider(t("learn.scores.share"), 0.1, 0.9, 0.25, 0.05, format="percent", key="learn_share")
    found = measure.result(about, LAYERS, share=share)
    if found is None:
        return
    chart(charts.layer_sensitivity(found, words), "sensitivity", t("learn.scores.alt"))
    kind = st.segmented_control(
        t("learn.group.kind"),
        tuple(KINDS),
        default=MLP,
        format_func=lambda k: t(f"chart.kind.{k}"),
        required=True,
        key="learn_foresight",
    )
    ranked = measure.result(about, LAYERS, share=share, kinds=[BOTH]) if kind == BOTH else found
    if ranked is not None:
        chart(charts.foresight(ranked, kind, words), "foresight", t("learn.scores.foresight.alt"))
    st.markdown(t("learn.scores.text", **sensitivity.layer_numbers(found)))
    try_importance(about, "scores", "methods")
