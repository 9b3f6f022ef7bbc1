"""Chapter 4: layer-wise and global at one budget; and the split of attention and MLP (`split`)."""

import streamlit as st

from analysis import charts, sensitivity
from analysis.charts import percent
from pruning.planning.plan import PruningPlan
from pruning.runs.sensitivity.plans import strategy_plans
from pruning.runs.sensitivity.results import SPLIT, STRATEGIES
from ui.learn import measure
from ui.learn.frame import Subject, measured, try_plan
from ui.page_frame import chart
from ui.translation import t, words


def show(about: Subject) -> None:
    st.markdown(t("learn.strategies.idea"))
    found = measured(about)
    if found is None:
        return
    compared = measure.result(about, STRATEGIES)
    if compared is not None:
        ratio = compared.question.options["ratio"]
        plans = [plan for _, plan, _ in strategy_plans(found.table, ratio, found.layers)]
        names = tuple(t(f"plan.strategy.{name}") for name in ("layer", "global"))
        chart(charts.plan_difference(plans[0], plans[1], names, words), "learn_difference", t("learn.strategies.alt"))
        _table(compared, plans)
        verdict = sensitivity.strategy_verdict(compared)
        st.markdown(t(f"learn.strategies.{verdict}", ratio=ratio, **_difference(compared)))
    st.subheader(t("learn.split.title"))
    split = measure.result(about, SPLIT)
    if split is not None:
        chart(charts.split_curves(split, words), "learn_split", t("learn.split.alt"))
        measure.left_out(split)
        for row in sensitivity.best_splits(split):
            best, own = row["best"], row["own"]
            numbers = {"split": best["split"], "perplexity": best["perplexity"], "own_perplexity": own["perplexity"]}
            st.markdown(t("learn.split.ratio", ratio=row["ratio"], own_share=own["attention"] / own["removed"], **numbers))
    try_plan(about, "strategies", strategy="layer", match=True, layer_rates="inverse" if found.layers else "uniform")


def _difference(compared) -> dict:
    difference = compared.whole["difference"]
    return {"loss": abs(difference["mean"]), "error": difference["error"]}


def _table(compared, plans: list[PruningPlan]) -> None:
    """A column for each strategy, so that it can be read on a narrow screen."""
    rows = sensitivity.strategy_rows(compared, plans)
    heads = " | ".join(t(f"plan.strategy.{row.strategy}") for row in rows)
    shown = {
        t("learn.strategies.row.target"): [percent(row.target) for row in rows],
        t("learn.strategies.row.actual"): [percent(row.actual) for row in rows],
        t("learn.strategies.row.balance"): [row.balance for row in rows],
        t("learn.strategies.row.depth"): [
            t("learn.strategies.row.layers", layers=row.layers_cut, all=row.layers) for row in rows
        ],
        t("learn.strategies.row.most"): [percent(row.most) for row in rows],
        t("learn.strategies.seconds"): [t("learn.strategies.row.seconds", seconds=row.plan_seconds) for row in rows],
        t("learn.strategies.row.perplexity"): ["∞" if row.perplexity is None else f"{row.perplexity:.3f}" for row in rows],
        t("learn.strategies.row.for"): [t(f"learn.strategies.for.{row.strategy}") for row in rows],
        t("learn.strategies.row.against"): [t(f"learn.strategies.against.{row.strategy}") for row in rows],
    }
    lines = [f"| **{name}** | {' | '.join(cells)} |" for name, cells in shown.items()]
    st.markdown("\n".join([f"| | {heads} |", "| --- | --- | --- |", *lines]))
