"""Plans that are tried without cutting: which are asked for, and what their masked perplexity was. Imports no torch.

    page --request--> worker --> trials.json --read--> page

A plan that was tried on the same text is not tried again, so a trial repeats at once, and a sweep that was stopped
continues where it was.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from ..experiment import Experiment
from ..files import naming_damage
from ..forms import ANY, ANYTHING, NUMBER, TEXT, optional, require
from ..planning.group_table import GroupTable
from ..planning.plan import PruningPlan
from ..settings import Settings, plan_settings
from ..strategies import STRATEGIES

FORMAT_VERSION = 1
TRIALS_FILE = "trials.json"
JUDGED_BY = ("eval_corpus", "eval_seq_len", "eval_windows", "text_column")
WHOLE = "whole"  # stands for the digest of the model as it is
SPLITS = tuple(f"{attention}:{10 - attention}" for attention in range(11))
RATIOS = tuple(percent / 100 for percent in range(5, 55, 5))
_SWEPT_RATES = {"layer_min_pruning_rate": 0.0, "layer_max_pruning_rate": 0.9}  # bounds would bend the curve

_OBJECT = {ANY: ANYTHING}
_FORM = {
    **{"digest": TEXT, "settings": _OBJECT, "judged_by": _OBJECT, "perplexity?": optional(NUMBER), "basis?": _OBJECT},
    **{
        "actual_ratio?": NUMBER,
        "parameters?": NUMBER,
        "reason?": optional(TEXT),
        "seconds?": NUMBER,
        "tried?": NUMBER,
        "table?": optional(TEXT),
    },
}


@dataclass(frozen=True)
class Trial:
    """One plan and its perplexity. `perplexity` None: infinite, or (with `reason`) no such plan.

    `table` is the digest of the table that its settings were planned on (None: of an older version, or no settings);
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
    table: str | None = None

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


def arguments(waiting: Iterable[Waiting], judged_by: dict) -> dict:
    """What a job of kind `try` is asked: which plans, on which text."""
    return {"plans": [asdict(one) for one in waiting], "judged_by": judged_by}


def asked_for(asked: dict) -> tuple[list[Waiting], dict]:
    """What `arguments` put together: plans, settings of the text."""
    return [Waiting(**entry) for entry in asked["plans"]], asked["judged_by"]


def sweep(settings: Settings, axis: str) -> list[dict]:
    """Plan settings of every point: `split` from 0:10 to 10:0, `ratio` from 5 to 50 %, or `grid`, both."""
    fixed = plan_settings(settings) | (_SWEPT_RATES if STRATEGIES[settings.strategy].has_layer_rates else {})
    splits = SPLITS if axis in ("split", "grid") else (settings.pruning_distribution,)
    ratios = RATIOS if axis in ("ratio", "grid") else (settings.pruning_ratio,)
    return [fixed | {"pruning_ratio": ratio, "pruning_distribution": split} for ratio in ratios for split in splits]


def find_by_settings(trials: list[Trial], table: GroupTable, settings: dict, judged_by: dict) -> Trial | None:
    """The trial of the plan that these settings give on this table, judged on this text."""
    wanted = (table.digest, settings, judged_by)
    return next((t for t in reversed(trials) if (t.table, t.settings, t.judged_by) == wanted), None)


def find_plan(trials: list[Trial], plan: PruningPlan, judged_by: dict) -> Trial | None:
    """The trial of this plan on this text, whatever settings led to it."""
    return find_by_digest(trials, plan.digest, judged_by)


def find_by_digest(trials: list[Trial], digest: str, judged_by: dict) -> Trial | None:
    """The trial of the plan with this digest on this text; WHOLE for the model as it is."""
    return next((t for t in reversed(trials) if t.digest == digest and t.judged_by == judged_by), None)
