"""The score-sorted table of groups, filtered and paged on the server: a page may hold hundreds of thousands of rows.

On the Plan page rows can be kept or cut by hand.
"""

from collections.abc import Callable

import numpy as np
import streamlit as st

from analysis.table_pages import group_page, groups_csv, matching, pages_of
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.planning.shape import GROUP_TYPES
from ui.csv_download import csv_button
from ui.translation import t

_ROWS = 50
_FATES = ("cut", "kept", "by_hand")
OnChange = Callable[[str, np.ndarray], None]  # ("keep" | "cut" | "forget", positions)


def show(
    table: GroupTable,
    plan: PruningPlan | None,
    protection: Protection | None,
    file_name: str,
    on_change: OnChange | None = None,
) -> None:
    """Filters, one page of rows, and the download of all rows that match; with `on_change` rows can be changed by hand."""
    layer_column, type_column, fate_column, page_column = st.columns([3, 2, 2, 1], vertical_alignment="bottom")
    with layer_column:
        layers = st.multiselect(
            t("groups.layers"), range(table.shape.num_layers), placeholder=t("groups.all"), key="group_layers"
        )
    with type_column:
        kind = st.segmented_control(t("groups.type"), GROUP_TYPES, format_func=lambda k: t(f"chart.kind.{k}"), key="group_type")
    with fate_column:
        fate = st.segmented_control(
            t("groups.fate"), _FATES, format_func=lambda f: t(f"groups.fate.{f}"), key="group_fate", disabled=plan is None
        )
    wanted = {"layers": layers or None, "group_type": kind, "fate": fate}
    count, pages = pages_of(table, plan, _ROWS, **wanted)
    with page_column:
        page = int(st.number_input(t("groups.page", pages=pages), 1, pages, key="group_page")) if pages > 1 else 1
    groups = group_page(table, plan, protection, page, _ROWS, **wanted)
    selected = st.dataframe(
        groups.assign(group_type=[t(f"chart.kind.{name}") for name in groups["group_type"]]),
        hide_index=True,
        height=420,
        column_config=_columns(),
        alt=t("groups.alt"),
        **({"on_select": "rerun", "selection_mode": "multi-row", "key": _rows_key(page, plan, **wanted)} if on_change else {}),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        if on_change:
            positions = matching(table, plan, **wanted)[(page - 1) * _ROWS : page * _ROWS]
            _hand_buttons(positions[selected.selection.rows], on_change)
        st.caption(t("groups.count", count=count))
        csv_button(t("groups.download"), lambda: groups_csv(table, plan, **wanted), file_name, key="groups_download")


def _rows_key(page: int, plan: PruningPlan | None, layers: list[int] | None, group_type: str | None, fate: str | None) -> str:
    """A selection holds row numbers: if the rows hold other groups now, it must not be kept."""
    shown = plan.digest if plan is not None and fate else ""
    return f"group_rows_{page}_{layers}_{group_type}_{fate}_{shown}"


def _hand_buttons(positions: np.ndarray, on_change: OnChange) -> None:
    for change, icon in (("keep", ":material/lock:"), ("cut", ":material/content_cut:"), ("forget", ":material/backspace:")):
        st.button(
            t(f"groups.{change}"),
            icon=icon,
            key=f"groups_{change}",
            help=t(f"groups.{change}.help"),
            disabled=not len(positions),
            on_click=on_change,
            args=(change, positions),
        )


def _columns() -> dict:
    return {
        "layer_idx": st.column_config.NumberColumn(t("table.layer")),
        "group_type": st.column_config.TextColumn(t("table.type")),
        "group_idx": st.column_config.NumberColumn(t("table.group")),
        "importance": st.column_config.NumberColumn(t("table.importance"), format="%.6e"),
        "cost": st.column_config.NumberColumn(t("table.cost"), format="localized"),
        "score": st.column_config.NumberColumn(t("table.score"), format="%.6e"),
        "cut": st.column_config.CheckboxColumn(t("groups.fate.cut")),
        "by_hand": st.column_config.CheckboxColumn(t("groups.fate.by_hand")),
        "protected": st.column_config.CheckboxColumn(t("groups.protected"), help=t("groups.protected.help")),
    }
