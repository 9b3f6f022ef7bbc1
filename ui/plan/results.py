"""The results of a plan: the strip of totals, sentences about target and cut, and the five charts."""

from dataclasses import replace

import streamlit as st

from analysis import charts, size
from pruning.errors import PruningError
from pruning.planning.plan import PruningPlan, plan_totals
from pruning.planning.planner import Planned, largest_ratio_for, rates_from_settings
from pruning.planning.protection import name_layers
from pruning.settings import Settings, merged
from pruning.strategies import strategy_of_plan
from pruning.words import readable_size
from ui.page_frame import chart
from ui.translation import error_text, t, words
from ui.workspace import Measured

FILTER_KEYS = {"layer": "group_layers", "kind": "group_type"}
_SHORTFALL = 0.002  # of all parameters; less is rounding to whole groups


def strip(plan: PruningPlan, bytes_per_parameter: int) -> None:
    """Target and actual side by side, each with its basis; what is left, and what goes."""
    totals = plan_totals(plan, bytes_per_parameter)
    basis = {"delta_color": "off", "delta_arrow": "off"}
    target, actual, parameters, weights = st.columns(4)
    asked = plan.settings.get("pruning_ratio")
    shown, of = (f"{asked:.2%}", t(f"basis.{plan.target_basis}")) if asked is not None else ("-", t("plan.target.none"))
    target.metric(t("plan.target"), shown, of, **basis)
    actual.metric(t("plan.actual"), f"{plan.actual_ratio:.2%}", t("basis.model"), **basis)
    parameters.metric(t("plan.parameters"), f"{totals.parameters_after:,}", f"{-totals.parameters_removed:,}", **basis)
    weights.metric(t("plan.size"), readable_size(totals.bytes_after), f"-{readable_size(totals.bytes_removed)}", **basis)
    heads, channels, layers, hand = st.columns(4)
    heads.metric(t("plan.heads_removed"), f"{totals.attention_groups_removed:,}")
    channels.metric(t("plan.channels_removed"), f"{totals.mlp_channels_removed:,}")
    layers.metric(t("plan.layers_removed"), totals.layers_removed)
    hand.metric(t("plan.by_hand"), f"{len(plan.by_hand):,}", help=t("plan.by_hand.help"))


def sentences(found: Measured, planned: Planned) -> None:
    """Why less goes than was asked, with numbers, and what would change it."""
    plan, settings = planned.plan, planned.plan.settings
    if planned.rates is not None:  # a kept plan has none, whatever its settings say
        _layerwise_sentence(found, planned)
    split = settings.get("pruning_distribution", "auto")
    is_short = plan.actual_ratio < settings.get("pruning_ratio", 0) - _SHORTFALL
    strategy = strategy_of_plan(settings)
    if is_short and split != "auto" and not (strategy and strategy.compares_layers):
        largest = largest_ratio_for(found.table, planned)
        if largest < settings["pruning_ratio"]:
            st.caption(t("plan.largest", split=split, largest=largest))
    if strategy and not strategy.protects:
        st.caption(t("plan.protects_nothing", strategy=t(f"plan.strategy.{strategy.name}")))
    if len(plan.by_hand):
        st.caption(t("plan.by_hand.on_top", count=len(plan.by_hand)))
    for kind, layers in size.nearly_emptied(plan).items():
        if layers:
            st.warning(
                t(f"plan.nearly_emptied.{kind}", layers=name_layers(layers), count=len(layers)), icon=":material/warning:"
            )
    emptied = int((plan.kept_counts == 0).any(axis=1).sum())
    if emptied:
        st.warning(
            t("plan.emptied", layers=emptied, gone=plan.shape.num_layers - len(plan.kept_layers)), icon=":material/warning:"
        )


def _layerwise_sentence(found: Measured, planned: Planned) -> None:
    plan, rates, settings = planned.plan, planned.rates, merged(Settings(), planned.plan.settings)
    layers = plan.shape.num_layers
    spared = layers - int(planned.protection.cuttable(layers).any(axis=1).sum())
    numbers = {"asked": settings.pruning_ratio, "actual": plan.actual_ratio, "spared": spared, "layers": layers}
    if not rates.target_met:
        lowest, highest = settings.layer_min_pruning_rate, settings.layer_max_pruning_rate
        st.info(t("plan.bounds_win", lowest=lowest, highest=highest, **numbers), icon=":material/info:")
    elif plan.target_basis == "prunable" and spared and plan.actual_ratio < settings.pruning_ratio - _SHORTFALL:
        st.info(t("plan.shortfall", rates=_matched_rates(found, planned), **numbers), icon=":material/info:")


def _matched_rates(found: Measured, planned: Planned) -> str:
    """The rates that would reach the target in spite of protection, in words."""
    settings = replace(merged(Settings(), planned.plan.settings), match_target=True, ratio_basis="model")
    try:
        matched = rates_from_settings(found.table.shape, settings, planned.protection, found.layers)
    except PruningError as error:
        return error_text(error)
    cut = matched.applied[matched.applied > 0]
    if not matched.target_met or not len(cut):
        return t("plan.matched.not_reached")
    if cut.max() - cut.min() < 5e-4:
        return t("plan.matched.one", rate=cut[0])
    return t("plan.matched.range", lowest=cut.min(), highest=cut.max())


def show_charts(found: Measured, planned: Planned) -> None:
    """The five charts; a click on a layer filters the table of groups."""
    plan, protection = planned.plan, planned.protection
    chart(charts.pruning_rates(plan, protection, words, planned.rates), "rates", t("plan.rates.alt"), on_click=_filter_by)
    left, right = st.columns(2)
    with left:
        chart(charts.groups_cut(plan, words), "groups_cut_plan", t("plan.groups.alt"), on_click=_filter_by)
    with right:
        chart(charts.removed_parameters(plan, words), "removed", t("plan.removed.alt"), on_click=_filter_by)
        chart(charts.balance(plan, words), "balance", t("plan.balance.alt"))
    curve = charts.score_curve(found.table, plan, protection, words, planned.floors)
    chart(curve, "curve", t("plan.curve.alt"))


def _filter_by(click: dict) -> None:
    """A clicked bar shows the groups of its layer, and of its kind where the bar has one."""
    if "x" not in click:
        return
    st.session_state[FILTER_KEYS["layer"]] = [int(click["x"])]
    meta = click.get("legend")
    kind = meta.get("kind") if isinstance(meta, dict) else None
    st.session_state[FILTER_KEYS["kind"]] = kind if kind in ("attention", "mlp") else None
    st.session_state["plan_section"] = "groups"
