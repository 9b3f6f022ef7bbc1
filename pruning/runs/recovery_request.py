"""What is asked of the jobs `recover` and `cost`, and which settings decide a training.

    recovery_request.json   {settings}  --recover-->  description.txt, once nothing is left that could be refused
    recovery_cost.json      {asked}     --cost---->   {settings, seconds, bytes, ...}

Not in description.txt: its settings are those of the last run that began, with which a stopped run continues. Imports no
torch.
"""

import contextlib

from ..errors import PruningError
from ..experiment import COST_FILE, REPAIR_FILE, Experiment, checked_settings
from ..files import naming_damage
from ..settings import SETTINGS

COST_VERSION = REQUEST_VERSION = 1
REQUEST_FILE = "recovery_request.json"
# What must be the same for a stopped training to continue.
OF_TRAINING = tuple(
    name
    for name, setting in SETTINGS.items()
    if setting.group == "recovery" and name not in ("reconstruct", "reconstruct_tokens", "finetune")
)
OF_TRAINING += ("corpus", "text_column", "seq_len", "seed", "eval_corpus", "eval_seq_len", "eval_windows", "dtype")
# What decides the time of a recovery, or how it is computed here.
OF_A_MEASUREMENT = (*OF_TRAINING, "reconstruct", "reconstruct_tokens", "finetune", "gradient_batch_size", "device")
OF_A_MEASUREMENT += ("attn_implementation",)


_OF_A_REPAIR = ("corpus", "text_column", "reconstruct_tokens", "seq_len", "seed")


def repair_asked_for(settings: dict) -> dict:
    """The settings that decide a repair, as repair.json keeps them."""
    return {name: settings[name] for name in _OF_A_REPAIR}


def needs_repair(experiment: Experiment, settings: dict) -> bool:
    """Whether these settings ask for a repair that was not made: none was, or one of other settings."""
    if not settings["reconstruct"] or not experiment.has(REPAIR_FILE):
        return settings["reconstruct"]
    made = experiment.read(None, REPAIR_FILE).get("asked")
    return made is not None and made != repair_asked_for(settings) and not settings["resume"]


def ask_to_recover(experiment: Experiment, settings: dict) -> None:
    """Asks the job `recover` for a repair and a training by these settings."""
    experiment.write({"format_version": REQUEST_VERSION, "settings": settings}, REQUEST_FILE)


def recovery_asked_for(experiment: Experiment) -> dict:
    """The settings of a recovery that has not begun; empty if none waits. Raises PruningError for a broken file."""
    if not experiment.has(REQUEST_FILE):
        return {}
    return _settings_in(experiment, REQUEST_FILE, REQUEST_VERSION)


def forget_request(experiment: Experiment) -> None:
    experiment.path(REQUEST_FILE).unlink(missing_ok=True)


def ask_for_cost(experiment: Experiment, settings: dict) -> None:
    """Asks the job `cost` for what these settings would take; what was measured before stays until that is measured."""
    asked = {name: settings[name] for name in OF_A_MEASUREMENT}
    measured = {}
    if experiment.has(COST_FILE):
        with contextlib.suppress(PruningError):  # one that is damaged is about to be replaced
            measured = experiment.read(COST_VERSION, COST_FILE)
    experiment.write(measured | {"format_version": COST_VERSION, "asked": asked}, COST_FILE)


def cost_asked_for(experiment: Experiment) -> dict:
    """The settings that a measurement was asked for by; none where it was not. Raises PruningError for a broken file."""
    if not experiment.has(COST_FILE):
        return {}
    return _settings_in(experiment, COST_FILE, COST_VERSION)


def _settings_in(experiment: Experiment, name: str, version: int) -> dict:
    """What is asked for by a file; where nothing waits, what was asked for last."""
    content, path = experiment.read(version, name), experiment.path(name)
    with naming_damage(path):
        return checked_settings(content.get("asked") or content["settings"], path)
