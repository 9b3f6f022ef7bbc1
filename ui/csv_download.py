"""Buttons that hand a small table out of the browser."""

from collections.abc import Callable

import streamlit as st


def csv_button(label: str, csv: Callable[[], str], file_name: str, key: str) -> None:
    """Downloads what `csv` gives, which is made when the button is pressed."""
    st.download_button(
        label, data=csv, file_name=file_name, mime="text/csv", icon=":material/download:", on_click="ignore", key=key
    )
