"""Sliders and pickers of the Plan page. Every value is in the URL, so that a link opens the same plan.

What the person set comes back with the page: Streamlit drops values from the URL when the page is left. An experiment
that has a saved plan opens with that plan's settings.
"""

import streamlit as st

from pruning.experiment import Experiment
from pruning.planning.allocation import default_cut_range
from pruning.settings import SETTINGS, resolve
from ui.translation import t

_STEP = 0.01
_REMEMBERED = "plan_values"


def show(experiment: Experiment, num_layers: int) -> dict:
    """Draws the controls and returns the settings they stand for."""
    # The key carries the depth: a slider whose limits change would fall back to its default and take the URL with it.
    layers_key = f"layers{num_layers}"
    _bring_back(("ratio", "basis", "protect", "empty", layers_key), experiment, layers_key)
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
    first, last = st.slider(
        t("plan.layers_cut"),
        0,
        num_layers - 1,
        (default.start, default.stop - 1),
        key=layers_key,
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
    st.session_state[_REMEMBERED] = {
        "ratio": ratio,
        "basis": basis,
        layers_key: (first, last),
        "protect": named,
        "empty": empty,
    }
    ranges = {
        f"block_{kind}_layer_{end}": value
        for kind in ("attention", "mlp")
        for end, value in (("start", first), ("end", last + 1))
    }
    return resolve(
        {"pruning_ratio": ratio, "ratio_basis": basis, "protected_layers": named, "remove_empty_layers": empty} | ranges
    )


def _bring_back(keys: tuple[str, ...], experiment: Experiment, layers_key: str) -> None:
    """Gives widgets that are new on the screen, and not named in the URL, the values they had."""
    values = st.session_state.get(_REMEMBERED)
    if values is None:
        values = _saved_values(experiment, layers_key) if experiment.has("plan.json") else {}
    for key in keys:
        if key in values and key not in st.session_state and key not in st.query_params:
            st.session_state[key] = values[key]


def _saved_values(experiment: Experiment, layers_key: str) -> dict:
    settings = experiment.settings
    start, end = settings["block_mlp_layer_start"], settings["block_mlp_layer_end"]
    layers = {} if start is None or end is None else {layers_key: (start, end - 1)}
    return layers | {
        "ratio": settings["pruning_ratio"],
        "basis": settings["ratio_basis"],
        "protect": settings["protected_layers"],
        "empty": settings["remove_empty_layers"],
    }
