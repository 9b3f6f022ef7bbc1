"""Experiments of a folder as one table, and two of them side by side.

    experiments  ->  experiment_table    a row each: what was asked, what came out; a damaged one has a sentence instead
    two of them  ->  differing_settings, kept_sizes

Reads `description.txt`, `metrics.json` and the settings in `plan.json`, so hundreds of experiments list at once. Imports
no torch; knows nothing about the screen.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import PruningError
from .experiment import PLAN_FILE, TABLE_FILE, Experiment
from .files import naming_damage, read_json
from .planning.plan import PruningPlan, target_basis
from .planning.planner import protection_from_settings
from .planning.protection import Protection, name_layers
from .planning.shape import ModelShape
from .settings import OF_THE_FOLDER, Settings, merged, plan_settings

STAGES = ("before", "after", "repaired", "recovered")
BASIS = ("dataset", "seq_len", "windows", "corpus_sha256")  # perplexities on another text or cut say nothing of each other
DAMAGED = "damaged"
FROM_FILE, UNKNOWN = "file", "-"  # where a file decided the plan, and no settings say how it came about
_TEXTS = ("name", "state", "model", "method", "strategy", "protected", "split", "dataset", "corpus_sha256", "fingerprint")
_NUMBERS = (
    *("ratio_target", "ratio_actual", "parameters_before", "parameters", "bytes"),
    *(f"perplexity_{stage}" for stage in STAGES),
    *("perplexity", "tokens_per_second", "seq_len", "windows"),
)
COLUMNS = (*_TEXTS, "target_basis", *_NUMBERS, "date")


@dataclass(frozen=True)
class ExperimentTable:
    """`rows` has the columns COLUMNS, one row per experiment; `faults` says of damaged ones what is wrong, by name.

    Of one that is damaged only where the row does not look, the row holds what it can.
    """

    rows: pd.DataFrame
    faults: dict[str, PruningError]


def experiment_table(
    experiments: Iterable[Experiment],
    state_of: Callable[[Experiment], str],
    fault_of: Callable[[Experiment], PruningError | None] = lambda _: None,
) -> ExperimentTable:
    """The experiments in their order. `state_of` says how far one got (`pruning.runs.status.state_of`), `fault_of` what is
    wrong with its files (`pruning.runs.damage.fault_of`).

    `parameters` and `bytes` are those of the cut model, `perplexity` is that of its last stage (cut, repaired, recovered;
    infinite where it was not finite), `tokens_per_second` its decoding at batch 1. What was not measured is missing.
    """
    rows, faults = [], {}
    for experiment in experiments:
        row, fault = {"name": experiment.name, "date": _date(experiment)}, fault_of(experiment)
        try:
            with naming_damage(experiment.folder):
                row = _row(experiment, state_of(experiment))
        except PruningError as error:
            fault = fault or error
        if fault is not None:
            faults[experiment.name] = fault
            row["state"] = DAMAGED
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table[list(_NUMBERS)] = table[list(_NUMBERS)].astype(float)  # of an empty table too
    return ExperimentTable(table, faults)


def stamp(experiments: Iterable[Experiment], state_of: Callable[[Experiment], str]) -> tuple:
    """Something that differs when `experiment_table` would, but for damage done to other files than these; reads no more than
    `job.json`.
    """
    files = ("description.txt", "metrics.json", PLAN_FILE, TABLE_FILE)
    return tuple((e.name, _state_or_damaged(e, state_of), *(_modified(e.path(file)) for file in files)) for e in experiments)


def bases(rows: pd.DataFrame) -> dict[tuple, list[str]]:
    """Basis of a perplexity (BASIS) -> names of the experiments measured on it; more than one: numbers not comparable."""
    measured = rows[rows[[f"perplexity_{stage}" for stage in STAGES]].notna().any(axis=1)]
    groups = measured.groupby(list(BASIS), dropna=False, sort=False)["name"]
    return {basis: list(names) for basis, names in groups}


def differing_settings(first: Experiment, second: Experiment) -> pd.DataFrame:
    """Settings in which two experiments differ: `setting`, `first`, `second` as text; where they lie does not count."""
    settings = [experiment.settings.as_dict() for experiment in (first, second)]
    names = [name for name in settings[0] if name not in OF_THE_FOLDER]
    rows = [(name, *(_as_text(one[name]) for one in settings)) for name in names]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["setting", "first", "second"])


def kept_sizes(first: PruningPlan, second: PruningPlan) -> pd.DataFrame:
    """Attention groups and MLP channels that two plans keep in each layer; for models of different depth too."""
    frames = [
        pd.DataFrame(plan.kept_counts, columns=[f"attention_{side}", f"mlp_{side}"])
        for side, plan in (("first", first), ("second", second))
    ]
    table = pd.concat(frames, axis=1).astype("Int64").rename_axis("layer_idx").reset_index()
    return table[["layer_idx", "attention_first", "attention_second", "mlp_first", "mlp_second"]]


# what made the plan ---------------------------------------------------------------------------------------------------


def settings_of_plan(experiment: Experiment) -> Settings | None:
    """The settings that decided the plan, all others beside them; None where a file decided and no settings are known."""
    settings = experiment.settings
    if not experiment.is_planned:
        return None if experiment.source_file else settings
    path = experiment.path(PLAN_FILE)
    in_plan = _settings_in_plan(path, path.stat().st_mtime_ns)
    return merged(settings, in_plan) if "strategy" in in_plan else None


def method_of_plan(experiment: Experiment) -> str:
    """The importance method behind the plan; `-` where a file decided that says none."""
    if not experiment.source_file:
        return experiment.settings.importance_method
    sidecar = experiment.path(f"{TABLE_FILE}.json")
    return str(read_json(sidecar, None).get("method", UNKNOWN)) if sidecar.is_file() else UNKNOWN


def protection_of(experiment: Experiment, shape: ModelShape, settings: Settings | None) -> Protection | None:
    """What `settings` (see `settings_of_plan`) protected; None where that is not known."""
    layers = experiment.read_layer_importance()
    if settings is None or (layers is None and settings.freeze_top_n_layers):
        return None
    return protection_from_settings(shape, settings, layers)


@functools.lru_cache(maxsize=1024)
def _settings_in_plan(path: Path, changed: int) -> dict:
    return read_json(path, None).get("settings") or {}


# one row --------------------------------------------------------------------------------------------------------------


def _row(experiment: Experiment, state: str) -> dict:
    settings, metrics, description = settings_of_plan(experiment), experiment.metrics(), experiment.description()
    basis, ratio = metrics.get("basis", {}), metrics.get("ratio", {})
    perplexities = {stage: _perplexity(metrics, stage) for stage in STAGES}
    cut = [value for stage, value in perplexities.items() if stage != "before" and value is not None]
    row = {
        "name": experiment.name,
        "state": state,
        "model": experiment.settings.base_model,
        "method": method_of_plan(experiment),
        "strategy": settings.strategy if settings else FROM_FILE,
        "protected": _protected(experiment, settings),
        "split": settings.pruning_distribution if settings else UNKNOWN,
        "ratio_target": ratio.get("target", settings and settings.pruning_ratio),
        "target_basis": ratio.get("target_basis", settings and target_basis(plan_settings(settings))),
        "ratio_actual": ratio.get("actual"),
        "parameters_before": metrics.get("parameters", {}).get("before"),
        "parameters": metrics.get("parameters", {}).get("after"),
        "bytes": metrics.get("size_bytes", {}).get("after"),
        **{f"perplexity_{stage}": value for stage, value in perplexities.items()},
        "perplexity": cut[-1] if cut else None,
        "tokens_per_second": _decoding(metrics.get("latency") or {}),
        "fingerprint": description.get("fingerprint"),
        **{name: basis.get(name) for name in BASIS},
        "date": _date(experiment),
    }
    return row | {name: float(row[name]) for name in _NUMBERS if row[name] is not None}


def _perplexity(metrics: dict, stage: str) -> float | None:
    """Of one stage, on the text that the basis names where there are several."""
    values = metrics.get("perplexity", {}).get(stage) or {}
    if not values:
        return None
    value = values.get(metrics.get("basis", {}).get("dataset"), next(iter(values.values())))
    return math.inf if value is None else value


def _decoding(latency: dict) -> float | None:
    """Tokens per second of the cut model at batch 1; each stage has a list of what analysis/latency.py measures."""
    rounds = [one for one in latency.get("after", ()) if one["batch_size"] == 1]
    return rounds[0]["decode_tokens_per_second"] if rounds else None


def _protected(experiment: Experiment, settings: Settings | None) -> str | None:
    """The layers that were spared, as `0-2,30-31`; kinds apart where they differ. None before the model is known."""
    if "model" not in experiment.description():
        return None
    shape = experiment.shape()
    try:
        protection = protection_of(experiment, shape, settings)
    except PruningError:  # no plan can follow these settings, or the importance of layers is damaged
        return UNKNOWN
    if protection is None:
        return UNKNOWN
    spared = ~protection.cuttable(shape.num_layers)
    attention, mlp = (name_layers(np.flatnonzero(spared[:, column])) for column in (0, 1))
    return attention if attention == mlp else f"attention {attention}, mlp {mlp}"


def _date(experiment: Experiment) -> datetime:
    """When its last run ended, else when its settings were written."""
    for path in (experiment.path("job.json"), experiment.path("description.txt"), experiment.folder):
        with contextlib.suppress(OSError):
            return datetime.fromtimestamp(path.stat().st_mtime)
    return datetime.fromtimestamp(0)  # gone meanwhile


def _state_or_damaged(experiment: Experiment, state_of: Callable[[Experiment], str]) -> str:
    try:
        return state_of(experiment)
    except PruningError:
        return DAMAGED


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _as_text(value) -> str:
    return "-" if value in (None, "") else str(value)
