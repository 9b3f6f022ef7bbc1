"""What closed-form repair did to each matrix: chart, table, download."""

import streamlit as st

from analysis import charts
from pruning.experiment import Experiment
from pruning.runs import training_history
from ui.page_frame import chart
from ui.translation import t, words


def show(experiment: Experiment, num_layers: int) -> None:
    """Draws nothing when there was no repair; `num_layers` are those of the model before the cut."""
    matrices = training_history.repaired_matrices(experiment)
    if matrices is None:
        return
    st.subheader(t("repair.result"))
    on = training_history.repaired_on(experiment)
    corpus, seed = on["corpus"], on.get("seed", "?")
    st.caption(t("repair.basis", matrices=len(matrices), tokens=on["tokens"], corpus=corpus, seed=seed))
    if matrices.empty:
        return
    chart(charts.repair_errors(matrices, num_layers, words), "repair_errors", t("repair.alt"))
    with st.expander(t("repair.table")):
        _table(matrices)
        st.download_button(
            t("prune.matrices.download"),
            data=lambda: matrices.to_csv(index=False),
            file_name=f"{experiment.name}-repair.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            key="repair_download",
        )


def _table(matrices) -> None:
    number = st.column_config.NumberColumn
    st.dataframe(
        matrices,
        hide_index=True,
        column_config={
            "layer_idx": number(t("table.layer")),
            "matrix": st.column_config.TextColumn(t("table.module")),
            "error_before": number(t("repair.error.before"), format="percent"),
            "error_after": number(t("repair.error.after"), format="percent"),
            "damping": number(t("repair.damping"), format="%g", help=t("repair.damping.help")),
        },
        alt=t("repair.table"),
    )
