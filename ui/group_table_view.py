"""The score-sorted table of groups, filtered and paged on the server: a page may hold hundreds of thousands of rows."""

import streamlit as st

from analysis.groups import group_page, groups_csv, pages_of
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import GROUP_TYPES
from ui.translation import t

_ROWS = 50
_FATES = ("cut", "kept")


def show(table: GroupTable, plan: PruningPlan | None, file_name: str) -> None:
    """Filters, one page of rows, and the download of all rows that match."""
    layer_column, type_column, fate_column, page_column = st.columns([3, 2, 2, 1], vertical_alignment="bottom")
    with layer_column:
        layers = st.multiselect(
            t("groups.layers"), range(table.shape.num_layers), placeholder=t("groups.all"), key="group_layers"
        )
    with type_column:
        kind = st.segmented_control(t("groups.type"), GROUP_TYPES, format_func=lambda k: t(f"chart.kind.{k}"), key="group_type")
    with fate_column:
        fate = st.segmented_control(
            t("groups.fate"), _FATES, format_func=lambda f: t(f"chart.{f}"), key="group_fate", disabled=plan is None
        )
    wanted = {"layers": layers or None, "group_type": kind, "fate": fate}
    count, pages = pages_of(table, plan, _ROWS, **wanted)
    with page_column:
        page = st.number_input(t("groups.page", pages=pages), 1, pages, key="group_page") if pages > 1 else 1
    st.dataframe(
        group_page(table, plan, int(page), _ROWS, **wanted),
        hide_index=True,
        height=420,
        column_config={
            "layer_idx": st.column_config.NumberColumn(t("table.layer")),
            "group_type": st.column_config.TextColumn(t("table.type")),
            "group_idx": st.column_config.NumberColumn(t("table.group")),
            "importance": st.column_config.NumberColumn(t("table.importance"), format="%.6e"),
            "cost": st.column_config.NumberColumn(t("table.cost"), format="localized"),
            "score": st.column_config.NumberColumn(t("table.score"), format="%.6e"),
            "cut": st.column_config.CheckboxColumn(t("chart.cut")),
        },
        alt=t("groups.alt"),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(t("groups.count", count=count))
        st.download_button(
            t("groups.download"),
            data=lambda: groups_csv(table, plan, **wanted),
            file_name=file_name,
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            key="groups_download",
        )
