"""What the person is working on: the chosen model and the open experiment. Kept in the URL and on disk, so that a
reload of the page loses nothing.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import (
    LAYERS_FILE,
    PLAN_FILE,
    PLANS_FOLDER,
    SAMPLES_FILE,
    TABLE_FILE,
    Experiment,
    list_experiments,
    read_matrices,
)
from pruning.model.model_source import DEMO, ModelSummary, local_folder, summarize
from pruning.planning.checkpoint_header import BYTES_PER_PARAMETER
from pruning.planning.group_table import GroupTable
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.plan import PruningPlan
from pruning.runs.jobs import queue
from pruning.runs.permissions import Permissions
from pruning.settings import SETTINGS

from .access import allowed_roots, is_beyond_loopback

EXPERIMENT_KEY, MODEL_KEY, TOKEN_KEY = "experiment", "model", "hub_token"
_SEEN_KEY = "experiment_seen"
OUTPUT_ROOT_VARIABLE = "PRUNING_OUTPUT_ROOT"
_new_names: dict[Path, str] = {}  # of experiments that were renamed here, by the folder they were in


def output_root() -> Path:
    """The folder that holds the experiments."""
    return Path(os.environ.get(OUTPUT_ROOT_VARIABLE, SETTINGS["output_root"].default))


def restore() -> None:
    """Takes model and experiment from the URL in a new session, and keeps the URL up to date in an old one."""
    for key, default in ((MODEL_KEY, DEMO), (EXPERIMENT_KEY, None)):
        if key not in st.session_state:
            named = st.query_params.get(key, default)
            st.session_state[key] = named if key != MODEL_KEY or _names_a_model(named) else default
        if st.session_state[key] and st.query_params.get(key) != st.session_state[key]:
            st.query_params[key] = st.session_state[key]


def chosen_model() -> str:
    """What the person chose on the Model page: `demo`, a folder, or a hub id."""
    return st.session_state[MODEL_KEY]


def choose_model(base_model: str) -> None:
    """Makes this the chosen model; draws the screen again when it was another one, so that the sidebar says so too."""
    changed = st.session_state[MODEL_KEY] != base_model
    st.session_state[MODEL_KEY] = base_model
    st.query_params[MODEL_KEY] = base_model
    if changed:
        st.rerun()


def remember_token(token: str) -> None:
    """Keeps the token for this session; the field itself forgets it when its page is left."""
    st.session_state[TOKEN_KEY] = token


def hub_token() -> str | None:
    """The token of this session, or of the environment of a server for this machine alone; never written anywhere."""
    return st.session_state.get(TOKEN_KEY) or (None if is_beyond_loopback() else os.environ.get("HF_TOKEN"))


def trust_key(base_model: str) -> str:
    """Where the consent to run a model's own code is kept: for this model, not for the next."""
    return f"trust_remote_code:{base_model}"


def consents_to_code(base_model: str) -> bool:
    """Whether the person of this session lets this model's own code run; never where others can reach the server."""
    return not is_beyond_loopback() and bool(st.session_state.get(trust_key(base_model)))


def permissions(experiment: Experiment) -> Permissions:
    """What a job on this experiment may do for this person; raises PruningError where it is gone or damaged."""
    experiment.require()
    return permissions_for(experiment.settings.base_model)


def permissions_for(base_model: str) -> Permissions:
    """What a job on an experiment on this model may do for this person."""
    return Permissions(hub_token(), consents_to_code(base_model))


def experiments() -> list[Experiment]:
    return list_experiments(output_root())


def open_experiment(name: str | None) -> None:
    """Makes this the open experiment; the sidebar's picker follows."""
    st.session_state[EXPERIMENT_KEY] = name
    if name:
        st.query_params[EXPERIMENT_KEY] = name
    elif EXPERIMENT_KEY in st.query_params:
        del st.query_params[EXPERIMENT_KEY]


def current_experiment() -> Experiment | None:
    """The open experiment; None when none is open, and when there is none of that name, of which the frame of all screens
    speaks (see `missing`).
    """
    name = st.session_state.get(EXPERIMENT_KEY)
    try:
        experiment = Experiment.at(output_root(), name) if name else None
    except PruningError:  # a link may name anything
        return None
    if experiment is None or not experiment.exists:
        return None
    st.session_state[_SEEN_KEY] = experiment.name
    return experiment


def missing() -> str | None:
    """The name of the open experiment where there is none of that name (any more); None when it is there or none is open."""
    name = st.session_state.get(EXPERIMENT_KEY)
    return name if name and current_experiment() is None else None


def was_open(name: str) -> bool:
    """Whether this session has seen the experiment of this name."""
    return st.session_state.get(_SEEN_KEY) == name


def rename(experiment: Experiment, new_name: str) -> Experiment:
    """The experiment under its new name, which other sessions of this server learn too; raises PruningError."""
    renamed = experiment.rename(new_name)
    if renamed != experiment:
        _new_names[experiment.folder.absolute()] = renamed.name
    return renamed


