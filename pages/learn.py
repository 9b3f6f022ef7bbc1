"""Learn: six short chapters on structured pruning, each with a picture made from the model in front."""

import streamlit as st

from ui import (
    job_panel,
    learn_cut,
    learn_group,
    learn_knapsack,
    learn_matrix,
    learn_scores,
    learn_strategies,
    sections,
    workspace,
)
from ui.learn_frame import lesson
from ui.page_frame import explanation, heading
from ui.translation import t

CHAPTERS = {
    "matrix": learn_matrix.show,
    "group": learn_group.show,
    "cut": learn_cut.show,
    "strategies": learn_strategies.show,
    "knapsack": learn_knapsack.show,
    "scores": learn_scores.show,
}

heading("learn")
experiment = workspace.current_experiment()
chapter = sections.pick("learn", tuple(CHAPTERS))
active = job_panel.show(experiment, ("learn", "measure")) if experiment else False
about = lesson(active)
if about is not None:
    st.subheader(t(f"learn.{chapter}.title"))
    st.caption(t("learn.model", model=about.name))
    CHAPTERS[chapter](about)
explanation("learn")
