"""Sliders and pickers of the Plan page. Every value is in the URL, so that a link opens the same plan.

What the person set comes back with the page: Streamlit drops values from the URL when the page is left. An experiment
that has a saved plan opens with that plan's settings.
"""

import streamlit as st

from pruning.experiment import Experiment
from pruning.planning.allocation import default_cut_range
from pruning.settings import SETTINGS, resolve
from ui.translation import t

_STEP, _LARGEST = 0.01, 0.95
_REMEMBERED, _SHOWN_FOR = "plan_values", "plan_values_shown_for"


def show(experiment: Experiment, num_layers: int) -> dict:
    """Draws the controls and returns the settings they stand for."""
    layers_key = _layers_key(num_layers)
    _bring_back(("ratio", "basis", "protect", "empty", layers_key), experiment, num_layers)
    st.markdown(f"**{t('plan.group.target')}**")
    ratio = st.slider(
        t("setting.pruning_ratio"),
        _STEP,
        _LARGEST,
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
    first, last = default.start, default.stop - 1
    if num_layers > 1:  # a slider needs two ends
        first, last = st.slider(
            t("plan.layers_cut"),
            0,
            num_layers - 1,
            (first, last),
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
    shown = {"ratio": ratio, "basis": basis, layers_key: (first, last), "protect": named, "empty": empty}
    st.session_state.setdefault(_REMEMBERED, {})[experiment.name] = shown
    ranges = {
        f"block_{kind}_layer_{end}": value
        for kind in ("attention", "mlp")
        for end, value in (("start", first), ("end", last + 1))
    }
    return resolve(
        _not_on_this_page(experiment)
        | {"pruning_ratio": ratio, "ratio_basis": basis, "protected_layers": named, "remove_empty_layers": empty}
        | ranges
    )


def _bring_back(keys: tuple[str, ...], experiment: Experiment, num_layers: int) -> None:
    """Gives the widgets the values they had for this experiment, or those of its saved plan.

    What the URL names wins when the app is opened, and what stands on the screen until another experiment is opened.
    """
    layers_key = _layers_key(num_layers)
    opened = st.session_state.get(_SHOWN_FOR) is None
    switched = not opened and st.session_state[_SHOWN_FOR] != experiment.name
    st.session_state[_SHOWN_FOR] = experiment.name
    values = st.session_state.get(_REMEMBERED, {}).get(experiment.name)
    if values is None:
        values = _default_values(layers_key, num_layers)
        if experiment.is_planned:
            values |= _saved_values(experiment, layers_key)
    for key in keys:
        if key in values and (switched or (key not in st.session_state and key not in st.query_params)):
            st.session_state[key] = values[key]


def _layers_key(num_layers: int) -> str:
    """Carries the depth: a slider whose limits change would fall back to its default and take the URL with it."""
    return f"layers{num_layers}"


def _default_values(layers_key: str, num_layers: int) -> dict:
    cut_range = default_cut_range(num_layers)
    return {
        "ratio": SETTINGS["pruning_ratio"].default,
        "basis": SETTINGS["ratio_basis"].default,
        layers_key: (cut_range.start, cut_range.stop - 1),
        "protect": "",
        "empty": False,
    }


def _saved_values(experiment: Experiment, layers_key: str) -> dict:
    settings = experiment.settings
    start, end = settings["block_mlp_layer_start"], settings["block_mlp_layer_end"]
    named = settings["protected_layers"]
    if named.strip().lower() == "none":  # lifts the default range too, which the slider then shows
        start, end, named = start or 0, end or experiment.shape().num_layers, ""
    layers = {} if start is None or end is None else {layers_key: (start, end - 1)}
    return layers | {
        "ratio": min(max(settings["pruning_ratio"], _STEP), _LARGEST),
        "basis": settings["ratio_basis"],
        "protect": named,
        "empty": settings["remove_empty_layers"],
    }


def _not_on_this_page(experiment: Experiment) -> dict:
    """Plan settings of the experiment that have no widget here: a run of the command line may have set them."""
    settings = experiment.settings
    return {name: settings[name] for name in ("pruning_distribution", "min_kv_groups", "min_mlp_channels")}
