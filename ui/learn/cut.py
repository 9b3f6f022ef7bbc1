"""Chapter 3: from the rate of a layer to its cut in five steps; and whether it pays to protect layers (`protection`)."""

from dataclasses import replace

import streamlit as st

from analysis import charts, sensitivity
from pruning.errors import PruningError
from pruning.planning.planner import Planned, plan_from_settings
from pruning.runs.sensitivity.results import GRID, PROTECTION, TRAINED, default_options
from pruning.settings import defaults_of
from ui.learn import measure
from ui.learn.frame import Subject, measured, try_plan
from ui.page_frame import chart
from ui.translation import error_text, t, words
from ui.workspace import Measured

STEPS = ("rates", "filter", "groups", "propagate", "cut")


def show(about: Subject) -> None:
    st.markdown(t("learn.cut.idea"))
    found = measured(about)
    if found is None:
        return
    try:
        planned = _planned(found)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    plan = planned.plan
    chart(charts.pruning_rates(plan, planned.protection, words, planned.rates), "learn_rates", t("learn.cut.alt"))
    last = plan.shape.num_layers - 1
    layer = st.slider(t("learn.layer"), 0, last, about.shape.num_layers // 2, key=f"learn_cut_layer{last}") if last else 0
    numbers = sensitivity.cut_numbers(plan, planned.rates, planned.protection, layer, found.bytes_per_parameter)
    for step in STEPS:
        st.markdown(t(f"learn.cut.{step}", **numbers))
        if step == "filter" and not numbers["may_be_cut"]:
            st.caption(t("learn.cut.protected", layer=layer))
        if step == "propagate":
            chart(
                charts.propagation(sensitivity.consequences(plan.shape.layers[layer]), words),
                "learn_propagation",
                t("learn.cut.propagate.alt"),
            )
    st.dataframe(
        sensitivity.layer_before_after(plan, layer, found.bytes_per_parameter),
        hide_index=True,
        column_config={
            "module": st.column_config.TextColumn(t("table.module")),
            "shape_before": st.column_config.TextColumn(t("table.shape_before")),
            "shape_after": st.column_config.TextColumn(t("table.shape_after")),
            "params_before": st.column_config.NumberColumn(t("table.params_before"), format="localized"),
            "params_after": st.column_config.NumberColumn(t("table.params_after"), format="localized"),
            "bytes_before": st.column_config.NumberColumn(t("table.bytes_before"), format="localized"),
            "bytes_after": st.column_config.NumberColumn(t("table.bytes_after"), format="localized"),
        },
        alt=t("learn.cut.alt"),
        key="learn_before_after",
    )
    _protection(about)
    try_plan(about, "cut", strategy="layer", layer_rates=plan.settings["pruning_strategy"], match=True)


def _planned(found: Measured) -> Planned:
    """A layer-wise plan of this model with the default settings; equal rates where layers were not measured."""
    rates = {} if found.layers is not None else {"pruning_strategy": "uniform"}
    return plan_from_settings(found.table, replace(defaults_of("layer"), **rates), found.layers)


def _protection(about: Subject) -> None:
    """The measurement `protection` and its grid, with strategy and number of protected layers to choose."""
    st.subheader(t("learn.protection.title"))
    st.markdown(t("learn.protection.idea"))
    most = about.shape.num_layers // 3
    options = default_options(PROTECTION, about.shape)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        strategy = st.segmented_control(
            t("learn.protection.strategy"),
            ("layer", "global"),
            default="layer",
            format_func=lambda s: t(f"learn.protection.strategy.{s}"),
            required=True,
            key="learn_strategy",
        )
        first = st.slider(t("learn.protection.first"), 0, most, options["first"], key=f"learn_first{most}", width=220)
        last = st.slider(t("learn.protection.last"), 0, most, options["last"], key=f"learn_last{most}", width=220)
    found = measure.result(about, PROTECTION, strategy=strategy, first=first, last=last)
    if found is not None:
        chart(charts.protection_curves(found, words), "protection", t("learn.protection.alt"))
        st.markdown(t(f"learn.protection.{sensitivity.protection_in_all(found)}", first=first, last=last))
        measure.left_out(found)
        for row in sensitivity.protection_verdicts(found):
            st.markdown(t(f"learn.protection.ratio.{row.pop('verdict')}", **row))
        _trained(about, strategy, first, last)
    grid = measure.result(about, GRID, strategy=strategy)
    if grid is not None:
        chart(charts.protection_grid(grid, words), "protection_grid", t("learn.protection.grid.alt"))
        best = sensitivity.best_of_grid(grid)
        if best is not None:
            place = {name: best[name] for name in ("first", "last", "perplexity")}
            st.markdown(t("learn.protection.grid", ratio=grid.question.options["ratio"], **best["difference"], **place))


def _trained(about: Subject, strategy: str, first: int, last: int) -> None:
    """Both cuts after the same LoRA."""
    found = measure.result(about, TRAINED, strategy=strategy, first=first, last=last)
    if found is None:
        return
    chart(charts.protection_trained(found, words), "protection_trained", t("learn.trained.alt"))
    measure.left_out(found)
    for row in sensitivity.trained_verdicts(found):
        st.markdown(t(f"learn.trained.ratio.{row.pop('verdict')}", **row))
