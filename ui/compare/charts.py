"""Experiments as charts: perplexity against parameters, and lines through settings and figures that filter by drag."""

import pandas as pd
import streamlit as st

from analysis import charts
from ui import workspace
from ui.page_frame import chart
from ui.translation import t, words

_FILTER_KEY = "compare_filter"


def within_filter(rows: pd.DataFrame) -> pd.DataFrame:
    """The experiments within the ranges that were drawn on the axes; all of them when none was."""
    drawn = st.session_state.get(_FILTER_KEY)
    if not drawn or drawn["revision"] != charts.parallel_revision(rows) or not any(drawn["ranges"]):
        return rows
    return rows[charts.parallel_filter(rows, drawn["ranges"])].reset_index(drop=True)


def show(rows: pd.DataFrame, shown: pd.DataFrame) -> None:
    """Both charts; the first draws what the filter of the second lets through."""
    if charts.parallel_rows(rows).empty:
        st.info(t("compare.nothing_cut"), icon=":material/info:")
        return
    current = workspace.current_experiment()
    figure = charts.pareto(shown, words, current.name if current else None)
    chart(figure, "pareto", t("compare.pareto.alt"), on_click=_open)
    st.caption(t("compare.pareto.click"))

    def keep_filter(event: dict) -> None:
        if "filter" in event:
            st.session_state[_FILTER_KEY] = {"revision": charts.parallel_revision(rows), "ranges": event["filter"]}

    chart(charts.parallel(rows, words), "parallel", t("compare.parallel.alt"), on_click=keep_filter)
    st.caption(t("compare.parallel.drag"))


def _open(click: dict) -> None:
    if click.get("customdata"):
        workspace.open_experiment(click["customdata"][0])
