"""What every run is made of: its model, checked and kept in the worker from one job to the next, and its held-out text."""

import platform
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import torch

from ..errors import PruningError
from ..experiment import Experiment
from ..model.calibration import check_window
from ..model.checkpoint import LoadedModel, load, open_checkpoint
from ..model.held_out import HeldOutText
from ..model.runtime import resolve_device
from ..planning.checkpoint_header import OWN_HEAD, CheckpointHeader
from ..settings import Settings
from ..words import counted
from .permissions import Permissions
from .progress import Progress

_MODEL_SETTINGS = ("device", "dtype", "attn_implementation")
_warm: dict[tuple, LoadedModel] = {}


@dataclass(frozen=True)
class Run:
    """One run of one experiment: what it works on, by which settings, where it tells how far it is, and what it may do.

    `request` holds the arguments of the job, as `requests.py` reads them.
    """

    experiment: Experiment
    settings: Settings
    progress: Progress
    permissions: Permissions = field(default_factory=Permissions)
    request: dict = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return resolve_device(self.settings.device)

    @property
    def batch_size(self) -> int:
        """Windows per batch where nothing is kept for a backward pass: twice as many fit as in a gradient's batch, and a person
        who runs out of memory has one number to lower.
        """
        return 2 * self.settings.gradient_batch_size

    def on(self, experiment: Experiment) -> "Run":
        """The same run, working on another folder: the draft of a recovery."""
        return replace(self, experiment=experiment)

    def by(self, settings: Settings) -> "Run":
        """The same run by other settings."""
        return replace(self, settings=settings)


def load_held_out(settings: Settings, loaded: LoadedModel) -> HeldOutText:
    """The text that perplexities are reported on; raises PruningError when there is none."""
    check_window(settings.eval_seq_len, loaded.header.shape.max_position_embeddings, "eval_seq_len")
    return HeldOutText.load(
        loaded.tokenizer, settings.eval_corpus, settings.eval_seq_len, settings.eval_windows, settings.text_column
    )


def saved_dtype(loaded: LoadedModel, settings: Settings) -> torch.dtype:
    """What a model is saved in: as its files were, unless asked otherwise."""
    return loaded.saved_dtype if settings.save_dtype == "auto" else getattr(torch, settings.save_dtype)


def open_model(run: Run) -> CheckpointHeader:
    """The checked header of the experiment's model; raises PruningError when it is another one than before."""
    header = open_checkpoint(run.settings.base_model, run.permissions.token, run.permissions.trust_remote_code)
    known = run.experiment.description()["fingerprint"]
    if known is None:
        libraries = {name: version(name) for name in ("torch", "transformers", "streamlit")}
        run.experiment.write_model(header, {"python": platform.python_version()} | libraries)
    elif known != header.fingerprint:
        raise PruningError("plan_other_model", path=run.experiment.folder, found=known[:12], expected=header.fingerprint[:12])
    layers = counted(header.shape.num_layers, "layer")
    run.progress.say(f"    {run.settings.base_model}: {header.shape.parameters:,} parameters, {layers}")
    if header.keeps_head and known is None:
        run.progress.say(f"    {OWN_HEAD}")
    return header


def warm_model(header: CheckpointHeader, settings: Settings, permissions: Permissions = Permissions()) -> LoadedModel:
    """The model of the last job when it is the same one; at most one is kept."""
    trusted = permissions.trust_remote_code
    key = (str(header.folder), header.fingerprint, trusted, *settings.of(_MODEL_SETTINGS).values())
    if key not in _warm:
        _warm.clear()
        _warm[key] = load(header, settings, trusted)
    return _warm[key]


def forget_model() -> None:
    """Drops the kept model: its weights are about to be changed."""
    _warm.clear()


def load_model(run: Run) -> LoadedModel:
    with run.progress.step("load"):
        return warm_model(open_model(run), run.settings, run.permissions)
