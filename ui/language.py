"""Which language a session speaks: what was picked or a link named, else that of the browser; English outside a session.

Once picked or linked it is in the URL as `lang`; until then a link leaves the choice to the browser that opens it.
Knows no sentences: those are in translation.py.
"""

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from analysis.catalogue import ENGLISH, LANGUAGES

IN_LINK = "lang"
_KEY, _NAMED = "language", "language_named"


def current() -> str:
    """The language of the session that runs here; English in a test, a worker or a request, which have no session."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return ENGLISH
    return st.session_state.get(_KEY, ENGLISH)


def restore() -> None:
    """Takes the language from the URL or the browser in a new session, and keeps the URL up to date in an old one."""
    state = st.session_state
    if _KEY not in state:
        linked = st.query_params.get(IN_LINK)
        state[_NAMED] = linked in LANGUAGES
        state[_KEY] = linked if state[_NAMED] else of_locale(st.context.locale)
    if state[_NAMED] and st.query_params.get(IN_LINK) != state[_KEY]:
        st.query_params[IN_LINK] = state[_KEY]


def choose(language: str) -> None:
    """Sets the language of the session; the URL follows with the next run of the page."""
    st.session_state[_KEY] = language
    st.session_state[_NAMED] = True


def of_locale(locale: str | None) -> str:
    """The language for what a browser calls its own, as `zh-CN`; English where there is no text in it."""
    language = (locale or "").replace("_", "-").partition("-")[0].lower()
    return language if language in LANGUAGES else ENGLISH
