"""What a training or a repair would take, measured by a job of kind `cost`: recovery_cost.json. Imports no torch."""

from dataclasses import dataclass

from ..experiment import COST_FILE, Experiment
from ..files import naming_damage
from ..forms import ANY, ANYTHING, NUMBER, TEXT, optional, require
from ..settings import Settings

_WHERE = ("dtype", "device", "attn_implementation", "gradient_batch_size")
# What decides how long one step and one evaluation take; the rest decides how many there are.
_OF_A_STEP = ("finetune_method", "finetune_batch_size", "finetune_accumulation", "gradient_checkpointing", "lora_r")
_OF_A_STEP += ("lora_targets", "lora_dropout", "distill_weight", "finetune_seq_len")
_OF_AN_EVALUATION = ("eval_corpus", "eval_seq_len", "eval_windows")
_OF_THE_TEXT = ("finetune_corpus", "text_column", "finetune_samples", "finetune_seq_len", "seed", *_OF_AN_EVALUATION)
_OF_THE_REPAIR = ("reconstruct_tokens", "seq_len", "corpus", "text_column", "seed")

FORMAT_VERSION = 1
_FORM = {
    **{"settings": {ANY: ANYTHING}, "device?": optional(TEXT), "windows?": optional(NUMBER)},
    **{name: optional(NUMBER) for name in ("free_bytes?", "seconds_per_step?", "seconds_per_evaluation?", "repair_seconds?")},
    ANY: ANYTHING,
}


@dataclass(frozen=True)
class Measured:
    """What a short measurement found on this machine, and the settings it was made with; None where it was not of that.

    `windows` are those that the training text gives; `of_step`, `of_evaluation`, `of_repair` are seconds; `free_bytes` were
    free on `device`, where it computed.
    """

    settings: dict
    of_step: float | None = None
    of_evaluation: float | None = None
    of_repair: float | None = None
    windows: int | None = None
    device: str | None = None
    free_bytes: int | None = None

    def is_of(self, settings: Settings) -> bool:
        """Whether a step and an evaluation under these settings take as long."""
        return self.of_step is not None and self._agrees(settings, (*_OF_A_STEP, *_OF_AN_EVALUATION, *_WHERE))

    def is_of_repair(self, settings: Settings) -> bool:
        """Whether the repair that these settings ask for takes as long."""
        return self.of_repair is not None and self._agrees(settings, (*_OF_THE_REPAIR, *_WHERE))

    def is_of_text(self, settings: Settings) -> bool:
        """Whether these settings train on as many windows."""
        return self.windows is not None and self._agrees(settings, _OF_THE_TEXT)

    def of_training(self, steps: int, eval_steps: int) -> float:
        """Seconds of a training, evaluations before its first and after its last step included."""
        return steps * self.of_step + (steps // eval_steps + 2) * self.of_evaluation

    def _agrees(self, settings: Settings, names: tuple[str, ...]) -> bool:
        return all(_weighed(name, self.settings) == _weighed(name, settings.as_dict()) for name in names)


def read_measured(experiment: Experiment) -> Measured | None:
    """What the job `cost` measured; None if it was not completed. Raises PruningError for a broken file."""
    path = experiment.path(COST_FILE)
    if not path.exists():
        return None
    content = experiment.read(FORMAT_VERSION, COST_FILE)
    if "settings" not in content and "asked" in content:
        return None
    with naming_damage(path):
        require(content, _FORM, "the whole")
    found = {name: content.get(name) for name in ("windows", "device", "free_bytes")}
    for name in ("step", "evaluation"):
        found[f"of_{name}"] = content.get(f"seconds_per_{name}")
    found["of_repair"] = content.get("repair_seconds")
    return Measured(content["settings"], **found) if any(value is not None for value in found.values()) else None


def _weighed(name: str, settings: dict):
    """A setting as far as it counts: its effective value if it is left out, of shares only whether they are above 0."""
    value = settings.get(name)
    if name == "finetune_seq_len":
        return value or settings.get("seq_len")
    if name == "finetune_corpus":
        return value or settings.get("corpus")
    return value > 0 if name in ("distill_weight", "lora_dropout") and value is not None else value
