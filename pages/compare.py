"""Compare: all experiments in a table and two charts, then two of them in detail."""

from dataclasses import replace

import streamlit as st

from ui import compare_charts, compare_pair, compare_table
from ui.page_frame import explanation, first_do, heading
from ui.translation import t

heading("compare")
compare_table.watch()
found = compare_table.read()
if found.rows.empty:
    first_do("importance", "no_experiments")

compare_table.warnings(found)
shown = replace(found, rows=compare_charts.within_filter(found.rows))
if len(shown.rows) < len(found.rows):
    st.caption(t("compare.filtered", shown=len(shown.rows), count=len(found.rows)))
compare_table.show(shown)
compare_table.actions(found)
st.subheader(t("compare.charts"))
compare_charts.show(found.rows, shown.rows)
st.subheader(t("compare.pair"))
compare_pair.show(found)
explanation("compare")
