"""Chapter 1: the same share of a matrix as zeros, or as a smaller matrix."""

import streamlit as st

from analysis import charts, sensitivity
from pruning.runs.sensitivity.results import MATRIX
from ui.learn import measure
from ui.learn.frame import Subject, measured, try_plan
from ui.page_frame import chart
from ui.translation import t, words


def show(about: Subject) -> None:
    st.markdown(t("learn.matrix.idea"))
    if measured(about) is None:
        return
    found = measure.result(about, MATRIX)
    if found is None:
        return
    chart(charts.matrix_corners(found, words), "matrix", t("learn.matrix.alt"))
    numbers = sensitivity.matrix_numbers(found)
    st.markdown(t("learn.matrix.text", **numbers))
    try_plan(about, "matrix", strategy="uniform", ratio=0.2)
