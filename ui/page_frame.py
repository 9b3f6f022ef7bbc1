"""What every screen has: title, what it is for, an explanation, and what to do first when there is nothing to show."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import plotly.graph_objects as go
import streamlit as st

from pruning.errors import PruningError
from pruning.files import DAMAGE
from pruning.runs.damage import fault_of
from ui import plotly_view, tour, workspace
from ui.links import link
from ui.translation import error_text, t
from ui.workspace import Measured

_LOG = logging.getLogger(__name__)


def heading(page: str) -> None:
    """Title and purpose of a screen."""
    st.title(t(f"{page}.title"))
    st.markdown(t(f"{page}.purpose"))
    tour.show(page)


def explanation(page: str, **numbers) -> None:
    """The "what does this mean?" expander, with this model's own numbers."""
    with st.expander(t("explain.title"), icon=":material/help:"):
        st.markdown(t(f"{page}.explanation", **numbers))


def first_do(page: str, missing: str) -> None:
    """The empty state: which step comes first, with a link to it; ends the run of the screen."""
    st.info(t(f"empty.{missing}"), icon=":material/info:")
    link(page, t(f"{page}.title"))
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


@contextlib.contextmanager
def explaining_damage() -> Iterator[None]:
    """Shows a sentence if a file of the open experiment is damaged and the block cannot read it; other errors are passed on.

    Redraws the screen if the experiment is gone: it was renamed or deleted while the block was reading.
    """
    missing = workspace.missing()
    try:
        yield
    except (PruningError, *DAMAGE) as error:
        if workspace.missing() != missing:
            st.rerun()
        experiment = workspace.current_experiment()
        fault = error if isinstance(error, PruningError) else experiment and fault_of(experiment)
        if fault is None:
            raise
        if fault is not error:
            _LOG.info("a damaged experiment stopped the page", exc_info=error)
        st.error(error_text(fault), icon=":material/error:")


def fragment(block: Callable, run_every: float | None = None) -> Callable:
    """`st.fragment` for a block that reads the open experiment: it runs alone, where the frame of the screen does not see that
    the experiment is gone, or damaged.
    """
    missing = workspace.missing()

    @functools.wraps(block)
    def guarded(*args) -> None:
        if workspace.missing() != missing:
            st.rerun()
        with explaining_damage():
            block(*args)

    return st.fragment(guarded, run_every=run_every)


def chart(figure: go.Figure, key: str, alt: str, on_click: Callable[[dict], None] | None = None) -> dict | None:
    """A Plotly chart that stays in place when its data change; `alt` says in words what it shows.

    With `on_click`, returns what was clicked (see `plotly_view.show`) and hands it to `on_click` before the run.
    """
    return plotly_view.show(figure, key, alt, on_click=on_click)
