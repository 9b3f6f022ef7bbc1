"""Chapter 4: layer-wise and global at one budget; and the split of attention and MLP (experiment 3)."""

import streamlit as st

from analysis import charts, lessons
from pruning.runs.findings import SPLIT, STRATEGIES
from pruning.runs.learning_plans import strategy_plans
from ui import learn_measure
from ui.learn_frame import Lesson, measured, try_plan
from ui.page_frame import chart
from ui.translation import t


def show(about: Lesson) -> None:
    st.markdown(t("learn.strategies.idea"))
    found = measured(about)
    if found is None:
        return
    compared = learn_measure.finding(about, STRATEGIES)
    if compared is not None:
        ratio = compared.request.options["ratio"]
        plans = [plan for _, plan, _ in strategy_plans(found.table, ratio, found.layers)]
        names = tuple(t(f"plan.strategy.{name}") for name in ("layer", "global"))
        chart(charts.plan_difference(*plans, names, t), "learn_difference", t("learn.strategies.alt"))
        _table(compared)
        verdict = lessons.strategy_verdict(compared)
        st.markdown(t(f"learn.strategies.{verdict}", ratio=ratio, **_difference(compared)))
    st.markdown(t("learn.strategies.for_and_against"))
    st.subheader(t("learn.split.title"))
    split = learn_measure.finding(about, SPLIT)
    if split is not None:
        chart(charts.split_curves(split, t), "learn_split", t("learn.split.alt"))
        learn_measure.left_out(split)
        for row in lessons.best_splits(split):
            best, own = row["best"], row["own"]
            numbers = {"split": best["split"], "perplexity": best["perplexity"], "own_perplexity": own["perplexity"]}
            st.markdown(t("learn.split.ratio", ratio=row["ratio"], own_share=own["attention"] / own["removed"], **numbers))
    try_plan(about, "strategies", strategy="layer", match=True, layer_rates="inverse" if found.layers else "uniform")


def _difference(compared) -> dict:
    difference = compared.whole["difference"]
    return {"loss": abs(difference["mean"]), "error": difference["error"]}


def _table(compared) -> None:
    rows = lessons.strategy_rows(compared)
    rows["strategy"] = [t(f"plan.strategy.{name}") for name in rows["strategy"]]
    number = st.column_config.NumberColumn
    st.dataframe(
        rows,
        hide_index=True,
        column_config={
            "strategy": st.column_config.TextColumn(t("plan.strategy")),
            "actual_ratio": number(t("plan.actual"), format="percent"),
            "attention_share": number(t("chart.sweep.axis.split"), format="percent"),
            "plan_seconds": number(t("learn.strategies.seconds"), format="%.3f"),
            "perplexity": number(t("trial.perplexity"), format="%.3f"),
        },
        alt=t("learn.strategies.alt"),
        key="learn_strategy_rows",
    )
