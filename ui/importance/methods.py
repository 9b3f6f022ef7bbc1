"""What every importance method sees, costs and needs, and whether it fits into memory here."""

import pandas as pd
import psutil
import streamlit as st

from analysis import size
from pruning.planning.memory import PASSES_OF, WEIGHTS_ONLY, measuring_bytes
from pruning.planning.shape import ModelShape
from pruning.settings import SETTINGS
from pruning.words import readable_size
from ui.translation import t

METHODS = SETTINGS["importance_method"].choices
_KEY = "importance_method"


def show(shape: ModelShape | None) -> str:
    """The picker, one line for each method; without a shape it says nothing about memory."""
    return st.radio(
        t("setting.importance_method"),
        METHODS,
        captions=[_line(method, shape) for method in METHODS],
        key=_KEY,
        persist_state="session",
    )


def needs_samples(method: str) -> bool:
    return PASSES_OF[method] != WEIGHTS_ONLY


def default_tokens() -> int:
    """Tokens of one batch at the default settings."""
    return SETTINGS["gradient_batch_size"].default * SETTINGS["seq_len"].default


def memory_table(shape: ModelShape, bytes_per_parameter: int, tokens: int) -> None:
    """Memory that each method needs, and whether so much is free; `tokens` are those of one batch."""
    present = psutil.virtual_memory().available
    needed = {method: measuring_bytes(shape, method, bytes_per_parameter, tokens) for method in METHODS}
    rows = [
        {
            "method": method,
            "passes": t(f"method.passes.{PASSES_OF[method]}"),
            "needed": readable_size(count),
            "fits": count <= present,
        }
        for method, count in needed.items()
    ]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={
            "method": st.column_config.TextColumn(t("setting.importance_method")),
            "passes": st.column_config.TextColumn(t("method.costs")),
            "needed": st.column_config.TextColumn(t("method.memory.needed")),
            "fits": st.column_config.CheckboxColumn(t("method.memory.fits_here")),
        },
        alt=t("method.memory.alt"),
        key="method_memory",
    )
    st.caption(t("method.memory.basis", tokens=tokens, bytes=bytes_per_parameter, present=readable_size(present)))


def _line(method: str, shape: ModelShape | None) -> str:
    """What it sees, costs and needs; memory for the batch that the form holds."""
    parts = [t(f"method.{method}.sees"), t(f"method.passes.{PASSES_OF[method]}"), t(f"method.needs.{PASSES_OF[method]}")]
    if shape is not None:
        state = st.session_state
        tokens = _number(state, "gradient_batch_size") * _number(state, "seq_len")
        needed = measuring_bytes(shape, method, size.computing_bytes(state.get("dtype")), tokens)
        verdict = "fits" if needed <= psutil.virtual_memory().available else "too_large"
        parts.append(t(f"method.memory.{verdict}", needed=readable_size(needed)))
    return " · ".join(parts)


def _number(state, name: str) -> int:
    return state.get(name) or SETTINGS[name].default
