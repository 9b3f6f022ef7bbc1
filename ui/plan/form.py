"""Sliders and pickers of the Plan page: target, protection, balance, limits. Every value is in the URL, so that a link
opens the same plan.

What the person set comes back with the page: Streamlit drops values from the URL when the page is left. An experiment
that has a saved plan opens with that plan's settings, unless a link says otherwise.
"""

import streamlit as st

from pruning.experiment import Experiment
from pruning.planning.shape import ModelShape
from pruning.runs.trials import SPLITS
from pruning.settings import SETTINGS, Settings
from pruning.strategies import STRATEGIES, Strategy
from ui.plan import history
from ui.plan.values import (
    AUTO,
    HIGHEST_RATIO,
    LARGEST_WEIGHT,
    LOWEST_RATIO,
    MULTIPLES,
    PRESETS,
    default_values,
    from_link,
    layers_key,
    mlp_layers_key,
    preset_values,
    settings_of,
    to_link,
    values_of,
)
from ui.translation import t

_STEP = 0.01
_REMEMBERED, _SHOWN_FOR, _IN_LINK = "plan_values", "plan_values_shown_for", "shaped"
_STRONG_CUT = 0.25  # above this, deleting whole layers is worth it


def show(experiment: Experiment, shape: ModelShape, has_layer_importance: bool) -> Settings:
    """Draws the controls and returns the settings they stand for; raises PruningError for a value that is none."""
    _bring_back(experiment, shape.num_layers)
    values = {key: st.session_state.get(key, value) for key, value in values_now(experiment).items()}
    history.note(experiment.name, values)  # before its buttons are drawn
    _buttons(experiment, shape.num_layers)
    defaults = default_values(shape.num_layers)
    shown = _target(defaults)
    strategy = STRATEGIES[shown["strategy"]]
    if strategy.protects:
        shown |= _protection(defaults, shape.num_layers, has_layer_importance)
    shown |= _balance(strategy, defaults, has_layer_importance)
    shown |= _limits(shape, shown["ratio"])
    for key in values.keys() - shown.keys():  # left there, it would come back instead of what its widget is set to later
        st.session_state.pop(key, None)
    values = values | shown
    st.session_state[_REMEMBERED][experiment.name] = values
    _write_link(values, defaults)
    return settings_of(values, shape.num_layers)


def set_values(experiment_name: str, values: dict) -> None:
    """Gives the widgets these values; only before they are drawn, as callbacks run."""
    st.session_state.setdefault(_REMEMBERED, {})[experiment_name] = values
    for key, value in values.items():
        st.session_state[key] = value


def values_now(experiment: Experiment) -> dict:
    """What the widgets of an experiment hold; empty before they were drawn."""
    return st.session_state.get(_REMEMBERED, {}).get(experiment.name, {})


def opened_by_link(num_layers: int) -> bool:
    """Whether this session began with a link of this page; until the page was drawn once."""
    if st.session_state.get(_SHOWN_FOR) is not None:
        return False
    return _IN_LINK in st.query_params or bool(from_link(st.query_params.to_dict(), default_values(num_layers)))


def _bring_back(experiment: Experiment, num_layers: int) -> None:
    """Gives the widgets the values they had for this experiment, or those of its saved plan.

    What a link names wins when the app is opened with it; what it leaves out is at its default. What is on the screen
    stays until another experiment is opened.
    """
    opened = st.session_state.get(_SHOWN_FOR) is None
    switched = not opened and st.session_state[_SHOWN_FOR] != experiment.name
    st.session_state[_SHOWN_FOR] = experiment.name
    remembered = st.session_state.setdefault(_REMEMBERED, {})
    if experiment.name not in remembered:
        defaults = default_values(num_layers)
        linked = from_link(st.query_params.to_dict(), defaults) if opened else {}
        is_link = bool(linked) or (opened and _IN_LINK in st.query_params)
        saved = experiment.is_planned and not is_link
        remembered[experiment.name] = values_of(experiment.settings, num_layers) if saved else defaults | linked
    for key, value in remembered[experiment.name].items():
        if switched or key not in st.session_state:
            st.session_state[key] = value


def _write_link(values: dict, defaults: dict) -> None:
    """Names in the URL what is not at its default; only what differs is written, each write goes to the browser."""
    wanted = {_IN_LINK: "1"} | to_link(values, defaults)
    for key in [*to_link(values, {}), _IN_LINK]:
        if key in wanted and st.query_params.get(key) != wanted[key]:
            st.query_params[key] = wanted[key]
        elif key not in wanted and key in st.query_params:
            del st.query_params[key]


def _buttons(experiment: Experiment, num_layers: int) -> None:
    with st.container(horizontal=True, gap="small"):
        for step, icon in (("undo", ":material/undo:"), ("redo", ":material/redo:")):
            st.button(
                t(f"plan.{step}"),
                icon=icon,
                key=f"plan_{step}",
                type="tertiary",
                disabled=not history.can(step, experiment.name),
                on_click=lambda step=step: set_values(experiment.name, history.go(step, experiment.name)),
            )
        st.button(
            t("plan.reset"),
            icon=":material/restart_alt:",
            key="plan_reset",
            type="tertiary",
            on_click=lambda: set_values(experiment.name, default_values(num_layers)),
        )
    with st.container(horizontal=True, gap="small"):
        for preset in PRESETS:
            st.button(
                t(f"plan.preset.{preset}"),
                key=f"preset_{preset}",
                help=t(f"plan.preset.{preset}.help"),
                type="tertiary",
                on_click=lambda preset=preset: set_values(experiment.name, preset_values(preset, num_layers)),
            )


