"""One folder per experiment: settings, tables, plans, metrics, logs, model. The folder is the truth.

    prune_log/<name>/  description.txt  global_group_table.csv (+ .csv.json)  groups_to_prune.csv  plan.json
                       metrics.json  pruning_analysis.csv  model/  <time>/training.log  job.json

Every file is written whole (temporary name, then rename) and carries a format version. Knows nothing about torch.
"""

import contextlib
import csv
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import PruningError
from .planning.checkpoint_header import CheckpointHeader
from .planning.group_table import FORMAT_VERSION as TABLE_VERSION
from .planning.group_table import GroupTable
from .planning.plan import PruningPlan
from .planning.shape import ModelShape

FORMAT_VERSION = 1
TABLE_FILE = "global_group_table.csv"
PLAN_FILE = "plan.json"
RESULT_FILE = "pruning_analysis.csv"  # written when a model was cut
SAMPLES_FILE = "samples.json"  # what the model wrote before and after
ZIP_FILE = "model.zip"
CARD_FILE = "README.md"  # in the model folder; written last, when the model was checked
_TEMPORARY = re.compile(r"\..+\.(part-\d+|old-\d+|[a-z0-9_]{8})")  # names of write_whole and export/disk.py
_MEASURING = ("gradients", "group_table")  # steps whose result a new cut goes on from
_NAME = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9._\-]{0,119}")


