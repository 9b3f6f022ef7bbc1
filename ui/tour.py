"""The guided tour: one sentence at each stop of the road, and the way to the next. On while its switch in the sidebar is."""

import streamlit as st

from ui.links import link
from ui.translation import t

STOPS = ("model", "importance", "plan", "prune", "export", "learn")
_KEY = "tour"


def switch() -> None:
    """The switch; its state is in the URL."""
    st.toggle(t("tour.switch"), key=_KEY, bind="query-params", help=t("tour.help"))


def show(page: str) -> None:
    """What to do at this stop; nothing while the tour is off, or on a page that is no stop."""
    if not st.session_state.get(_KEY) or page not in STOPS:
        return
    number = STOPS.index(page)
    with st.container(border=True, key="tour_stop"):
        st.markdown(t(f"tour.{page}", number=number + 1, count=len(STOPS)))
        if number + 1 < len(STOPS):
            following = STOPS[number + 1]
            label = t("tour.next", page=t(f"{following}.title"))
            link(following, label)
