"""What was measured, in sections: layers, groups (with a zoom into one layer), distribution, and what all of it means."""

import numpy as np
import pandas as pd
import streamlit as st

from analysis import charts
from analysis.table_pages import groups_in_brief
from pruning.methods import IMPORTANCE_METHODS
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.protection import Protection
from pruning.planning.shape import GROUP_TYPES
from ui.csv_download import csv_button
from ui.importance import basis
from ui.page_frame import chart, explanation
from ui.translation import t, words
from ui.workspace import Measured

_LAYER_KEY = "importance_layer"
_SKEWED = 20  # times the median: on a linear axis the other layers are then a few pixels high


def layers(found: Measured) -> None:
    """Importance of whole layers, of their groups, and the balance of attention and MLP."""
    log = st.toggle(t("importance.log"), key="importance_log", bind="query-params")
    protection = Protection.resolve(found.table.shape.num_layers)
    if found.layers is None:
        st.info(t("importance.no_layers"), icon=":material/info:")
    else:
        st.caption(basis.of_layers(found.layers))
        times = found.layers.top_over_median
        if not log and times > _SKEWED:
            st.caption(t("importance.skewed", layer=int(found.layers.importance.argmax()), times=times))
        chart(
            charts.layer_importance_bars(found.layers, words, log, protection), "whole_layers", t("importance.whole_layers.alt")
        )
        _layer_table(found.layers, f"{found.experiment.name}-layers.csv")
    chart(charts.group_importance_bars(found.table, words, log, protection), "layer_importance", t("importance.layers.alt"))
    chart(charts.importance_balance(found.table, words), "importance_balance", t("importance.balance.alt"))


def groups(found: Measured) -> None:
    """Heat maps of both kinds; a click on a layer, or the picker, shows every group of it."""
    table = found.table
    measured = basis.measured_layers(table)

    def zoom(click: dict) -> None:
        if "x" in click and int(click["x"]) in measured:
            st.session_state[_LAYER_KEY] = int(click["x"])

    for kind in GROUP_TYPES:
        alt = t(f"importance.{kind}.alt")
        chart(charts.importance_heatmap(table, kind, words), f"heatmap_{kind}", alt, on_click=zoom)
    layer = st.selectbox(
        t("importance.zoom"),
        measured,
        index=None,
        key=_LAYER_KEY,
        placeholder=t("importance.zoom.placeholder"),
        bind="query-params",
        width=320,
    )
    if layer is None:
        return
    for kind, column in zip(GROUP_TYPES, st.columns([2, 3]), strict=True):
        with column:
            chart(charts.layer_groups(table, layer, kind, words), f"layer_groups_{kind}", t("importance.zoom.alt", layer=layer))


def distribution(found: Measured) -> None:
    """How the scores of each layer spread."""
    for kind in GROUP_TYPES:
        chart(charts.score_distribution(found.table, kind, words), f"distribution_{kind}", t("importance.distribution.alt"))


def meaning(found: Measured) -> None:
    """The method that was used, with this model's own numbers."""
    table, method = found.table, found.table.source.get("method")
    layer = table.shape.layers[0]
    explanation(
        "importance",
        method=t(f"method.{method}.explanation" if method in IMPORTANCE_METHODS else "method.unknown.explanation"),
        ratio=layer.num_key_value_groups,
        attention=layer.attention_group_cost,
        mlp=layer.mlp_channel_cost,
        **groups_in_brief(table),
        layers=_layer_sentence(found.layers),
    )


def _layer_table(found: LayerImportance, file_name: str) -> None:
    frame = pd.DataFrame({"layer_idx": np.arange(len(found.importance)), "importance": found.importance, "rank": found.rank})
    if found.perplexity_ratio is not None:
        frame["perplexity_ratio"] = found.perplexity_ratio
    with st.expander(t("importance.layer_table")):
        st.dataframe(
            frame,
            hide_index=True,
            height=320,
            column_config={
                "layer_idx": st.column_config.NumberColumn(t("table.layer")),
                "importance": st.column_config.NumberColumn(t("table.importance"), format="%.6g"),
                "rank": st.column_config.NumberColumn(t("importance.rank")),
                "perplexity_ratio": st.column_config.NumberColumn(t("importance.perplexity_ratio"), format="%.4g"),
            },
            alt=t("importance.layer_table"),
            key="layer_table",
        )
        csv_button(t("importance.download"), lambda: frame.to_csv(index=False), file_name, key="layers_download")


def _layer_sentence(found: LayerImportance | None) -> str:
    if found is None:
        return t("importance.explanation.no_layers")
    by_rank = np.argsort(found.rank)
    values = {"first": int(by_rank[0]), "second": int(by_rank[1 % len(by_rank)]), "last": int(by_rank[-1])}
    if found.perplexity_ratio is None:
        return t("importance.explanation.layers", **values)
    ratios = {"most": found.perplexity_ratio[by_rank[0]], "least": found.perplexity_ratio[by_rank[-1]]}
    return t("importance.explanation.layers_removed", **values, **ratios)
