"""What the numbers on the Importance page come from, in words: method, samples, text, layers, another experiment."""

import re

import numpy as np

from pruning.experiment import Experiment
from pruning.planning.group_table import GroupTable
from pruning.planning.layer_importance import LayerImportance
from pruning.runs.status import last_written
from ui.translation import t

_SAMPLED = ("num_samples", "seq_len", "corpus", "seed")
_TAKEN_OVER = re.compile(r"measured the same way in ([\w.\-]+)")


def of_groups(table: GroupTable) -> str | None:
    """The basis of a group table; None when its record is missing or says too little."""
    source, calibration = table.source, table.source.get("calibration", {})
    if "method" not in source:
        return None
    values = {"method": source["method"], "groups": len(table.order)}
    if not calibration:
        parts = [t("importance.basis.weights", **values)]
    elif all(name in calibration for name in _SAMPLED):
        parts = [t("importance.basis", **values, **_sampled(calibration))]
    else:
        return None
    if "gradient_batch_size" in calibration:
        parts.append(t("importance.basis.batch", batch=calibration["gradient_batch_size"]))
    layers = measured_layers(table)
    if 0 < len(layers) < table.shape.num_layers:
        parts.append(t("importance.basis.layers", first=layers[0], last=layers[-1], layers=table.shape.num_layers))
    return " ".join(parts)


def of_layers(layers: LayerImportance) -> str:
    calibration = layers.source.get("calibration", {})
    if not all(name in calibration for name in _SAMPLED):
        return t("importance.basis.layers_unknown", method=layers.method)
    return t("importance.basis.of_layers", method=layers.method, **_sampled(calibration))


def measured_layers(table: GroupTable) -> list[int]:
    """The layers that have a score, ascending."""
    return [int(layer) for layer in np.unique(table.groups.layer_idx[table.order])]


def taken_from(experiment: Experiment) -> str | None:
    """The experiment whose numbers were taken over, as the log of the measurement says; None when they were measured here."""
    status = last_written(experiment)
    if status is None or status.kind != "measure" or not status.log or not experiment.has(status.log):
        return None
    found = _TAKEN_OVER.search(experiment.path(status.log).read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None


def _sampled(calibration: dict) -> dict:
    return {name: calibration[name] for name in _SAMPLED}
