"""Before and after of every matrix: totals, checks, and the table with its download."""

import pandas as pd
import streamlit as st

from pruning.planning.matrices import Check
from pruning.words import readable_size
from ui.csv_download import csv_button
from ui.translation import t

# What a person looks for first comes first, without scrolling; the CSV keeps the order of the file.
_COLUMNS = (
    *("layer_idx", "module", "shape_before", "shape_after", "retention", "sparsity"),
    *("params_before", "params_after", "bytes_before", "bytes_after", "kind"),
)


def totals(metrics: dict) -> None:
    """Parameters, size, ratio and perplexity, before and after."""
    parameters, sizes, ratio = metrics["parameters"], metrics["size_bytes"], metrics["ratio"]
    with st.container(horizontal=True):
        st.metric(t("prune.parameters.before"), f"{parameters['before']:,}", border=True)
        st.metric(t("prune.parameters.after"), f"{parameters['after']:,}", border=True)
        st.metric(t("plan.actual"), f"{ratio['actual']:.2%}", border=True, help=t("basis.model"))
        st.metric(t("prune.size.before"), readable_size(sizes["before"]), border=True)
        st.metric(t("prune.size.after"), readable_size(sizes["after"]), border=True)
        for stage in ("before", "after", "repaired"):
            for value in metrics.get("perplexity", {}).get(stage, {}).values():
                st.metric(t(f"prune.perplexity.{stage}"), t("prune.infinite") if value is None else f"{value:.2f}", border=True)


def checks(results: list[Check]) -> None:
    """What must hold after a cut, each with pass or fail."""
    for check in results:
        icon = ":material/check_circle:" if check.passed else ":material/error:"
        colour = "green" if check.passed else "red"
        st.markdown(f":{colour}[{icon}] {check.sentence(t)}")


def table(matrices: pd.DataFrame, file_name: str) -> None:
    """Every matrix with dimensions, parameters, retention and sparsity; the whole as CSV."""
    layers = st.multiselect(
        t("groups.layers"), range(int(matrices["layer_idx"].max()) + 1), key="matrix_layers", placeholder=t("groups.all")
    )
    shown = matrices[matrices["layer_idx"].isin(layers)] if layers else matrices
    number = st.column_config.NumberColumn
    st.dataframe(
        shown.assign(kind=[t(f"table.kind.{kind}") for kind in shown["kind"]]),
        column_config={
            "layer_idx": number(t("table.layer")),
            "module": st.column_config.TextColumn(t("table.module")),
            "kind": st.column_config.TextColumn(t("table.kind")),
            "shape_before": st.column_config.TextColumn(t("table.shape_before")),
            "shape_after": st.column_config.TextColumn(t("table.shape_after")),
            "params_before": number(t("table.params_before"), format="localized"),
            "params_after": number(t("table.params_after"), format="localized"),
            "bytes_before": number(t("table.bytes_before"), format="localized"),
            "bytes_after": number(t("table.bytes_after"), format="localized"),
            "retention": number(t("table.retention"), format="percent"),
            "sparsity": number(t("table.sparsity"), format="percent"),
        },
        column_order=_COLUMNS,
        hide_index=True,
        height=420,
        alt=t("prune.matrices"),
    )
    csv_button(t("prune.matrices.download"), lambda: matrices.to_csv(index=False), file_name, key="matrices_download")
