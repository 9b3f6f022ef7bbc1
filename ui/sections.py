"""The picker of a page's sections: one is shown at a time, and only that one is computed."""

import streamlit as st

from ui.translation import t


def pick(page: str, sections: tuple[str, ...]) -> str:
    """The section to show, at first the first one; it is in the URL by its own name, so links work in any language."""
    key = f"{page}_section"
    if key not in st.session_state:
        linked = st.query_params.get(key)
        st.session_state[key] = linked if linked in sections else sections[0]
    chosen = st.segmented_control(
        t(f"{page}.section"),
        sections,
        format_func=lambda section: t(f"{page}.section.{section}"),
        required=True,
        key=key,
        label_visibility="collapsed",
    )
    if st.query_params.get(key) != chosen:
        st.query_params[key] = chosen
    return chosen
