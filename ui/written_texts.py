"""What the model writes at each of its stages, from one prompt."""

import streamlit as st

from ui.translation import t

STAGES = ("before", "after", "repaired", "recovered")
_HEIGHT = 320
_IN_A_ROW = {1: 1, 2: 2, 3: 3, 4: 2}  # four beside each other break every line


def show(samples: dict, stages: tuple[str, ...] = STAGES) -> None:
    """The prompt, and side by side how the model of each recorded stage continues it."""
    st.code(samples["prompt"], language=None, wrap_lines=True)
    written = [stage for stage in stages if stage in samples]
    if not written:
        return
    width = _IN_A_ROW[len(written)]
    places = st.columns(width)
    for number, stage in enumerate(written):
        with places[number % width]:
            st.markdown(f"**{t(f'chart.stage.{stage}')}**")
            st.code(samples[stage], language=None, wrap_lines=True, height=_HEIGHT)


def last_stage(samples: dict) -> str | None:
    """The furthest stage of the model that was written down; None where none was."""
    return next((stage for stage in reversed(STAGES) if stage in samples), None)
