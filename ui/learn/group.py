"""Chapter 2: what one group is, drawn to scale; and what single groups do (`inside`)."""

import html

import streamlit as st

from analysis import charts, sensitivity
from pruning.planning.shape import ATTENTION, GROUP_TYPES, MLP
from pruning.runs.sensitivity.results import INSIDE, SensitivityResult
from ui.learn import measure
from ui.learn.frame import Subject, measured, try_plan
from ui.page_frame import chart
from ui.plan.values import LOWEST_RATIO
from ui.translation import Markdown, code, t, words


def show(about: Subject) -> None:
    layer_idx = _layer(about)
    layer = about.shape.layers[layer_idx]
    kinds = [kind for kind in GROUP_TYPES if layer.group_count(kind)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control(
            t("learn.group.kind"),
            kinds,
            default=kinds[0],
            format_func=lambda k: t(f"learn.group.kind.{k}"),
            required=True,
            key="learn_kind",
        )
        group = st.number_input(t("learn.group.index"), 0, layer.group_count(kind) - 1, 0, key=f"learn_index_{kind}", width=180)
    chart(charts.layer_to_scale(sensitivity.layer_boxes(layer, kind, group), words), "layer_to_scale", t("learn.group.alt"))
    parts = sensitivity.group_parts(layer, kind)
    parts["what"] = [t(f"learn.group.what.{what}") for what in parts["what"]]
    st.markdown(t(f"learn.group.cost.{kind}", group=group, layer=layer_idx, parameters=layer.group_cost(kind)))
    st.dataframe(
        parts,
        hide_index=True,
        column_config={
            "module": st.column_config.TextColumn(t("table.module")),
            "what": st.column_config.TextColumn(t("learn.group.what")),
            "count": st.column_config.NumberColumn(t("learn.group.count"), format="localized"),
            "parameters": st.column_config.NumberColumn(t("table.parameters"), format="localized"),
        },
        alt=t("learn.group.alt"),
        key="group_parts",
    )
    st.markdown(t("learn.group.text", **sensitivity.attention_query_heads(layer)))
    st.subheader(t("learn.inside.title"))
    st.markdown(t("learn.inside.idea"))
    if measured(about) is not None:
        found = measure.result(about, INSIDE, layer=layer_idx)
        if found is not None:
            _inside(found)
    letter = "a" if kind == ATTENTION else "m"
    try_plan(about, "group", ratio=LOWEST_RATIO, cut=f"{layer_idx}{letter}{group}")


def _layer(about: Subject) -> int:
    last = about.shape.num_layers - 1
    return st.slider(t("learn.layer"), 0, last, about.shape.num_layers // 2, key=f"learn_layer{last}") if last else 0


def _inside(found: SensitivityResult) -> None:
    for point in found.points:
        if point["kind"] == ATTENTION:
            numbers = {name: point[name] for name in ("group", "perplexity", "rise", "error")}
            st.markdown(t(f"learn.inside.{point['rank']}", whole=found.perplexity, **numbers))
            st.html(_coloured(point))
    st.markdown(t("learn.inside.channels"))
    for point in found.points:
        if point["kind"] == MLP:
            tokens = Markdown(" ".join(code(token.strip() or "␣") for token in point["tokens"]))
            st.markdown(t(f"learn.inside.writes.{point['rank']}", channel=point["group"], tokens=tokens))


def _coloured(point: dict) -> str:
    """The text of a window; a token's class says how much it lost (`learn-4` most) or gained (`learn--4`)."""
    spans = [f"<span>{html.escape(point['tokens'][0])}</span>"]
    for token, before, after in zip(point["tokens"][1:], point["before"], point["after"], strict=True):
        title = words("learn.inside.token", before=before, after=after)
        spans.append(f'<span class="learn-{sensitivity.shade(before, after)}" title="{title}">{html.escape(token)}</span>')
    return f'<style>{_STYLE}</style><div class="learn-text">{"".join(spans)}</div>'


_LOSS, _GAIN = "213, 94, 0", "18, 160, 122"
_STYLE = ".learn-text{white-space:pre-wrap;font-family:monospace;font-size:0.85rem;max-height:18rem;overflow:auto}" + "".join(
    f".learn-{level}{{background:rgba({_LOSS}, 0.{level * 2})}}"
    f".learn--{level}{{background:rgba({_GAIN}, 0.{level * 2});text-decoration:underline dotted}}"
    for level in range(1, 5)
)
