"""Ways from one screen to another, by name; pages/main.py, beside which the screens lie, is what Streamlit started."""

import streamlit as st


def link(page: str, label: str, icon: str = ":material/arrow_forward:") -> None:
    """A link to another screen."""
    st.page_link(f"{page}.py", label=label, icon=icon)


def go_to(page: str) -> None:
    """Ends the run of this screen and opens another one."""
    st.switch_page(f"{page}.py")
