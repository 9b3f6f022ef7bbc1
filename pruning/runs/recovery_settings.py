"""Which settings decide a training, a repair, and what both cost; whether a repair has to be made. Imports no torch."""

from ..experiment import REPAIR_FILE, Experiment
from ..settings import SETTINGS, Settings

# What must be the same for a training that was stopped to go on.
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


def repair_asked_for(settings: Settings) -> dict:
    """The settings that decide a repair, as repair.json keeps them."""
    return settings.of(_OF_A_REPAIR)


def needs_repair(experiment: Experiment, settings: Settings) -> bool:
    """Whether these settings ask for a repair that was not made: none was, or one of other settings."""
    if not settings.reconstruct or not experiment.has(REPAIR_FILE):
        return settings.reconstruct
    made = experiment.read(None, REPAIR_FILE).get("asked")
    return made is not None and made != repair_asked_for(settings) and not settings.resume
