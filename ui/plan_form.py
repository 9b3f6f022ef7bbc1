"""Sliders and pickers of the Plan page. Every value is in the URL, so that a link opens the same plan."""

import streamlit as st

from pruning.planning.allocation import default_cut_range
from pruning.settings import SETTINGS, resolve
from ui.translation import t

_STEP = 0.01


def show(num_layers: int) -> dict:
    """Draws the controls and returns the settings they stand for."""
    st.markdown(f"**{t('plan.group.target')}**")
    ratio = st.slider(
        t("setting.pruning_ratio"),
        _STEP,
        0.95,
        SETTINGS["pruning_ratio"].default,
        _STEP,
        format="percent",
        key="ratio",
        help=t("help.pruning_ratio"),
        bind="query-params",
    )
    basis = st.selectbox(
        t("setting.ratio_basis"),
        SETTINGS["ratio_basis"].choices,
        format_func=lambda b: t(f"basis.{b}"),
        key="basis",
        help=t("help.ratio_basis"),
        bind="query-params",
    )
    st.markdown(f"**{t('plan.group.protection')}**")
    default = default_cut_range(num_layers)
    # The key carries the depth: a slider whose limits change would fall back to its default and take the URL with it.
    first, last = st.slider(
        t("plan.layers_cut"),
        0,
        num_layers - 1,
        (default.start, default.stop - 1),
        key=f"layers{num_layers}",
        help=t("plan.layers_cut.help"),
        bind="query-params",
    )
    named = st.text_input(
        t("setting.protected_layers"),
        key="protect",
        help=t("help.protected_layers"),
        placeholder=t("plan.protected.placeholder"),
        bind="query-params",
    )
    st.markdown(f"**{t('plan.group.limits')}**")
    empty = st.toggle(t("setting.remove_empty_layers"), key="empty", help=t("help.remove_empty_layers"), bind="query-params")
    ranges = {
        f"block_{kind}_layer_{end}": value
        for kind in ("attention", "mlp")
        for end, value in (("start", first), ("end", last + 1))
    }
    return resolve(
        {"pruning_ratio": ratio, "ratio_basis": basis, "protected_layers": named, "remove_empty_layers": empty} | ranges
    )
