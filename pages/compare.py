"""Compare: all experiments in a table and two charts, then two of them in detail."""

from dataclasses import replace

import streamlit as st

from ui.compare import charts, pair, table
from ui.page_frame import explanation, first_do, heading
from ui.translation import t

heading("compare")
table.watch()
found = table.read()
if found.rows.empty:
    first_do("importance", "no_experiments")

table.warnings(found)
shown = replace(found, rows=charts.within_filter(found.rows))
if len(shown.rows) < len(found.rows):
    st.caption(t("compare.filtered", shown=len(shown.rows), count=len(found.rows)))
table.show(shown)
table.actions(found)
st.subheader(t("compare.charts"))
charts.show(found.rows, shown.rows)
st.subheader(t("compare.pair"))
pair.show(found)
explanation("compare")
