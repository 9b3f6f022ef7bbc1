"""Two measurements of one model side by side: do they rank groups alike, would they cut the same ones?"""

from pathlib import Path

import pandas as pd
import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.experiment import TABLE_FILE, Experiment, read_sidecar
from pruning.planning.comparison import MethodComparison, Overlap, compare, overlap
from pruning.planning.group_table import GroupTable
from pruning.planning.planner import plan_from_settings
from pruning.planning.shape import GROUP_TYPES
from ui import workspace
from ui.csv_download import csv_button
from ui.importance import form as calibration_form
from ui.page_frame import chart
from ui.plan import form as plan_form
from ui.plan.values import HIGHEST_RATIO, LOWEST_RATIO, default_values, settings_of, values_of
from ui.translation import Markdown, error_text, t, words
from ui.workspace import Measured


def show(found: Measured, disabled: bool) -> None:
    """Ranks of the open experiment against those of another one, and what both would cut."""
    others = _others(found)
    if not others:
        st.info(t("importance.methods.none"), icon=":material/info:")
    else:
        name = st.selectbox(
            t("importance.methods.with"),
            others,
            format_func=lambda other: f"{other} · {others[other]}",
            key="compare_with",
            bind="query-params",
        )
        try:
            _compare(found, Experiment.open(workspace.output_root(), name))
        except PruningError as error:
            st.error(error_text(error), icon=":material/error:")
    st.markdown(f"**{t('importance.methods.more')}**")
    calibration_form.another_method(found.experiment, disabled)


def _others(found: Measured) -> dict[str, str]:
    """Other measurements of the same model: name of the experiment -> method."""
    fingerprint = found.table.source.get("fingerprint") or found.experiment.description().get("fingerprint")
    others = {}
    for experiment in workspace.experiments():
        if experiment.name == found.experiment.name or not experiment.is_measured:
            continue
        try:
            source = read_sidecar(experiment.path(TABLE_FILE))
        except PruningError:
            continue
        if fingerprint and source.get("fingerprint") == fingerprint:
            others[experiment.name] = str(source.get("method", "?"))
    return others


def _compare(found: Measured, other: Experiment) -> None:
    second = _table(*_stamp(other))
    comparison = _comparison(*_stamp(found.experiment), *_stamp(other), found.table, second)
    shared, problem = _shared(found, second)
    if problem:
        st.error(problem, icon=":material/error:")
    _strip(comparison, shared)
    chart(charts.rank_scatter(comparison, words, shared), "ranks", t("importance.methods.alt"))
    st.caption(
        t(
            "importance.methods.basis",
            first=_named(found.experiment.name, comparison, 0),
            second=_named(other.name, comparison, 1),
        )
    )
    if shared is not None:
        _overlap_table(comparison, shared, f"{found.experiment.name}-{other.name}-overlap.csv")


def _shared(found: Measured, second: GroupTable) -> tuple[Overlap | None, str | None]:
    """What both would cut under the same settings at the ratio of the slider, or why there is no such plan."""
    num_layers = found.table.shape.num_layers
    values, origin = _plan_values(found)
    left, right = st.columns([2, 3], vertical_alignment="center")
    with left:
        ratio = st.slider(
            t("setting.pruning_ratio"),
            LOWEST_RATIO,
            HIGHEST_RATIO,
            values["ratio"],
            0.01,
            format="percent",
            key="compare_ratio",
            help=t("importance.methods.ratio.help"),
            persist_state="session",
        )
    strategy = t(f"plan.strategy.{values['strategy']}")
    right.caption(t(f"importance.methods.settings.{origin}", strategy=strategy))
    try:
        settings = settings_of(values | {"ratio": ratio, "keep": "", "cut": ""}, num_layers)
        plans = [plan_from_settings(table, settings, found.layers).plan for table in (found.table, second)]
    except PruningError as error:
        return None, error_text(error)
    return overlap(*plans), None


def _plan_values(found: Measured) -> tuple[dict, str]:
    """What the Plan page holds for this experiment: in this session, in its saved plan, or the defaults."""
    num_layers = found.table.shape.num_layers
    if values := plan_form.values_now(found.experiment):
        return values, "plan"
    saved = found.experiment.is_planned
    values = values_of(found.experiment.settings, num_layers) if saved else default_values(num_layers)
    return values, "plan" if saved else "default"


def _strip(comparison: MethodComparison, shared: Overlap | None) -> None:
    with st.container(horizontal=True):
        for kind in ("all", *GROUP_TYPES):
            value = comparison.spearman[kind]
            label = t(f"importance.methods.spearman.{kind}")
            st.metric(label, f"{value:.3f}", border=True, help=t("importance.methods.spearman.help"))
        if shared is not None:
            help_text = t("importance.methods.overlap.help")
            st.metric(t("importance.methods.overlap"), f"{shared.share:.1%}", border=True, help=help_text)


def _overlap_table(comparison: MethodComparison, shared: Overlap, file_name: str) -> None:
    first, second = (
        comparison.methods if len(set(comparison.methods)) == 2 else (f"{m} {i}" for i, m in enumerate(comparison.methods, 1))
    )
    counts = {"both": shared.both, "first_only": shared.first_only, "second_only": shared.second_only}
    rows = [
        {"type": words(f"chart.kind.{kind}"), "spearman": comparison.spearman[kind]}
        | {name: int(count[:, column].sum()) for name, count in counts.items()}
        | {"share": shared.share_of(kind)}
        for column, kind in enumerate(GROUP_TYPES)
    ]
    frame = pd.DataFrame(rows)
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "type": st.column_config.TextColumn(t("table.type")),
            "spearman": st.column_config.NumberColumn(t("importance.methods.spearman"), format="%.3f"),
            "both": st.column_config.NumberColumn(t("importance.methods.both"), format="localized"),
            "first_only": st.column_config.NumberColumn(words("importance.methods.only", method=first), format="localized"),
            "second_only": st.column_config.NumberColumn(words("importance.methods.only", method=second), format="localized"),
            "share": st.column_config.NumberColumn(t("importance.methods.overlap"), format="percent"),
        },
        alt=t("importance.methods.alt"),
        key="overlap_table",
    )
    csv_button(t("importance.download"), lambda: frame.to_csv(index=False), file_name, key="overlap_download")


def _named(name: str, comparison: MethodComparison, index: int) -> Markdown:
    return t("importance.methods.one", experiment=name, method=comparison.methods[index])


def _stamp(experiment: Experiment) -> tuple[str, int]:
    return str(experiment.folder), experiment.path(TABLE_FILE).stat().st_mtime_ns


@st.cache_resource(max_entries=2, show_spinner=False)
def _table(folder: str, modified: int) -> GroupTable:
    return Experiment(Path(folder)).read_table()


@st.cache_resource(max_entries=4, show_spinner=False)
def _comparison(
    first_folder: str, first_modified: int, second_folder: str, second_modified: int, _first: GroupTable, _second: GroupTable
) -> MethodComparison:
    """Ranking 460,000 groups twice takes 0.3 s; the tables themselves are no part of the key."""
    return compare(_first, _second)
