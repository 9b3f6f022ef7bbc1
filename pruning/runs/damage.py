"""Whether the files of an experiment can be read, all of them: what is wrong with the first that cannot.

    experiment  ->  fault_of  ->  None, or the sentence that names the file

Pages read what they show and trust that it has its form; where one stumbles over a damaged experiment, this says what is
damaged. A file that was looked at is not read again before it changes. Imports no torch.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import PruningError
from ..experiment import (
    CARD_FILE,
    COST_FILE,
    LAYERS_FILE,
    PLAN_FILE,
    PLANS_FOLDER,
    RECOVERY_FILE,
    RECOVERY_FOLDER,
    REPAIR_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    SENSITIVITY_FOLDER,
    TABLE_FILE,
    Experiment,
    read_matrices,
)
from ..files import naming_damage
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.matrices import checks, layer_table
from . import requests, status, training_history, trials
from .export_request import ExportRequest
from .measured_cost import read_measured
from .sensitivity import results

_TABLE_TAIL = 4096  # bytes; its last row shows whether it is complete


def fault_of(experiment: Experiment) -> PruningError | None:
    """What is wrong with the first file that cannot be read as what it is; None when all can."""
    for number, (patterns, _) in enumerate(_CHECKS):
        seen = tuple(_stamp(path) for pattern in patterns for path in _files(experiment.folder, pattern))
        is_there = any(_files(experiment.folder, patterns[0]))
        # A description that is missing is a fault; any other file may be.
        if (is_there or number == 0) and (fault := _fault(number, experiment.folder, seen)) is not None:
            return fault
    return None


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]
    return [path for path in found if os.path.lexists(path)]


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=16_384)
def _fault(number: int, folder: Path, seen: tuple) -> PruningError | None:
    patterns, check = _CHECKS[number]
    try:
        with naming_damage(Path(seen[0][0]) if seen else folder / patterns[0]):
            check(Experiment(folder))
    except PruningError as error:
        return error
    return None


# one check for each kind of file --------------------------------------------------------------------------------------


def _description(experiment: Experiment) -> None:
    """Settings that no plan can follow are no damage: the Plan page says so, and mends them."""
    if "model" in experiment.description() or experiment.is_measured:
        experiment.shape()


def _metrics(experiment: Experiment) -> None:
    metrics = experiment.metrics()
    if metrics.get("perplexity") and "basis" not in metrics:
        raise ValueError("it does not say what its perplexities refer to")


def _figures_of_the_cut(experiment: Experiment) -> None:
    with naming_damage(experiment.path("metrics.json")):
        if not {"parameters", "ratio", "size_bytes"} <= experiment.metrics().keys():
            raise ValueError("it does not have the figures of the cut")


def _table(experiment: Experiment) -> None:
    """Of a table that may have a million rows the head, the end and the sidecar."""
    experiment.check_table()
    path = experiment.path(TABLE_FILE)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TABLE_TAIL))
        end = file.read()
    last = end.splitlines()[-1].split(b",")
    if len(last) < 6 or not end.endswith(b"\n"):
        raise ValueError("its last row is cut short")


def _result(experiment: Experiment) -> None:
    matrices, path = read_matrices(experiment), experiment.path(RESULT_FILE)
    if experiment.is_planned:
        with naming_damage(path):
            plan = experiment.read_plan()
            layer_table(plan, matrices)
            checks(plan, matrices)


def _repair(experiment: Experiment) -> None:
    training_history.repaired_matrices(experiment)
    training_history.repaired_on(experiment)


def _model(experiment: Experiment) -> None:
    if experiment.has("model", CARD_FILE):
        CheckpointHeader.read(experiment.model_folder)
        with naming_damage(experiment.path("model", CARD_FILE)):
            experiment.path("model", CARD_FILE).read_text(encoding="utf-8")


def _sensitivity_result(experiment: Experiment) -> None:
    for path in sorted(experiment.path(SENSITIVITY_FOLDER).glob("*.json")):
        results.result_in(path)


def _request(experiment: Experiment) -> None:
    last = requests.read_request(experiment)
    if last is not None and last.kind in _ARGUMENTS:
        with naming_damage(experiment.path(requests.REQUEST_FILE)):
            _ARGUMENTS[last.kind](last.arguments)
    elif last is not None:
        requests.settings_asked_for(experiment, last.kind)


# How the arguments of a request are read; of other kinds they are settings.
_ARGUMENTS: dict[str, Callable[[dict], object]] = {
    "try": trials.asked_for,
    "learn": lambda arguments: results.Question(**arguments),
    "export": ExportRequest.of,
    "pack": ExportRequest.of,
}


def _named_plans(experiment: Experiment) -> None:
    for name in experiment.named_plans():
        experiment.read_named_plan(name)


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Experiment], object]], ...] = (
    # What the check is for comes first; what else it reads, after it.
    (("description.txt", TABLE_FILE), _description),
    ((status.JOB_FILE,), status.read_status),
    (("metrics.json",), _metrics),
    ((RESULT_FILE, "metrics.json"), _figures_of_the_cut),
    ((TABLE_FILE, f"{TABLE_FILE}.json", "description.txt"), _table),
    ((LAYERS_FILE, "description.txt"), Experiment.read_layer_importance),
    ((PLAN_FILE, "description.txt"), Experiment.read_plan),
    ((f"{PLANS_FOLDER}/*.json", "description.txt"), _named_plans),
    ((RESULT_FILE, PLAN_FILE), _result),
    ((SAMPLES_FILE,), Experiment.samples),
    ((REPAIR_FILE,), _repair),
    ((RECOVERY_FILE, REPAIR_FILE), training_history.read_history),
    ((f"{RECOVERY_FOLDER}/{RECOVERY_FILE}", REPAIR_FILE), training_history.read_unfinished),
    ((requests.REQUEST_FILE,), _request),
    ((COST_FILE,), read_measured),
    ((trials.TRIALS_FILE,), trials.read_trials),
    ((f"{SENSITIVITY_FOLDER}/*.json",), _sensitivity_result),
    (("model/config.json", f"model/{CARD_FILE}", "model/*.safetensors"), _model),
)
