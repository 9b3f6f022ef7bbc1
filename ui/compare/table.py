"""All experiments in one table, what is wrong with damaged ones, and what can be done with the open one."""

from functools import partial

import streamlit as st

from analysis import report
from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.experiment_table import BASIS, STAGES, ExperimentTable, bases, experiment_table, stamp
from pruning.runs.damage import fault_of
from pruning.runs.status import state_of
from pruning.strategies import STRATEGIES
from ui import workspace
from ui.csv_download import csv_button
from ui.links import link
from ui.page_frame import fragment
from ui.translation import error_text, plain, t, words, words_of_now

_SECONDS_BETWEEN_LOOKS = 2.0
_ERROR_KEY = "compare_error"
_COLUMNS = (  # what people compare by comes first, without scrolling
    *("name", "open", "state", "strategy", "ratio_target", "ratio_actual", "parameters"),
    *(f"perplexity_{stage}" for stage in STAGES),
    *("tokens_per_second", "mib", "model", "method", "split", "protected", "dataset", "date"),
)
_MIB, _OPEN = 2**20, "●"
_SPARE = ("perplexity_repaired", "perplexity_recovered", "tokens_per_second")  # shown once any experiment has them


def read() -> ExperimentTable:
    """The experiments under the output root as they are now."""
    experiments = workspace.experiments()
    faults = tuple(str(fault_of(experiment)) for experiment in experiments)  # of files that the stamp does not look at
    return _cached_table(str(workspace.output_root()), (stamp(experiments, state_of), faults))


@st.cache_data(max_entries=4, show_spinner=False)
def _cached_table(root: str, seen: tuple) -> ExperimentTable:
    return experiment_table(workspace.experiments(), state_of, fault_of)


def watch() -> None:
    """Redraws the page when an experiment was added, removed or changed, for instance by the command line."""
    fragment(_look, run_every=_SECONDS_BETWEEN_LOOKS)(stamp(workspace.experiments(), state_of))


def _look(seen: tuple) -> None:
    if stamp(workspace.experiments(), state_of) != seen:
        st.rerun()


def warnings(found: ExperimentTable) -> None:
    """Damaged experiments, and perplexities that cannot be compared."""
    for name, error in found.faults.items():
        st.warning(t("compare.damaged", name=name, reason=error_text(error)), icon=":material/broken_image:")
    measured = bases(found.rows)
    if len(measured) > 1:
        lines = [_basis_line(basis, names) for basis, names in measured.items()]
        st.warning("\n".join([t("compare.basis_differs"), "", *lines]), icon=":material/warning:")


def _basis_line(basis: tuple, names: list[str]) -> str:
    known = {key: value for key, value in zip(BASIS, basis, strict=True) if value == value and value is not None}
    if len(known) < len(BASIS):
        said = t("compare.basis.unknown")
    else:
        shown = {name: known[name] for name in ("dataset", "windows", "seq_len")}
        said = t("compare.basis", **shown, digest=known["corpus_sha256"][:8])
    return f"- {said}: {plain(', '.join(names))}"


def show(found: ExperimentTable) -> None:
    """The table, which sorts by a click on a column's head; a click on a row's box opens its experiment."""
    current = workspace.current_experiment()
    is_open = found.rows["name"] == (current.name if current else None)
    rows = found.rows.assign(open=is_open.map({True: _OPEN, False: ""}))
    rows["mib"] = rows["bytes"] / _MIB
    rows["state"] = [words(f"compare.state.{state}") for state in rows["state"]]
    rows["strategy"] = [words(f"plan.strategy.{name}") if name in STRATEGIES else name for name in rows["strategy"]]
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    spare = [column for column in _SPARE if rows[column].isna().all()]
    st.dataframe(
        rows,
        key="experiments",
        hide_index=True,
        column_order=[column for column in _COLUMNS if column not in spare],
        column_config={
            "open": text(t("compare.open"), alignment="center"),
            **{name: text(t(f"compare.column.{name}")) for name in ("state", "method", "strategy", "split", "protected")},
            "name": text(t("compare.column.name"), pinned=True),
            "model": text(t("compare.column.model")),
            "dataset": text(t("compare.column.dataset")),
            "ratio_target": number(t("compare.column.ratio_target"), format="percent"),
            "ratio_actual": number(t("compare.column.ratio_actual"), format="percent", help=t("basis.model")),
            "parameters": number(t("compare.column.parameters"), format="localized"),
            "mib": number(t("compare.column.mib"), format="%.1f MiB"),
            **{f"perplexity_{s}": number(t(f"compare.column.perplexity_{s}"), format="%.2f") for s in STAGES},
            "tokens_per_second": number(t("compare.column.tokens_per_second"), format="%.1f"),
            "date": st.column_config.DatetimeColumn(t("compare.column.date"), format="YYYY-MM-DD HH:mm"),
        },
        selection_mode="single-row",
        on_select=lambda: _open_selected(list(found.rows["name"])),
        alt=t("compare.table.alt"),
    )
    csv_button(t("compare.download"), lambda: found.rows.to_csv(index=False), "experiments.csv", key="experiments_download")


def _open_selected(names: list[str]) -> None:
    selected = st.session_state["experiments"]["selection"]["rows"]
    if selected and selected[0] < len(names):
        workspace.open_experiment(names[selected[0]])


def actions(found: ExperimentTable) -> None:
    """What can be done with the open experiment: shape its plan, take its report, rename it, delete it."""
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")
    experiment = workspace.current_experiment()
    if experiment is None:
        st.info(t("compare.none_open"), icon=":material/info:")
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="open_experiment"):
        st.markdown(f"**{plain(experiment.name)}**")
        if experiment.is_measured:
            link("plan", t("compare.plan"), icon=":material/tune:")
        report_button(experiment, disabled=experiment.name in found.faults)
        with st.popover(t("compare.rename"), icon=":material/edit:", key="rename"):
            field = f"new_name:{experiment.name}"
            st.text_input(t("compare.new_name"), value=experiment.name, key=field, max_chars=120)
            st.button(t("compare.rename.do"), key="rename_do", type="primary", on_click=_rename, args=(experiment, field))
        if st.button(t("compare.delete"), icon=":material/delete:", key="delete"):
            st.dialog(t("compare.delete.title"))(_ask_before_deleting)(experiment)


def report_button(experiment: Experiment, disabled: bool = False) -> None:
    """Downloads the experiment as one HTML page, which is made when the button is pressed."""
    st.download_button(
        t("compare.report"),
        data=partial(report.html_page, experiment, words_of_now()),
        file_name=f"{experiment.name}-report.html",
        mime="text/html",
        icon=":material/lab_profile:",
        on_click="ignore",
        key="report_download",
        help=t("compare.report.help"),
        disabled=disabled,
    )


def _rename(experiment: Experiment, field: str) -> None:
    try:
        renamed = workspace.rename(experiment, st.session_state[field].strip())
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
        return
    workspace.open_experiment(renamed.name)


def _ask_before_deleting(experiment: Experiment) -> None:
    st.markdown(t("compare.delete.ask", name=experiment.name, folder=experiment.folder.resolve()))
    with st.container(horizontal=True):
        gone = {"icon": ":material/delete_forever:", "type": "primary", "on_click": _delete, "args": (experiment,)}
        if st.button(t("compare.delete.do"), key="delete_do", **gone) or st.button(t("compare.delete.keep"), key="delete_keep"):
            st.rerun()  # closes the dialog


def _delete(experiment: Experiment) -> None:
    try:
        experiment.delete()
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
        return
    workspace.open_experiment(None)
