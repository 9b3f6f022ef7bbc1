"""The form that starts a measurement: method, samples, lengths, layers, corpus, name."""

from dataclasses import replace

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import PASTED_FILE, Experiment, default_name
from pruning.methods import IMPORTANCE_METHODS, LAYER_METHODS
from pruning.model.model_source import local_folder
from pruning.planning.shape import ModelShape
from pruning.runs.jobs import queue
from pruning.runs.status import MEASURE, create_experiment
from pruning.settings import Settings, merged, resolve
from ui import corpus_picker, settings_widgets, workspace
from ui.access import allowed_roots
from ui.importance import methods
from ui.translation import error_text, t

PRESETS = {
    "quick": {"num_samples": 16, "layer_importance_samples": 8},
    "standard": {"num_samples": 128, "layer_importance_samples": 50},
    "careful": {"num_samples": 256, "layer_importance_samples": 100},
}
_CORPUS = "corpus"
_ERROR_KEY = "measure_error"
_OF_WIDGETS = (
    *("importance_method", "num_samples", "seq_len", "gradient_batch_size", "seed", "text_column", "dtype", "device"),
    *("layer_importance_method", "layer_importance_samples"),
)


def show(disabled: bool) -> None:
    """Draws the form; Start makes an experiment and hands it to the worker."""
    shape = _shape()
    with st.container(border=True):
        method = methods.show(shape)
        _presets()
        columns = st.columns(4)
        with columns[0]:
            settings_widgets.number("num_samples", max_value=100_000, disabled=not IMPORTANCE_METHODS[method].needs_samples)
            settings_widgets.number("layer_importance_samples", max_value=100_000)
        with columns[1]:
            settings_widgets.number("seq_len", max_value=131_072)
            layer_method = LAYER_METHODS[
                settings_widgets.choice("layer_importance_method", format_func=lambda m: t(f"layer_method.{m}"))
            ]
            st.caption(" · ".join(filter(None, (f"`{layer_method.formula}`", layer_method.source))))
        with columns[2]:
            settings_widgets.number("gradient_batch_size", max_value=1024)
            settings_widgets.number("seed")
        with columns[3]:
            corpus_picker.show(_CORPUS, corpus_picker.FOR_CALIBRATION)
            _name()
        if not IMPORTANCE_METHODS[method].needs_samples:
            st.caption(t("importance.hint.no_samples", method=method))
        elif IMPORTANCE_METHODS[method].depends_on_batch_size:
            st.caption(t("importance.hint.batch", method=method))
        st.caption(t("importance.hint.memory"))
        with st.expander(t("importance.computing")):
            if shape is not None and shape.num_layers > 1:
                _layers(shape.num_layers)
            dtype, device = st.columns(2)
            with dtype:
                settings_widgets.choice("dtype")
            with device:
                settings_widgets.text("device")
        st.button(
            t("importance.start"), type="primary", icon=":material/play_arrow:", on_click=_start, disabled=disabled, key="start"
        )
        _error()


def another_method(experiment: Experiment, disabled: bool) -> None:
    """The button that measures the same model on the same samples by another method."""
    current = experiment.settings.importance_method
    others = [method for method in IMPORTANCE_METHODS if method != current]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = st.selectbox(t("importance.methods.other"), others, key="other_method", width=220)
        st.button(
            t("importance.methods.start", method=method),
            icon=":material/play_arrow:",
            key="start_other",
            disabled=disabled,
            on_click=_start_other,
            args=(experiment, method),
        )
    _error()


def offer(disabled: bool) -> None:
    """The button that measures the chosen model with the default settings."""
    label = t("importance.offer")
    st.button(label, icon=":material/play_arrow:", key="start_default", disabled=disabled, on_click=_start_default)
    _error()


def _presets() -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for preset, values in PRESETS.items():
            st.button(
                t(f"importance.preset.{preset}"),
                key=f"measure_{preset}",
                help=t("importance.preset.help", samples=values["num_samples"], layers=values["layer_importance_samples"]),
                on_click=st.session_state.update,
                args=(values,),
            )
        st.caption(t("importance.hint.samples"))