def _target(defaults: dict) -> dict:
    st.markdown(f"**{t('plan.group.target')}**")
    shown = {
        "strategy": st.segmented_control(
            t("plan.strategy"),
            tuple(STRATEGIES),
            default=defaults["strategy"],
            format_func=lambda s: t(f"plan.strategy.{s}"),
            required=True,
            key="strategy",
            help=t("plan.strategy.help"),
        ),
        "ratio": st.slider(
            t("setting.pruning_ratio"),
            LOWEST_RATIO,
            HIGHEST_RATIO,
            SETTINGS["pruning_ratio"].default,
            _STEP,
            format="percent",
            key="ratio",
            help=t("help.pruning_ratio"),
        ),
    }
    st.caption(t(f"plan.hint.ratio.{_strength(shown['ratio'])}"))
    strategy = STRATEGIES[shown["strategy"]]
    if strategy.has_layer_rates:
        shown["match"] = st.toggle(t("setting.match_target"), key="match", help=t("help.match_target"))
    if strategy.protects and not shown.get("match"):
        shown["basis"] = st.selectbox(
            t("setting.ratio_basis"),
            SETTINGS["ratio_basis"].choices,
            format_func=lambda b: t(f"basis.{'prunable' if b == 'model' and strategy.has_layer_rates else b}"),
            key="basis",
            help=t("help.ratio_basis"),
        )
    elif strategy.has_layer_rates:
        shown["basis"] = "model"
        st.session_state.pop("basis", None)
    return shown


def _strength(ratio: float) -> str:
    return "cautious" if ratio < 0.2 else "standard" if ratio <= 0.3 else "aggressive" if ratio <= 0.4 else "beyond"


def _protection(defaults: dict, num_layers: int, has_layer_importance: bool) -> dict:
    st.markdown(f"**{t('plan.group.protection')}**")
    shown = {}
    if num_layers > 1:  # a slider needs two ends
        apart = st.toggle(t("plan.apart"), key="apart", help=t("plan.apart.help"))
        shown["apart"] = apart
        keys = {layers_key(num_layers): "plan.layers_cut.attention" if apart else "plan.layers_cut"}
        if apart:
            keys[mlp_layers_key(num_layers)] = "plan.layers_cut.mlp"
        for key, label in keys.items():
            shown[key] = st.slider(t(label), 0, num_layers - 1, defaults[key], key=key, help=t("plan.layers_cut.help"))
    shown["freeze"] = st.number_input(
        t("setting.freeze_top_n_layers"),
        0,
        None,
        0,
        1,
        key="freeze",
        help=t("help.freeze_top_n_layers") if has_layer_importance else t("plan.freeze.needs_layers"),
        disabled=not has_layer_importance and not st.session_state.get("freeze"),
    )
    shown["protect"] = st.text_input(
        t("setting.protected_layers"),
        key="protect",
        help=t("help.protected_layers"),
        placeholder=t("plan.protected.placeholder"),
    )
    return shown


def _balance(strategy: Strategy, defaults: dict, has_layer_importance: bool) -> dict:
    st.markdown(f"**{t('plan.group.balance')}**")
    shown = {}
    if strategy.compares_layers:
        shown["split"] = st.select_slider(t("plan.split"), (AUTO, *SPLITS), AUTO, key="split", help=t("plan.split.help"))
    else:
        shown["shares"] = st.select_slider(t("plan.split"), SPLITS, "2:8", key="shares", help=t("plan.split.help"))
    if not strategy.has_layer_rates:
        return shown
    shown["layer_rates"] = st.segmented_control(
        t("setting.pruning_strategy"),
        SETTINGS["pruning_strategy"].choices,
        default=defaults["layer_rates"],
        format_func=lambda s: t(f"plan.rates.{s}"),
        required=True,
        key="layer_rates",
        help=t("help.pruning_strategy"),
    )
    if not has_layer_importance:
        st.caption(t("plan.freeze.needs_layers"))
    shown["weight"] = st.slider(
        t("setting.importance_weight"),
        0.0,
        LARGEST_WEIGHT,
        1.0,
        0.1,
        key="weight",
        help=t("help.importance_weight"),
        disabled=shown["layer_rates"] == "uniform",
    )
    shown["bounds"] = st.slider(
        t("plan.bounds"), 0.0, 1.0, (0.15, 0.5), 0.01, format="percent", key="bounds", help=t("plan.bounds.help")
    )
    return shown


def _limits(shape: ModelShape, ratio: float) -> dict:
    with st.expander(t("plan.group.limits")):
        layer = shape.layers[0]
        left, right = st.columns(2)
        floors = (
            ("floor_kv", "min_kv_groups", layer.num_key_value_heads),
            ("floor_mlp", "min_mlp_channels", layer.intermediate_size),
        )
        shown = {
            key: column.number_input(t(f"setting.{name}"), 1, max(most, 1), 1, 1, key=key, help=t(f"help.{name}"))
            for column, (key, name, most) in zip((left, right), floors, strict=True)
        }
        shown["multiple"] = st.selectbox(t("setting.mlp_multiple"), MULTIPLES, key="multiple", help=t("help.mlp_multiple"))
        shown["empty"] = st.toggle(t("setting.remove_empty_layers"), key="empty", help=t("help.remove_empty_layers"))
        if shown["empty"]:
            st.caption(t("plan.empty.advised" if ratio > _STRONG_CUT else "plan.empty.not_advised"))
        for key, name in (("keep", "keep_groups"), ("cut", "cut_groups")):
            shown[key] = st.text_input(t(f"setting.{name}"), key=key, help=t(f"help.{name}"), placeholder="3a1,5m20-29")
    return shown