def new_name_of(name: str) -> str | None:
    """What an experiment that is missing was renamed to in a session of this server, where it still is; None if unknown."""
    known = {name}
    while (name := _new_names.get((output_root() / name).absolute())) and name not in known:
        known.add(name)
        if Experiment(output_root() / name).exists:
            return name
    return None


@dataclass(frozen=True)
class Measured:
    """An experiment whose importance was measured."""

    experiment: Experiment
    table: GroupTable
    layers: LayerImportance | None = None

    @property
    def was_cut(self) -> bool:
        return self.experiment.is_cut

    @property
    def bytes_per_parameter(self) -> int:
        """Of the model's files."""
        return BYTES_PER_PARAMETER.get(self.experiment.description()["model"]["dtype"], 4)


def measured() -> Measured | None:
    """The open experiment with its group table; None when nothing was measured. Raises PruningError for a broken file."""
    experiment = current_experiment()
    if experiment is None or not experiment.is_measured:
        return None
    path = experiment.path(TABLE_FILE)
    return Measured(experiment, _cached_table(str(experiment.folder), path.stat().st_mtime_ns), layers_of(experiment))


def layers_of(experiment: Experiment) -> LayerImportance | None:
    """The importance of layers in the experiment's folder, None when they were not measured."""
    path = experiment.path(LAYERS_FILE)
    return _cached_layers(str(experiment.folder), path.stat().st_mtime_ns) if path.exists() else None


@st.cache_resource(max_entries=4, show_spinner=False)
def _cached_layers(folder: str, modified: int) -> LayerImportance | None:
    return Experiment(Path(folder)).read_layer_importance()


@st.cache_resource(max_entries=4, show_spinner=False)
def _cached_table(folder: str, modified: int) -> GroupTable:
    return Experiment(Path(folder)).read_table()


@st.cache_data(max_entries=16, ttl="10m", show_spinner=False)
def _cached_summary(base_model: str, token: str | None, stamp: float | None) -> ModelSummary:
    return summarize(base_model, token, allowed_roots())


def summary_of(base_model: str) -> ModelSummary:
    """Sizes of a model without reading its weights; raises PruningError."""
    config = Path(base_model).expanduser() / "config.json"
    stamp = config.stat().st_mtime if base_model != DEMO and config.is_file() else None
    return _cached_summary(base_model, hub_token(), stamp)


def saved_plan(experiment: Experiment) -> PruningPlan | None:
    """The plan in the experiment's folder, None when there is none or it cannot be read."""
    if not experiment.is_planned:
        return None
    try:
        return _cached_plan(str(experiment.folder), experiment.path(PLAN_FILE).stat().st_mtime_ns)
    except PruningError:
        return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _cached_plan(folder: str, modified: int) -> PruningPlan:
    return Experiment(Path(folder)).read_plan()


def named_plan(experiment: Experiment, name: str) -> PruningPlan:
    """A plan that was kept under a name; raises PruningError when it cannot be read."""
    path = experiment.path(PLANS_FOLDER, f"{name}.json")
    return _cached_named_plan(str(experiment.folder), name, path.stat().st_mtime_ns if path.is_file() else 0)


@st.cache_resource(max_entries=8, show_spinner=False)
def _cached_named_plan(folder: str, name: str, modified: int) -> PruningPlan:
    return Experiment(Path(folder)).read_named_plan(name)


@dataclass(frozen=True)
class Result:
    """What a cut left in its experiment; each file is read where it is needed, and raises PruningError then."""

    experiment: Experiment

    @cached_property
    def matrices(self) -> pd.DataFrame:
        return read_matrices(self.experiment)

    @cached_property
    def metrics(self) -> dict:
        return self.experiment.metrics()

    @cached_property
    def samples(self) -> dict | None:
        return self.experiment.samples() if self.experiment.has(SAMPLES_FILE) else None


def result_of(experiment: Experiment) -> Result | None:
    """The result of a finished cut, None when there is none (yet)."""
    status = queue().status(experiment)
    if not experiment.is_cut or (status and status.is_active and status.kind == "prune"):
        return None
    return Result(experiment)


def _names_a_model(base_model: str) -> bool:
    """Whether a model named in a link is the demo, a folder that is there and allowed, or could be a hub id."""
    try:
        local_folder(base_model, allowed_roots())
    except PruningError:
        return False
    return True


def is_hub_id(base_model: str) -> bool:
    """Whether this names a model on the hub rather than a folder; False for what names neither."""
    try:
        return local_folder(base_model) is None
    except PruningError:
        return False


def as_folder(typed: str) -> str:
    """What was typed as a folder, written so that it cannot be taken for a hub id."""
    is_path = typed.startswith((".", "~")) or Path(typed).is_absolute()
    return typed if is_path else f"./{typed}"
