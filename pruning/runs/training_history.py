"""What repair and training left in an experiment's folder, for page and charts.

    repair.json             ->  repaired_matrices   output error of each matrix before and after
    recovery.json           ->  TrainingHistory      loss, learning rate and perplexity as they went, of the saved model
    recovery/recovery.json  ->  TrainingHistory      of a training that is not over: it runs, was stopped, or failed

Imports no torch. Knows nothing about the screen.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..experiment import RECOVERY_FILE, RECOVERY_FOLDER, REPAIR_FILE, Experiment
from ..files import naming_damage, read_json
from ..forms import ANY, ANYTHING, NUMBER, TEXT, optional, require
from ..settings import Settings

FORMAT_VERSION = 1
RUNNING, CANCELLED, STOPPED = "running", "cancelled", "stopped"
_POINT = ["step", "loss", "learning_rate", "tokens_per_second", "perplexity"]
_HISTORY = {
    **{"state": TEXT, "settings": {ANY: ANYTHING}, "text": TEXT, "windows": NUMBER, "steps": NUMBER},
    **{"tokens_per_step": NUMBER, "validation": {"text": TEXT, "windows": NUMBER, "seq_len": NUMBER, ANY: ANYTHING}},
    **{"best_step": optional(NUMBER), "lines": {"before": optional(NUMBER), "after": optional(NUMBER)}},
    **{"points": [{ANY: optional(NUMBER)}], ANY: ANYTHING},
}
_REPAIRED_ON = {"corpus": TEXT, "tokens": NUMBER, "seed?": NUMBER, ANY: ANYTHING}
_MATRIX = ["layer_idx", "matrix", "error_before", "error_after", "damping"]


@dataclass(frozen=True)
class TrainingHistory:
    """One training as far as it went.

    `points` has the columns step, loss, learning_rate, tokens_per_second and perplexity, missing where it was not measured.
    `before` and `after` are the perplexities of the unpruned model (None: unknown) and of the cut model that training began
    with (`began_repaired`: repaired before), on the windows that `validation` names, as the points' are.
    """

    state: str
    settings: dict
    text: str
    windows: int
    steps: int
    tokens_per_step: int
    validation: dict
    before: float | None
    after: float | None
    best_step: int | None
    points: pd.DataFrame
    began_repaired: bool = False

    @property
    def measured(self) -> pd.DataFrame:
        """The points with a perplexity."""
        return self.points.dropna(subset="perplexity")

    @property
    def best_perplexity(self) -> float | None:
        """The lowest so far."""
        return float(self.measured["perplexity"].min()) if len(self.measured) else None

    @property
    def last(self) -> dict[str, float]:
        """The newest point; its loss is missing (NaN) before the first step."""
        return self.points.iloc[-1].to_dict()

    def is_same_as(self, settings: Settings) -> bool:
        """Whether these settings ask for this training."""
        return all(getattr(settings, name, None) == value for name, value in self.settings.items())


def read_history(experiment: Experiment) -> TrainingHistory | None:
    """The training of the saved model; None if there was none. Raises PruningError for a broken file."""
    return _history(experiment, experiment.path(RECOVERY_FILE))


def read_unfinished(experiment: Experiment) -> TrainingHistory | None:
    """The training that is not over, or was stopped and can continue; None if there is none (yet).

    Raises PruningError for a broken file.
    """
    return _history(experiment, experiment.path(RECOVERY_FOLDER, RECOVERY_FILE))


def _history(experiment: Experiment, path: Path) -> TrainingHistory | None:
    if not path.exists():
        return None
    content = experiment.read(FORMAT_VERSION, *path.relative_to(experiment.folder).parts)
    with naming_damage(path):
        require(content, _HISTORY, "the whole")
        points = pd.DataFrame(content["points"], columns=_POINT).astype(float)
        own = {"began_repaired": experiment.has(REPAIR_FILE)}
        own |= {name: content[name] for name in TrainingHistory.__annotations__ if name in content}
        history = TrainingHistory(**own | content["lines"] | {"points": points})
    return history if len(points) else None


def repaired_matrices(experiment: Experiment) -> pd.DataFrame | None:
    """Relative output error of each repaired matrix before and after, and the damping of its solution; None without a repair.

    Raises PruningError for a broken file.
    """
    path = experiment.path(REPAIR_FILE)
    if not path.exists():
        return None
    content = read_json(path, FORMAT_VERSION)
    with naming_damage(path):
        require(content["matrices"], [{"layer_idx": NUMBER, "matrix": TEXT, ANY: NUMBER}], "matrices")
        matrices = pd.DataFrame(content["matrices"])
        return matrices[_MATRIX] if len(matrices) else pd.DataFrame(columns=_MATRIX)


def repaired_on(experiment: Experiment) -> dict:
    """The text of the repair: `corpus`, `tokens`, `seq_len`, `seed`."""
    path = experiment.path(REPAIR_FILE)
    content = read_json(path, FORMAT_VERSION)
    with naming_damage(path):
        require(content, {"calibration": _REPAIRED_ON, ANY: ANYTHING}, "the whole")
    return content["calibration"]


# what suits a cut -----------------------------------------------------------------------------------------------------
