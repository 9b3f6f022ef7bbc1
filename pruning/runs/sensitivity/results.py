"""Sensitivity measurements, how cuts change the loss: what is asked for, and the results. Imports no torch.

    page --question--> worker --> sensitivity/<experiment>-<digest>.json --read--> page

A result is named by all that its numbers depend on, so that the same question is answered at once, and one that was stopped
continues where it was.

    layers      one layer at a time        protection  all layers or protected ones, same number of parameters
    trained     both of these after the same LoRA
    split       attention : MLP            grid        the same over how many first and last layers are protected
    strategies  layer-wise and global      inside      what single groups do            matrix  zeros or a smaller matrix
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ...errors import PruningError
from ...experiment import SENSITIVITY_FOLDER, Experiment, located, portable
from ...files import naming_damage, read_json, write_json
from ...forms import ANY, ANYTHING, FLAG, NUMBER, TEXT, optional, require
from ...planning.group_table import GroupTable
from ...planning.protection import default_cut_range
from ...planning.shape import ATTENTION, GROUP_TYPES, MLP, ModelShape
from ..requests import arguments_of

FORMAT_VERSION = 1
LAYERS, PROTECTION, TRAINED, GRID, SPLIT, STRATEGIES, INSIDE, MATRIX = EXPERIMENTS = (
    *("layers", "protection", "trained", "grid", "split", "strategies", "inside", "matrix"),
)
WINDOWS = 64
SHARE = 0.25
BOTH = "both"  # attention and MLP of a layer at once
KINDS = {ATTENTION: (ATTENTION,), MLP: (MLP,), BOTH: GROUP_TYPES}
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)
TRAINED_RATIOS, TRAINED_SAMPLES = (0.2, 0.3), 500
GRID_RATIO, STRATEGY_RATIO = 0.2, 0.25
GRID_SIDE = (0, 1, 2, 3, 4, 6)  # protected layers at either end
SPLIT_RATIOS = (0.1, 0.2, 0.3)
SEEDS = 3
SCORED_SAMPLES = 64  # on which every method's importance is measured, for the ranking of layers
_ROOM = 0.8  # of what may go: a plan that takes all that protection leaves has no choice to make
_JUDGED_BY = ("eval_corpus", "eval_seq_len", "text_column")
_COMPUTED = ("dtype", "num_samples", "seq_len", "corpus", "seed")

_OBJECT = {ANY: ANYTHING}
_FORM = {
    "request": {"experiment": TEXT, "options": _OBJECT, "basis": {"table": _OBJECT, ANY: ANYTHING}},
    **{"text": _OBJECT, "perplexity": optional(NUMBER), "points": [_OBJECT], "whole": _OBJECT},
    **{"seconds": NUMBER, "finished": FLAG},
}


@dataclass(frozen=True)
class Question:
    """What is asked: which experiment, its own options, and all else that the numbers depend on (text, table, format)."""

    experiment: str
    options: dict
    basis: dict

    @property
    def file(self) -> str:
        content = json.dumps(asdict(self), sort_keys=True)
        return f"{self.experiment}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"


@dataclass(frozen=True)
class SensitivityResult:
    """What was found: `points` one by one, `whole` what is true of all of them, `text` the held-out text they refer to.

    `perplexity` is that of the model as it is. `seconds` is the time it took; `finished` False: stopped before the last point.
    """

    question: Question
    text: dict = field(default_factory=dict)
    perplexity: float | None = None
    points: list[dict] = field(default_factory=list)
    whole: dict = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False

    def point(self, **keys) -> dict | None:
        """The point that has these values."""
        return next((p for p in self.points if all(p.get(name) == value for name, value in keys.items())), None)


def question(experiment: Experiment, table: GroupTable, kind: str, windows: int = WINDOWS, **options) -> Question:
    """The question as it is asked of this experiment; options that are not given have their defaults.

    Its basis names files of the experiment relative to it: what was found stays found under another name of the folder.
    """
    known = experiment.settings
    basis = {"fingerprint": experiment.description()["fingerprint"], "table": table.source, "windows": windows}
    basis |= known.of((*_JUDGED_BY, *_COMPUTED))
    return Question(kind, default_options(kind, table.shape, known.seed) | options, portable(basis, experiment.folder))


def default_options(kind: str, shape: ModelShape, seed: int = 0) -> dict:
    """The default options of a measurement."""
    cut = default_cut_range(shape.num_layers)
    protected = {"first": cut.start, "last": shape.num_layers - cut.stop}
    seeds = [seed + number for number in range(SEEDS)]
    side = [count for count in GRID_SIDE if count < shape.num_layers / 3]
    middle = shape.num_layers // 2
    trained = sorted({_within_reach(shape, ratio) for ratio in TRAINED_RATIOS})
    return {
        LAYERS: {"share": SHARE, "samples": SCORED_SAMPLES, "kinds": list(GROUP_TYPES)},
        PROTECTION: {"strategy": "layer", "ratios": list(RATIOS), "seeds": seeds} | protected,
        TRAINED: {"strategy": "layer", "ratios": trained, "samples": TRAINED_SAMPLES} | protected,
        GRID: {"strategy": "layer", "ratio": _within_reach(shape, GRID_RATIO), "firsts": side, "lasts": side},
        SPLIT: {"ratios": list(SPLIT_RATIOS)},
        STRATEGIES: {"ratio": _within_reach(shape, STRATEGY_RATIO)},
        INSIDE: {"layer": middle},
        MATRIX: {"layer": middle, "share": SHARE},
    }[kind]


def _within_reach(shape: ModelShape, ratio: float) -> float:
    """The ratio, or in whole percent what default protection leaves room for: small models are mostly embeddings."""
    cut = default_cut_range(shape.num_layers)
    prunable = sum(layer.attention_parameters + layer.mlp_parameters for layer in shape.layers[cut.start : cut.stop])
    return min(ratio, max(int(100 * _ROOM * prunable / shape.parameters), 1) / 100)


def asked_in(experiment: Experiment, arguments: dict) -> Question:
    """What a job of kind `learn` is asked for; raises TypeError for arguments that are no such question."""
    return Question(**portable(arguments, experiment.folder))


def is_asked(experiment: Experiment, wanted: Question) -> bool:
    """Whether this is the question that was asked last: it waits for its answer, is being answered, or was."""
    return portable(arguments_of(experiment, "learn"), experiment.folder) == asdict(wanted)


def read_result(experiment: Experiment, wanted: Question) -> SensitivityResult | None:
    """What was found for this question, as far as it got; None when it was not asked before."""
    path = experiment.path(SENSITIVITY_FOLDER, wanted.file)
    if path.exists():
        return result_in(path)
    # Older files are named by the path of a text inside the experiment, as it was then.
    named_otherwise = (
        path.parent.glob(f"{wanted.experiment}-*.json")
        if portable(wanted.basis, experiment.folder) != located(wanted.basis, experiment.folder)
        else ()
    )
    for other in named_otherwise:
        found = result_in(other)
        basis = portable(located(found.question.basis, experiment.folder), experiment.folder)
        if replace(found.question, basis=basis) == wanted:
            return replace(found, question=wanted)
    return None


def result_in(path: Path) -> SensitivityResult:
    """What a file of SENSITIVITY_FOLDER holds; raises PruningError for one that is not ours."""
    content = read_json(path, FORMAT_VERSION)
    content.pop("format_version")
    with naming_damage(path):
        require(content, _FORM, "the whole")
        return SensitivityResult(question=Question(**content.pop("request")), **content)


def write_result(experiment: Experiment, result: SensitivityResult) -> None:
    path = experiment.path(SENSITIVITY_FOLDER, result.question.file)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise PruningError("disk_write", path=path.parent, reason=error.strerror or error) from error
    content = asdict(result)
    write_json(path, {"format_version": FORMAT_VERSION, "request": content.pop("question")} | content)
