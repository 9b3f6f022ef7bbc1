"""Which text: a corpus by its name, a dataset of the hub, a file, text pasted here, or that of the calibration.

The app may have several pickers; each keeps its widgets under keys that begin with its own `prefix`.
"""

import streamlit as st

from pruning.errors import PruningError
from pruning.model.corpus_names import FILE, kind_of_corpus
from ui import settings_widgets
from ui.access import check_corpus
from ui.translation import t

SAME, PASTED = "same", "pasted"
_BY_NAME = ("python-stdlib", "wikitext2", "c4")
_NAMED_HERE = ("dataset", "file")
FOR_CALIBRATION = (*_BY_NAME, *_NAMED_HERE, PASTED)
FOR_TRAINING = (SAME, *_BY_NAME, *_NAMED_HERE)


def show(prefix: str, kinds: tuple[str, ...]) -> None:
    """Draws the picker under the label of the setting that `prefix` names, and a field where the kind needs one."""
    kind = st.selectbox(
        t(f"setting.{prefix}"),
        kinds,
        format_func=lambda c: t(f"corpus.{c}"),
        help=t(f"help.{prefix}"),
        key=f"{prefix}_kind",
        persist_state="session",
    )
    if kind == PASTED:
        st.text_area(t("corpus.pasted.label"), key=f"{prefix}_text", height=120, persist_state="session")
    elif kind in _NAMED_HERE:
        st.text_input(
            t(f"corpus.{kind}.label"),
            placeholder=t(f"corpus.{kind}.placeholder"),
            key=f"{prefix}_{kind}",
            persist_state="session",
        )
        settings_widgets.text("text_column")


def take(prefix: str, name: str | None) -> None:
    """Sets the picker to this corpus (None: that of the calibration); only before it is drawn."""
    state = st.session_state
    if name is None or name in _BY_NAME:
        state[f"{prefix}_kind"] = name or SAME
        return
    try:
        kind = "file" if kind_of_corpus(name) == FILE else "dataset"
    except PruningError:  # a file that is gone; the field shows its name
        kind = "file"
    state[f"{prefix}_kind"], state[f"{prefix}_{kind}"] = kind, name


def chosen(prefix: str) -> str | None:
    """The corpus as settings name it (`pasted` for pasted text, None for that of the calibration).

    Raises PruningError for what can be seen to be wrong before a worker starts.
    """
    state = st.session_state
    kind = state[f"{prefix}_kind"]
    if kind == SAME:
        return None
    if kind == PASTED:
        if not state.get(f"{prefix}_text", "").strip():
            raise PruningError("corpus_empty", corpus=t("corpus.pasted"))
        return kind
    name = (state.get(f"{prefix}_{kind}") or "").strip() if kind in _NAMED_HERE else kind
    check_corpus(name)
    return name
