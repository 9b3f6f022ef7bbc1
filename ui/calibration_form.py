"""The form that starts a measurement: method, corpus, samples, lengths, name."""

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import default_name, write_whole
from pruning.model.model_source import local_folder
from pruning.runs.jobs import queue
from pruning.runs.status import create_experiment
from pruning.settings import resolve
from ui import settings_widgets, workspace
from ui.access import allowed_roots, check_corpus
from ui.translation import error_text, t

_CORPORA = ("python-stdlib", "wikitext2", "c4", "dataset", "file", "pasted")
_PASTED_FILE = "calibration.txt"
_ERROR_KEY = "measure_error"


def show(disabled: bool) -> None:
    """Draws the form; Start makes an experiment and hands it to the worker."""
    with st.container(border=True):
        columns = st.columns(4)
        with columns[0]:
            settings_widgets.choice("importance_method")
            settings_widgets.number("seed")
        with columns[1]:
            settings_widgets.number("num_samples", max_value=100_000)
            settings_widgets.number("gradient_batch_size", max_value=1024)
        with columns[2]:
            settings_widgets.number("seq_len", max_value=131_072)
            _name()
        with columns[3]:
            _corpus()
        with st.expander(t("importance.computing")):
            dtype, device = st.columns(2)
            with dtype:
                settings_widgets.choice("dtype")
            with device:
                settings_widgets.text("device")
        st.button(
            t("importance.start"), type="primary", icon=":material/play_arrow:", on_click=_start, disabled=disabled, key="start"
        )
        if message := st.session_state.pop(_ERROR_KEY, None):
            st.error(message, icon=":material/error:")


def _corpus() -> None:
    kind = st.selectbox(
        t("setting.corpus"),
        _CORPORA,
        format_func=lambda c: t(f"corpus.{c}"),
        help=t("help.corpus"),
        key="corpus_kind",
        persist_state="session",
    )
    if kind == "pasted":
        st.text_area(t("corpus.pasted.label"), key="corpus_text", height=120, persist_state="session")
    elif kind in ("dataset", "file"):
        st.text_input(
            t(f"corpus.{kind}.label"),
            placeholder=t(f"corpus.{kind}.placeholder"),
            key=f"corpus_{kind}",
            persist_state="session",
        )
        settings_widgets.text("text_column")


def _name() -> None:
    st.text_input(
        t("setting.experiment_name"),
        placeholder=t("importance.name.placeholder"),
        help=t("importance.name.help", root=workspace.output_root()),
        key="new_experiment_name",
        persist_state="session",
    )


def _start() -> None:
    """Runs before the page is drawn again, so that the sidebar already shows the new experiment."""
    try:
        settings = _settings()
        experiment = create_experiment(workspace.output_root(), settings["experiment_name"])
        if st.session_state["corpus_kind"] == "pasted":
            write_whole(experiment.path(_PASTED_FILE), st.session_state.get("corpus_text", ""))
            settings["corpus"] = str(experiment.path(_PASTED_FILE))
        experiment.write_settings(settings)
        queue().submit("measure", experiment, workspace.hub_token())
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
        return
    workspace.open_experiment(experiment.name)
    st.session_state["new_experiment_name"] = ""


def _settings() -> dict:
    state = st.session_state
    names = ("importance_method", "num_samples", "seq_len", "gradient_batch_size", "seed", "text_column", "dtype", "device")
    given = {name: state[name] for name in names if state.get(name) is not None}
    base_model = workspace.chosen_model()
    given["trust_remote_code"] = bool(state.get(workspace.trust_key(base_model)))
    local_folder(base_model, allowed_roots())
    name = (state.get("new_experiment_name") or "").strip() or default_name(base_model, given["importance_method"])
    output = {"output_root": str(workspace.output_root()), "experiment_name": name}
    return resolve(given | output | {"base_model": base_model, "corpus": _chosen_corpus()})


def _chosen_corpus() -> str:
    """The corpus as settings name it; raises PruningError for what can be seen to be wrong before a worker starts."""
    kind, state = st.session_state["corpus_kind"], st.session_state
    if kind == "pasted":
        if not state.get("corpus_text", "").strip():
            raise PruningError("corpus_empty", corpus=t("corpus.pasted"))
        return kind
    name = state.get(f"corpus_{kind}", "").strip() if kind in ("dataset", "file") else kind
    check_corpus(name)
    return name
