"""What every run needs: its model, opened, checked and kept in the worker from one job to the next, and its held-out text."""

import platform
from importlib.metadata import version

import torch

from ..errors import PruningError
from ..experiment import Experiment
from ..model.calibration import check_window
from ..model.checkpoint import LoadedModel, load, open_checkpoint
from ..model.held_out import HeldOutText
from ..planning.checkpoint_header import OWN_HEAD, CheckpointHeader
from .permissions import Permissions
from .progress import RunReport

_MODEL_SETTINGS = ("device", "dtype", "attn_implementation")
_warm: dict[tuple, LoadedModel] = {}


def load_held_out(settings: dict, loaded: LoadedModel) -> HeldOutText:
    """The text that perplexities are reported on; raises PruningError when there is none."""
    check_window(settings["eval_seq_len"], loaded.header.shape.max_position_embeddings, "eval_seq_len")
    return HeldOutText.load(
        loaded.tokenizer, settings["eval_corpus"], settings["eval_seq_len"], settings["eval_windows"], settings["text_column"]
    )


def saved_dtype(loaded: LoadedModel, settings: dict) -> torch.dtype:
    """What a model is saved in: as its files were, unless asked otherwise."""
    return loaded.saved_dtype if settings["save_dtype"] == "auto" else getattr(torch, settings["save_dtype"])


def open_model(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions) -> CheckpointHeader:
    """The checked header of the experiment's model; raises PruningError when it is another one than before."""
    header = open_checkpoint(settings["base_model"], permissions.token, permissions.trust_remote_code)
    known = experiment.description()["fingerprint"]
    if known is None:
        libraries = {name: version(name) for name in ("torch", "transformers", "streamlit")}
        experiment.write_model(header, {"python": platform.python_version()} | libraries)
    elif known != header.fingerprint:
        raise PruningError("plan_other_model", path=experiment.folder, found=known[:12], expected=header.fingerprint[:12])
    report.say(f"    {settings['base_model']}: {header.shape.parameters:,} parameters, {header.shape.num_layers} layers")
    if header.keeps_head and known is None:
        report.say(f"    {OWN_HEAD}")
    return header


def warm_model(header: CheckpointHeader, settings: dict, permissions: Permissions = Permissions()) -> LoadedModel:
    """The model of the last job when it is the same one; at most one is kept."""
    trusted = permissions.trust_remote_code
    key = (str(header.folder), header.fingerprint, trusted, *(settings[name] for name in _MODEL_SETTINGS))
    if key not in _warm:
        _warm.clear()
        _warm[key] = load(header, settings, trusted)
    return _warm[key]


def forget_model() -> None:
    """Drops the kept model: its weights are about to be changed."""
    _warm.clear()


def load_model(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions) -> LoadedModel:
    with report.step("load"):
        return warm_model(open_model(experiment, report, settings, permissions), settings, permissions)
