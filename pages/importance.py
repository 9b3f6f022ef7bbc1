"""Importance: measure layers and groups, then see which matter, how scores spread, and how far two methods agree."""

import streamlit as st

from pruning.errors import PruningError
from ui import job_panel, sections, workspace
from ui.importance import basis, comparison, form, results
from ui.links import link
from ui.page_frame import fragment, heading
from ui.translation import error_text, t
from ui.workspace import Measured

SECTIONS = ("layers", "groups", "distribution", "methods")

heading("importance")
st.caption(t("importance.model", model=workspace.chosen_model()))

experiment = workspace.current_experiment()
top = st.container()
active = job_panel.show(experiment, ("measure",)) if experiment else False
with top:
    form.show(disabled=active)


def measured() -> Measured | None:
    """The open experiment; without the importance of layers when only that file is damaged, which is said."""
    try:
        return workspace.measured()
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
    try:
        return Measured(experiment, experiment.read_table())
    except PruningError:  # the table is what was damaged
        return None


@fragment
def section(found: Measured) -> None:
    """Only the section that is shown is computed."""
    chosen = sections.pick("importance", SECTIONS)
    if chosen == "layers":
        results.layers(found)
    elif chosen == "groups":
        results.groups(found)
    elif chosen == "distribution":
        results.distribution(found)
    else:
        comparison.show(found, disabled=active)


found = measured()
if found is None:
    if not active and not (experiment and experiment.is_measured):
        st.info(t("importance.empty"), icon=":material/info:")
    st.stop()

st.subheader(t("importance.result", experiment=found.experiment.name))
measured_by = basis.of_groups(found.table)
if measured_by is None:
    st.warning(t("importance.basis_unknown", groups=len(found.table.order)), icon=":material/warning:")
else:
    st.caption(measured_by)
if (other := basis.taken_from(found.experiment)) is not None:
    st.caption(t("importance.taken_over", experiment=other))
section(found)
results.meaning(found)
link("plan", t("importance.next"))
