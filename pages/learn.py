"""Learn: six short chapters on structured pruning, each with a picture made from the open experiment's model."""

import streamlit as st

from ui import job_panel, sections, workspace
from ui.learn import cut, group, knapsack, matrix, scores, strategies
from ui.learn.frame import subject
from ui.page_frame import explanation, heading
from ui.translation import t

CHAPTERS = {
    "matrix": matrix.show,
    "group": group.show,
    "cut": cut.show,
    "strategies": strategies.show,
    "knapsack": knapsack.show,
    "scores": scores.show,
}

heading("learn")
experiment = workspace.current_experiment()
chapter = sections.pick("learn", tuple(CHAPTERS))
active = job_panel.show(experiment, ("learn", "measure")) if experiment else False
about = subject(active)
if about is not None:
    st.subheader(t(f"learn.{chapter}.title"))
    st.caption(t("learn.model", model=about.name))
    CHAPTERS[chapter](about)
explanation("learn")