@dataclass(frozen=True)
class Experiment:
    """Paths of one experiment, and reading and writing of its files."""

    folder: Path

    @classmethod
    def at(cls, root: str | Path, name: str) -> "Experiment":
        """The experiment `name` under `root`, whether it exists or not; raises PruningError for an impossible name."""
        if not _NAME.fullmatch(name or ""):
            raise PruningError("experiment_name", name=name)
        return cls(Path(root) / name)

    @classmethod
    def create(cls, root: str | Path, name: str, overwrite: bool = False) -> "Experiment":
        """A new, empty experiment; one that failed before it measured anything gives way to it.

        Raises PruningError when the name is taken and `overwrite` is not set, and always for a folder of something else:
        `--output_root . --experiment_name tests` must not cost anybody their tests.
        """
        experiment = cls.at(root, name)
        if experiment.folder.exists():
            if not (experiment.has("description.txt") or _is_empty(experiment.folder)):
                raise PruningError("experiment_foreign", folder=experiment.folder)
            if (experiment.is_measured or experiment.has("metrics.json")) and not overwrite:
                raise PruningError("experiment_exists", name=name)
            shutil.rmtree(experiment.folder)
        try:
            experiment.folder.mkdir(parents=True)
        except OSError as error:
            raise PruningError("disk_write", path=experiment.folder, reason=error.strerror or error) from error
        return experiment

    @classmethod
    def open(cls, root: str | Path, name: str) -> "Experiment":
        """An experiment that exists; raises PruningError otherwise."""
        experiment = cls.at(root, name)
        if not experiment.has("description.txt"):
            raise PruningError("experiment_unknown", name=name, root=root)
        return experiment

    def branch(self) -> "Experiment":
        """A new experiment with the same model and group table, named after this one with a number behind it."""
        stem, _, number = self.name.rpartition("-")
        stem, number = (stem, int(number)) if stem and number.isdecimal() and len(number) < 4 else (self.name, 1)
        while (folder := self.folder.with_name(f"{stem}-{number + 1}")).exists():
            number += 1
        part = folder.with_name(f".{folder.name}.part")
        try:
            part.mkdir()
            for name in ("description.txt", TABLE_FILE, f"{TABLE_FILE}.json"):
                if self.has(name):
                    shutil.copy2(self.path(name), part / name)
            os.rename(part, folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise PruningError("disk_write", path=folder, reason=error.strerror or error) from error
        return Experiment(folder)

    @property
    def name(self) -> str:
        return self.folder.name

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def has(self, *parts: str) -> bool:
        return self.path(*parts).exists()

    @property
    def model_folder(self) -> Path:
        return self.path("model")

    def remove_leftovers(self) -> None:
        """Removes what a process that was killed left half-written: temporary files, and a model that was not checked."""
        for entry in self.folder.iterdir():
            if _TEMPORARY.fullmatch(entry.name) or (entry == self.model_folder and not self.has("model", CARD_FILE)):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

    def forget_result(self) -> None:
        """Removes what a cut left: the model and all that describes it. Table, plan and the times of measuring stay."""
        shutil.rmtree(self.model_folder, ignore_errors=True)
        for name in (RESULT_FILE, SAMPLES_FILE, ZIP_FILE):
            self.path(name).unlink(missing_ok=True)
        metrics = self.metrics()
        measuring = {name: metrics["seconds"][name] for name in _MEASURING if name in metrics.get("seconds", {})}
        write_json(self.path("metrics.json"), {"format_version": FORMAT_VERSION, "seconds": measuring})

    # how far it got ---------------------------------------------------------------------------------------------------

    @property
    def is_measured(self) -> bool:
        return self.has(TABLE_FILE)

    @property
    def is_planned(self) -> bool:
        return self.has(PLAN_FILE)

    @property
    def is_cut(self) -> bool:
        """A cut came to its end; its result file is written last."""
        return self.has(RESULT_FILE)

    @property
    def is_saved(self) -> bool:
        """The cut model stands in its folder, checked; its card is written last."""
        return self.is_cut and self.has("model", CARD_FILE)

    # settings -----------------------------------------------------------------------------------------------------

    def write_settings(self, settings: dict) -> None:
        """Writes `description.txt` with every setting; what is known of the model stays."""
        known = self.description() if self.has("description.txt") else {"format_version": FORMAT_VERSION, "fingerprint": None}
        write_json(self.path("description.txt"), known | {"settings": settings})

    def write_model(self, header: CheckpointHeader, versions: dict) -> None:
        """Adds to `description.txt` the model's fingerprint and config, and versions of the libraries."""
        model = {"config": header.config, "bytes": header.weight_bytes, "dtype": header.dtype}
        content = self.description() | {"fingerprint": header.fingerprint, "model": model, "versions": versions}
        write_json(self.path("description.txt"), content)

    def description(self) -> dict:
        return read_json(self.path("description.txt"), FORMAT_VERSION)

    @property
    def settings(self) -> dict:
        return self.description()["settings"]

    def shape(self) -> ModelShape:
        """The shape of the model before the cut, from `description.txt` alone."""
        return ModelShape.from_config(self.description()["model"]["config"])

    # tables and plans ---------------------------------------------------------------------------------------------

    def write_table(self, table: GroupTable) -> None:
        """Writes the group table and its sidecar."""
        self._write_group_csv(TABLE_FILE, table, table.order)

    def read_table(self) -> GroupTable:
        return read_table(self.path(TABLE_FILE), self.shape())

    def write_plan(self, plan: PruningPlan, table: GroupTable) -> None:
        """Writes `plan.json` and `groups_to_prune.csv`."""
        self._write_group_csv("groups_to_prune.csv", table, table.order[~plan.kept[table.order]])
        write_json(self.path(PLAN_FILE), plan.to_json())

    def read_plan(self) -> PruningPlan:
        path = self.path(PLAN_FILE)
        description = self.description()
        shape = ModelShape.from_config(description["model"]["config"])
        return PruningPlan.from_json(read_json(path, None), shape, description["fingerprint"], path)

    def _write_group_csv(self, name: str, table: GroupTable, positions: np.ndarray) -> None:
        write_csv(self.path(name), table.frame(positions))
        write_json(self.path(f"{name}.json"), {"format_version": TABLE_VERSION} | table.source)

    # measurements -------------------------------------------------------------------------------------------------

    def metrics(self) -> dict:
        """The content of `metrics.json`, or an empty one."""
        if not self.has("metrics.json"):
            return {"format_version": FORMAT_VERSION}
        return read_json(self.path("metrics.json"), FORMAT_VERSION)

    def update_metrics(self, **changes) -> dict:
        """Merges `changes` into `metrics.json`, dictionaries key by key, and returns the whole."""
        metrics = _merged(self.metrics(), changes)
        write_json(self.path("metrics.json"), metrics)
        return metrics


def default_name(base_model: str, *parts: str) -> str:
    """A name for an experiment: the model, what is done to it, and the time, joined by '-'."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(base_model).name).strip(".-")[:80] or "model"
    return "-".join([model, *parts, datetime.now().strftime("%Y%m%d-%H%M%S")])


def list_experiments(root: str | Path) -> list[Experiment]:
    """The experiments under `root`, newest first."""
    folders = [f for f in Path(root).glob("*") if (f / "description.txt").is_file()] if Path(root).is_dir() else []
    return [Experiment(f) for f in sorted(folders, key=lambda f: f.stat().st_mtime, reverse=True)]


def read_table(path: Path, shape: ModelShape) -> GroupTable:
    """A group table from a CSV and its sidecar (without sidecar: source unknown); raises PruningError naming the fault."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PruningError("file_broken", path=path, reason=error) from error
    sidecar = path.with_name(path.name + ".json")
    source = read_json(sidecar, TABLE_VERSION) if sidecar.is_file() else {}
    source.pop("format_version", None)
    return GroupTable.from_frame(frame, shape, source, path)


def read_json(path: Path, version: int | None) -> dict:
    """A JSON object with its format version checked (None: left to the caller)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PruningError("file_broken", path=path, reason=error) from error
    if not isinstance(content, dict) or (version is not None and content.get("format_version") != version):
        found = content.get("format_version") if isinstance(content, dict) else None
        raise PruningError("format_version", path=path, found=found, expected=version)
    return content


def write_json(path: Path, content: dict) -> None:
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_whole(path, frame.to_csv(index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n"))


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part; raises PruningError if it cannot."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise PruningError("disk_write", path=path, reason=error.strerror or error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _merged(old: dict, new: dict) -> dict:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
