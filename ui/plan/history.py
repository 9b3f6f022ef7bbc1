"""Undo and redo of what the Plan page's widgets hold, one history per experiment and session."""

import streamlit as st

_KEY, _MOST = "plan_history", 100


def note(experiment: str, values: dict) -> None:
    """Records what the widgets hold now; undone steps are dropped once something else is set."""
    history = _of(experiment)
    if history["now"] == values:
        return
    if history["now"] is not None:
        history["undo"] = [*history["undo"], history["now"]][-_MOST:]
        history["redo"] = []
    history["now"] = values


def can(step: str, experiment: str) -> bool:
    """Whether there is something to `undo`, to `redo`."""
    return bool(_of(experiment)[step])


def go(step: str, experiment: str) -> dict:
    """The values one step back (`undo`) or forth (`redo`)."""
    history = _of(experiment)
    other = "redo" if step == "undo" else "undo"
    history[other].append(history["now"])
    history["now"] = history[step].pop()
    return history["now"]


def _of(experiment: str) -> dict:
    histories = st.session_state.setdefault(_KEY, {})
    return histories.setdefault(experiment, {"undo": [], "now": None, "redo": []})
