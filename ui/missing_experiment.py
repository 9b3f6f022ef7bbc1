"""What is shown if an experiment is missing: it was renamed or deleted elsewhere, or a link names one that is not here."""

import streamlit as st

from ui import workspace
from ui.translation import plain, t

_MOST_OFFERED = 12  # the newest; the sidebar lists them all


def show(name: str) -> None:
    """Says that it is not there, under which name it is where that is known, and offers the experiments there are."""
    for key in [key for key in st.session_state if str(key).endswith("_error")]:  # what was pressed in its forms meanwhile
        del st.session_state[key]
    new_name = workspace.new_name_of(name)
    if new_name is not None:
        st.warning(t("missing.renamed", name=plain(name), new_name=plain(new_name)), icon=":material/edit:")
    else:
        sentence = "missing.gone" if workspace.was_open(name) else "missing.unknown"
        st.warning(t(sentence, name=plain(name), root=plain(str(workspace.output_root()))), icon=":material/folder_off:")
    there = [experiment.name for experiment in workspace.experiments()]
    offered = [*([new_name] if new_name else []), *(one for one in there if one != new_name)][:_MOST_OFFERED]
    if offered:
        st.markdown(t("missing.others"))
    with st.container(horizontal=True, key="missing_experiment"):
        for one in offered:
            st.button(
                plain(one), icon=":material/folder_open:", key=f"open:{one}", on_click=workspace.open_experiment, args=(one,)
            )
        st.button(
            t("missing.close"), icon=":material/close:", key="open_none", on_click=workspace.open_experiment, args=(None,)
        )
