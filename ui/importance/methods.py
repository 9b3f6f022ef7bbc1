"""What every importance method sees, costs and needs, and whether it fits into memory here."""

import pandas as pd
import psutil
import streamlit as st

from analysis import size
from pruning.methods import IMPORTANCE_METHODS
from pruning.planning.memory import measuring_bytes
from pruning.planning.shape import ModelShape
from pruning.settings import SETTINGS
from pruning.words import readable_size
from ui.translation import t

_KEY = "importance_method"


def show(shape: ModelShape | None) -> str:
    """The picker, one line for each method; without a shape it says nothing about memory."""
    return st.radio(
        t("setting.importance_method"),
        IMPORTANCE_METHODS,
        captions=[_line(method, shape) for method in IMPORTANCE_METHODS],
        key=_KEY,
        persist_state="session",
    )


def default_tokens() -> int:
    """Tokens of one batch at the default settings."""
    return SETTINGS["gradient_batch_size"].default * SETTINGS["seq_len"].default


def memory_table(shape: ModelShape, bytes_per_parameter: int, tokens: int) -> None:
    """Memory that each method needs, and whether so much is free; `tokens` are those of one batch."""
    present = psutil.virtual_memory().available
    needed = {method: measuring_bytes(shape, method, bytes_per_parameter, tokens) for method in IMPORTANCE_METHODS}
    rows = [
        {
            "method": name,
            "passes": t(f"method.passes.{IMPORTANCE_METHODS[name].passes}"),
            "needed": readable_size(count),
            "fits": count <= present,
            "formula": IMPORTANCE_METHODS[name].formula,
            "source": IMPORTANCE_METHODS[name].source,
        }
        for name, count in needed.items()
    ]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={
            "method": st.column_config.TextColumn(t("setting.importance_method")),
            "passes": st.column_config.TextColumn(t("method.costs")),
            "needed": st.column_config.TextColumn(t("method.memory.needed")),
            "fits": st.column_config.CheckboxColumn(t("method.memory.fits_here")),
            "formula": st.column_config.TextColumn(t("method.formula"), help=t("method.formula.help")),
            "source": st.column_config.TextColumn(t("method.source")),
        },
        alt=t("method.memory.alt"),
        key="method_memory",
    )
    st.caption(t("method.memory.basis", tokens=tokens, bytes=bytes_per_parameter, present=readable_size(present)))


def _line(method: str, shape: ModelShape | None) -> str:
    """What it sees, costs and needs; memory for the batch that the form holds."""
    passes = IMPORTANCE_METHODS[method].passes
    parts = [t(f"method.{method}.sees"), t(f"method.passes.{passes}"), t(f"method.needs.{passes}")]
    if shape is not None:
        state = st.session_state
        tokens = _number(state, "gradient_batch_size") * _number(state, "seq_len")
        needed = measuring_bytes(shape, method, size.computing_bytes(state.get("dtype")), tokens)
        verdict = "fits" if needed <= psutil.virtual_memory().available else "too_large"
        parts.append(t(f"method.memory.{verdict}", needed=readable_size(needed)))
    return " · ".join(parts)


def _number(state, name: str) -> int:
    return state.get(name) or SETTINGS[name].default
