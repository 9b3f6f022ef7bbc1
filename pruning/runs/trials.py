"""Plans that are tried without cutting: which wait, and what their masked perplexity was. Imports no torch.

    page --ask--> trials_waiting.json --worker--> trials.json --read--> page

A plan that was tried on the same text is not tried again, so a trial repeats at once, and a sweep that was stopped
continues where it was.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from ..experiment import Experiment
from ..files import naming_damage
from ..forms import ANY, ANYTHING, NUMBER, TEXT, optional, require
from ..planning.plan import PruningPlan
from ..settings import plan_settings

FORMAT_VERSION = 1
TRIALS_FILE, WAITING_FILE = "trials.json", "trials_waiting.json"
JUDGED_BY = ("eval_corpus", "eval_seq_len", "eval_windows", "text_column")
WHOLE = "whole"  # stands for the digest of the model as it is
SPLITS = tuple(f"{attention}:{10 - attention}" for attention in range(11))
RATIOS = tuple(percent / 100 for percent in range(5, 55, 5))
_SWEPT_RATES = {"layer_min_pruning_rate": 0.0, "layer_max_pruning_rate": 0.9}  # bounds would bend the curve

_OBJECT = {ANY: ANYTHING}
_FORM = {
    **{"digest": TEXT, "settings": _OBJECT, "judged_by": _OBJECT, "perplexity?": optional(NUMBER), "basis?": _OBJECT},
    **{"actual_ratio?": NUMBER, "parameters?": NUMBER, "reason?": optional(TEXT), "seconds?": NUMBER, "tried?": NUMBER},
}


@dataclass(frozen=True)
class Trial:
    """One plan and its perplexity. `perplexity` None: infinite, or (with `reason`) no such plan.

    `judged_by` are the settings of the held-out text, `basis` what they gave.
    """

    digest: str
    settings: dict
    judged_by: dict
    perplexity: float | None = None
    basis: dict = field(default_factory=dict)
    actual_ratio: float = 0.0
    parameters: int = 0
    reason: str | None = None
    seconds: float = 0.0
    tried: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """What the person called the plan; empty for one made by sliders."""
        return self.settings.get("name", "")


def read_trials(experiment: Experiment) -> list[Trial]:
    """All trials of an experiment, oldest first."""
    if not experiment.has(TRIALS_FILE):
        return []
    content = experiment.read(FORMAT_VERSION, TRIALS_FILE)
    with naming_damage(experiment.path(TRIALS_FILE)):
        require(content, {"trials": [_FORM], "format_version": NUMBER}, "the whole")
        return [Trial(**entry) for entry in content["trials"]]


def write_trials(experiment: Experiment, trials: list[Trial]) -> None:
    experiment.write({"format_version": FORMAT_VERSION, "trials": [asdict(t) for t in trials]}, TRIALS_FILE)


@dataclass(frozen=True)
class Waiting:
    """A plan to be tried: one that settings give (`plan` None), or one that came from a file."""

    settings: dict
    plan: dict | None = None


def ask_for(experiment: Experiment, waiting: Iterable[Waiting], judged_by: dict) -> None:
    """Writes which plans the next job of kind `try` shall try, and on which text."""
    content = {"format_version": FORMAT_VERSION, "judged_by": judged_by, "plans": [asdict(w) for w in waiting]}
    experiment.write(content, WAITING_FILE)


def asked_for(experiment: Experiment) -> tuple[list[Waiting], dict]:
    """What `ask_for` wrote: plans, settings of the text."""
    content = experiment.read(FORMAT_VERSION, WAITING_FILE)
    with naming_damage(experiment.path(WAITING_FILE)):
        return [Waiting(**entry) for entry in content["plans"]], content["judged_by"]


def forget_asked(experiment: Experiment) -> None:
    """Removes what `ask_for` wrote: all of it was tried."""
    experiment.path(WAITING_FILE).unlink(missing_ok=True)


def sweep(settings: dict, axis: str) -> list[dict]:
    """Plan settings of every point: `split` from 0:10 to 10:0, `ratio` from 5 to 50 %, or `grid`, both."""
    fixed = plan_settings(settings) | (_SWEPT_RATES if settings["strategy"] == "layer" else {})
    splits = SPLITS if axis in ("split", "grid") else (settings["pruning_distribution"],)
    ratios = RATIOS if axis in ("ratio", "grid") else (settings["pruning_ratio"],)
    return [fixed | {"pruning_ratio": ratio, "pruning_distribution": split} for ratio in ratios for split in splits]


def find_by_settings(trials: list[Trial], settings: dict, judged_by: dict) -> Trial | None:
    """The trial of the plan that these settings gave on this text."""
    return next((t for t in reversed(trials) if t.settings == settings and t.judged_by == judged_by), None)


def find_plan(trials: list[Trial], plan: PruningPlan, judged_by: dict) -> Trial | None:
    """The trial of this plan on this text, whatever settings led to it."""
    return find_by_digest(trials, plan.digest, judged_by)


def find_by_digest(trials: list[Trial], digest: str, judged_by: dict) -> Trial | None:
    """The trial of the plan with this digest on this text; WHOLE for the model as it is."""
    return next((t for t in reversed(trials) if t.digest == digest and t.judged_by == judged_by), None)