def _layers(num_layers: int) -> None:
    """A quick trial on some layers; the whole range is no limit."""
    last = num_layers - 1
    st.slider(
        t("importance.some_layers"),
        0,
        last,
        (0, last),
        key=_layers_key(num_layers),
        help=t("importance.some_layers.help"),
        persist_state="session",
    )


def _layers_key(num_layers: int) -> str:
    """The number of layers is in the key: another model has other limits."""
    return f"measured_layers{num_layers}"


def _shape() -> ModelShape | None:
    """Sizes of the chosen model; None while they cannot be known, which the start of a measurement explains."""
    experiment, base_model = workspace.current_experiment(), workspace.chosen_model()
    try:
        if experiment is not None and experiment.is_measured and experiment.settings.base_model == base_model:
            return experiment.shape()
        return workspace.summary_of(base_model).shape
    except (PruningError, KeyError):
        return None


def _name() -> None:
    st.text_input(
        t("setting.experiment_name"),
        placeholder=t("importance.name.placeholder"),
        help=t("importance.name.help", root=workspace.output_root()),
        key="new_experiment_name",
        persist_state="session",
    )


def _error() -> None:
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")


# starting, before the page is drawn again, so that the sidebar already shows the new experiment ----------------------


def _start() -> None:
    state = st.session_state
    try:
        pasted = state.get("corpus_text", "") if state["corpus_kind"] == corpus_picker.PASTED else None
        _submit(_settings(), pasted)
    except PruningError as error:
        state[_ERROR_KEY] = error_text(error)
        return
    state["new_experiment_name"] = ""


def _start_default() -> None:
    try:
        base_model = workspace.chosen_model()
        local_folder(base_model, allowed_roots())
        output = {"output_root": str(workspace.output_root()), "experiment_name": default_name(base_model, "learn")}
        _submit(resolve({"base_model": base_model} | output))
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)


def _start_other(experiment: Experiment, method: str) -> None:
    """The same measurement by another method; what the first has of layers is taken over by the worker."""
    try:
        settings = experiment.settings
        name = default_name(settings.base_model, method)
        output = {"output_root": str(workspace.output_root()), "experiment_name": name}
        _submit(merged(settings, output | {"importance_method": method}), experiment.pasted_text())
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)


def _submit(settings: Settings, pasted: str | None = None) -> None:
    """Makes the experiment, hands it to the worker and opens it."""
    root, name = workspace.output_root(), settings.experiment_name
    files = {}
    if pasted is not None:
        files[PASTED_FILE] = pasted
        settings = replace(settings, corpus=str(Experiment.at(root, name).path(PASTED_FILE)))
    permissions = workspace.permissions_for(settings.base_model)
    # From here to `submit` the session is not asked: wherever it is, Streamlit may end this run of the page, by what is no
    # Exception, and the experiment would wait for a job that never comes.
    experiment = create_experiment(root, name, settings, MEASURE, files=files)
    try:
        queue().submit(MEASURE, experiment, permissions)
    except BaseException:
        experiment.discard()
        raise
    workspace.open_experiment(experiment.name)


def _settings() -> Settings:
    state = st.session_state
    given = {name: state[name] for name in _OF_WIDGETS if state.get(name) is not None}
    base_model = workspace.chosen_model()
    local_folder(base_model, allowed_roots())
    shape = _shape()
    first, last = state.get(_layers_key(shape.num_layers), (0, shape.num_layers - 1)) if shape else (0, None)
    if shape and (first, last) != (0, shape.num_layers - 1):
        given |= {"layer_start": first, "layer_end": last + 1}
    name = (state.get("new_experiment_name") or "").strip() or default_name(base_model, given["importance_method"])
    output = {"output_root": str(workspace.output_root()), "experiment_name": name}
    return resolve(given | output | {"base_model": base_model, "corpus": corpus_picker.chosen(_CORPUS)})
