"""Importance: measure layers and groups, then see which matter, how scores spread, and how far two methods agree."""

import streamlit as st

from pruning.errors import PruningError
from ui import calibration_form, importance_basis, importance_comparison, importance_results, job_panel, sections, workspace
from ui.page_frame import fragment, heading
from ui.translation import error_text, t
from ui.workspace import Measured

SECTIONS = ("layers", "groups", "distribution", "methods")

heading("importance")
st.caption(t("importance.model", model=workspace.chosen_model()))

experiment = workspace.current_experiment()
form = st.container()
active = job_panel.show(experiment, ("measure",)) if experiment else False
with form:
    calibration_form.show(disabled=active)


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
def results(found: Measured) -> None:
    """Only the section that is shown is computed."""
    section = sections.pick("importance", SECTIONS)
    if section == "layers":
        importance_results.layers(found)
    elif section == "groups":
        importance_results.groups(found)
    elif section == "distribution":
        importance_results.distribution(found)
    else:
        importance_comparison.show(found, disabled=active)


found = measured()
if found is None:
    if not active and not (experiment and experiment.is_measured):
        st.info(t("importance.empty"), icon=":material/info:")
    st.stop()

st.subheader(t("importance.result", experiment=found.experiment.name))
basis = importance_basis.of_groups(found.table)
if basis is None:
    st.warning(t("importance.basis_unknown", groups=len(found.table.order)), icon=":material/warning:")
else:
    st.caption(basis)
if (other := importance_basis.taken_from(found.experiment)) is not None:
    st.caption(t("importance.taken_over", experiment=other))
results(found)
importance_results.meaning(found)
st.page_link(workspace.PAGES_FOLDER / "plan.py", label=t("importance.next"), icon=":material/arrow_forward:")
