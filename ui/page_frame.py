"""What every screen has: title, what it is for, an explanation, and what to do first when there is nothing to show."""

import streamlit as st

from pruning.errors import PruningError
from ui import workspace
from ui.translation import error_text, t
from ui.workspace import Measured


def heading(page: str) -> None:
    """Title and purpose of a screen."""
    st.title(t(f"{page}.title"))
    st.markdown(t(f"{page}.purpose"))


def explanation(page: str, **numbers) -> None:
    """The "what does this mean?" expander, with this model's own numbers."""
    with st.expander(t("explain.title"), icon=":material/help:"):
        st.markdown(t(f"{page}.explanation", **numbers))


def first_do(page: str, missing: str) -> None:
    """The empty state: which step comes first, with a link to it; ends the run of the screen."""
    st.info(t(f"empty.{missing}"), icon=":material/info:")
    st.page_link(f"{workspace.PAGES_FOLDER}/{page}.py", label=t(f"{page}.title"), icon=":material/arrow_forward:")
    st.stop()


def measured_or_stop() -> Measured:
    """The open experiment with its table, or the empty state."""
    try:
        found = workspace.measured()
    except PruningError as error:
        st.error(error_text(error))
        st.stop()
    if found is None:
        first_do("importance", "not_measured")
    return found


def chart(figure, key: str, alt: str) -> None:
    """A Plotly chart under a fixed key, so that it stays in place when its data change."""
    st.plotly_chart(figure, key=key, alt=alt, config={"displaylogo": False})
