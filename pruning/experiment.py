"""One folder per experiment: settings, tables, plans, metrics, logs, model. The folder is the truth.

    prune_log/<name>/  description.txt  global_group_table.csv (+ .csv.json)  layer_importance_config.json
                       groups_to_prune.csv  plan.json  plans/  sensitivity/  metrics.json  pruning_analysis.csv  model/
                       repair.json  recovery.json  adapter/  cut_model/  <time>/training.log  job.json

Every file is written whole (temporary name, then rename) and carries a format version. Knows nothing about torch.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from .errors import PruningError, first_line
from .files import (
    ASIDE,
    PART,
    asides,
    copy_linked,
    csv_text,
    hidden_name,
    leftovers,
    locked,
    naming_damage,
    put,
    read_json,
    remove,
    rename,
    sync_tree,
    take_place,
    write_json,
    write_whole,
)
from .files import sweep as sweep_files
from .forms import ANY, ANYTHING, NUMBER, TEXT, optional, require
from .planning.checkpoint_header import CheckpointHeader
from .planning.group_table import FORMAT_VERSION as TABLE_VERSION
from .planning.group_table import GroupTable
from .planning.layer_importance import LayerImportance
from .planning.layer_rates import LayerRates
from .planning.matrices import COLUMNS as MATRIX_COLUMNS
from .planning.plan import PruningPlan
from .planning.shape import ModelShape
from .process import is_alive
from .settings import OF_THE_PERSON, SETTINGS, Settings, defaults_of, merged
from .strategies import DEFAULT_STRATEGY, is_strategy

FORMAT_VERSION = 1
TABLE_FILE = "global_group_table.csv"
LAYERS_FILE = "layer_importance_config.json"
PLAN_FILE = "plan.json"
PICTURE_FILE = "pruning_strategy.png"
PLANS_FOLDER = "plans"
SENSITIVITY_FOLDER = "sensitivity"  # results of sensitivity measurements
RESULT_FILE = "pruning_analysis.csv"  # written when a model was cut
DESCRIPTIONS = ("pruning_analysis_zh.csv", "pruning_flow.png", "report.html")  # that `python -m analysis all` adds
SAMPLES_FILE = "samples.json"  # what the model wrote before and after
REPAIR_FILE = "repair.json"  # what closed-form repair did to each matrix
RECOVERY_FILE = "recovery.json"  # the training that the model went through; while it lasts, in the next folder
RECOVERY_FOLDER = "recovery"  # of a training that is not over: what happened so far, last checkpoint, best state
ADAPTER_FOLDER = "adapter"  # the LoRA matrices that were merged into the model
COST_FILE = "recovery_cost.json"  # what a training would take, measured before it
CUT_MODEL_FOLDER = "cut_model"  # the model that recovery began with
ZIP_FILE = "model.zip"
EXPORTS = ("model-*", ZIP_FILE, "pytorch_model.bin")  # other forms of the model
CARD_FILE = "README.md"  # in the model folder; written last, when the model was checked
JOB_FILE = "job.json"  # what a run is doing: pruning/runs/status.py
QUEUED, RUNNING, DONE = "queued", "running", "done"  # its states while a process has the experiment, and when all went well
# What took work to make: while an experiment has none of it, another of its name may take its place.
_WORK = (TABLE_FILE, LAYERS_FILE, RESULT_FILE, PLANS_FOLDER, SENSITIVITY_FOLDER, f"model/{CARD_FILE}", CUT_MODEL_FOLDER)
# What a repair or a training makes. All of it replaces what was there at once, after the new model is checked.
_RECOVERED = ("model", CUT_MODEL_FOLDER, ADAPTER_FOLDER, REPAIR_FILE, RECOVERY_FILE, SAMPLES_FILE, "metrics.json")
_MERGED = (SAMPLES_FILE, "metrics.json")  # others write these too: what the draft changed in them is changed here
_TAKEN_FOLDER, _GONE_FILE = ".recovered.taken", "gone.json"  # a whole draft; what has no place beside it any more
_EARLIER_PART = re.compile(r"\..+\.(part-\d+|old-\d+|[a-z0-9_]{8})")  # as versions before this one named it
_BEGAN_FILE = "began.json"  # the content of the merged files when the draft was started
PASTED_FILE = "calibration.txt"  # text that was pasted in the app
_INSIDE = "inside"  # {"inside": "calibration.txt"}, where a setting names a file: one of the experiment, wherever its folder is
_READ_FILES = ("corpus", "eval_corpus", "finetune_corpus", "layer_importance_config", "groups", "table", "plan")
_FILE_SETTINGS = (*_READ_FILES, "save_table_path")
_MARKS = ("description.txt", TABLE_FILE, RESULT_FILE, JOB_FILE)  # a folder with one of these is an experiment
_MEASURING = ("gradients", "group_table")  # steps whose result a new cut continues from
_SOURCES = ("groups", "table", "plan")  # settings that name a file
_LARGEST = 2**53  # a whole number beyond it is none of a setting, and no widget can show it
_SPEED = {"batch_size": NUMBER, "decode_tokens_per_second": NUMBER, ANY: (*NUMBER, *TEXT, None)}
_CHECK = {"max_abs_diff?": optional(NUMBER), "top1?": optional(NUMBER), ANY: ANYTHING}
_TRAINED = {"method": TEXT, "steps": NUMBER, "best_step": NUMBER, "tokens_per_step": NUMBER, "distill_weight": NUMBER}
_METRICS = {  # any of these may be missing
    "basis?": {"dataset": TEXT, "seq_len": NUMBER, "windows": NUMBER, ANY: (*TEXT, *NUMBER, None)},
    "parameters?": {"before": NUMBER, "after": NUMBER, ANY: ANYTHING},
    "ratio?": {"target": optional(NUMBER), "target_basis": optional(TEXT), "actual": NUMBER, ANY: ANYTHING},
    "size_bytes?": {ANY: NUMBER},
    "perplexity?": {ANY: {ANY: optional(NUMBER)}},
    "latency?": optional({ANY: [_SPEED]}),
    "export_check?": {ANY: optional(_CHECK)},
    "seconds?": {ANY: NUMBER},
    "recovery?": _TRAINED | {ANY: ANYTHING},
    "warning?": {ANY: optional(TEXT)},
    ANY: ANYTHING,
}
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
    def create(
        cls, root: str | Path, name: str, overwrite: bool = False, prepare: Callable[["Experiment"], None] | None = None
    ) -> "Experiment":
        """A new experiment; one of its name that holds no work is replaced.

        `prepare` writes what it begins with, by default no settings: it appears with all of that under its name, by one rename.
        What it replaces with `overwrite` is kept aside until the new one has made something: see `settle`.

        Raises PruningError when the name is taken and `overwrite` is not set, and always for an experiment that is worked on
        and a folder of something else: `--output_root . --experiment_name tests` must not cost anybody their tests.
        """
        experiment = cls.at(root, name)
        part = cls(hidden_name(experiment.folder, PART))
        try:
            part.folder.mkdir(parents=True)
            part.write_settings(Settings())
            if prepare is not None:
                prepare(part)
            sync_tree(part.folder)
            with locked(experiment.folder.parent):
                _sweep(experiment.folder.parent)
                experiment._refuse_unless_it_gives_way(overwrite)
                experiment._appear(part.folder)
        except OSError as error:
            raise PruningError("disk_write", path=experiment.folder, reason=error.strerror or error) from error
        finally:
            remove(part.folder)
        return experiment

    def _refuse_unless_it_gives_way(self, overwrite: bool) -> None:
        if not os.path.lexists(self.folder) or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return
        if not self.has("description.txt"):
            raise PruningError("experiment_foreign", folder=self.folder)
        self.refuse_if_worked_on()
        if self.holds_work and not overwrite:
            raise PruningError("experiment_exists", name=self.name)

    def _appear(self, part: Path) -> None:
        """Moves what was made beside it to this name. What was there is kept aside if it holds work, or else removed."""
        if not self.has("description.txt"):
            rename(part, self.folder)
            return
        aside = hidden_name(self.folder, ASIDE)  # before it changes places, so that both names say what may come back
        os.rename(part, aside)
        old = take_place(aside, self.folder)
        if not Experiment(old).holds_work:
            remove(old)

    @classmethod
    def open(cls, root: str | Path, name: str) -> "Experiment":
        """An experiment that exists; raises PruningError otherwise."""
        experiment = cls.at(root, name)
        if not experiment.exists:
            sweep(root)  # if a process was killed while it replaced this one, it may be aside
        experiment.require()
        return experiment

    def require(self) -> None:
        """Raises PruningError when the experiment is not there (any more), as its folder or as what is in it."""
        if not self.exists:
            raise PruningError("experiment_unknown", name=self.name, root=self.folder.parent)

    @property
    def exists(self) -> bool:
        """Whether there is a folder with files of ours, damaged ones too."""
        return any(os.path.lexists(self.path(name)) for name in _MARKS)

    def branch(self, prepare: Callable[["Experiment"], None] | None = None) -> "Experiment":
        """A new experiment with the same model and group table, named after this one with a number behind it.

        `prepare` changes what it begins with, before it appears.
        """
        root = self.folder.parent
        stem, _, number = self.name.rpartition("-")
        stem, number = (stem, int(number)) if stem and number.isdecimal() and len(number) < 4 else (self.name, 1)
        part = Experiment(hidden_name(self.folder, PART))
        description = portable(self.description(), self.folder)
        try:
            part.folder.mkdir()
            write_json(part.path("description.txt"), description)
            for name in (TABLE_FILE, f"{TABLE_FILE}.json", LAYERS_FILE, *_texts_inside(description)):
                if self.has(name):
                    shutil.copy2(self.path(name), part.path(name))
            for name in (PLANS_FOLDER, SENSITIVITY_FOLDER):
                if self.has(name):
                    shutil.copytree(self.path(name), part.path(name))
            if prepare is not None:
                prepare(part)
            sync_tree(part.folder)
            with locked(root):
                numbered = (root / f"{stem}-{n}" for n in itertools.count(number + 1))
                branch = Experiment(next(folder for folder in numbered if not os.path.lexists(folder)))
                part.change_settings(experiment_name=branch.name)
                rename(part.folder, branch.folder)
        except OSError as error:
            raise PruningError("disk_write", path=self.folder, reason=error.strerror or error) from error
        finally:
            remove(part.folder)
        return branch

    def rename(self, new_name: str) -> "Experiment":
        """The experiment under its new name, which `description.txt` says too.

        Raises PruningError when it is taken, or the experiment is worked on.
        """
        root = self.folder.parent
        renamed = Experiment.at(root, new_name)
        if renamed == self:
            return self
        self.require()
        try:
            with locked(root):
                _sweep(root)
                self.require()
                self.refuse_if_worked_on()
                if os.path.lexists(renamed.folder):
                    raise PruningError("experiment_taken", name=new_name, root=root)
                with self._alone():  # the folder, by whichever name
                    self._move_to(renamed)
        except OSError as error:
            raise PruningError("disk_write", path=renamed.folder, reason=error.strerror or error) from error
        return renamed

    def _move_to(self, renamed: "Experiment") -> None:
        try:
            description = portable(self.description(), self.folder)
        except PruningError:  # a damaged one can have another name too
            description = None
        rename(self.folder, renamed.folder)
        if description is not None:
            description["settings"]["experiment_name"] = renamed.name
            write_json(renamed.path("description.txt"), description)

    def delete(self) -> None:
        """Removes the folder and all in it. It is gone from the list at once, whatever happens to its files after that.

        Raises PruningError when it is worked on.
        """
        self.require()
        doomed = hidden_name(self.folder, PART)
        try:
            with locked(self.folder.parent):
                _sweep(self.folder.parent)
                self.require()
                self.refuse_if_worked_on()
                rename(self.folder, doomed)
            if doomed.is_symlink():  # what it leads to is somewhere else, and stays
                doomed.unlink()
            else:
                shutil.rmtree(doomed)
        except OSError as error:
            raise PruningError("disk_delete", path=error.filename or doomed, reason=error.strerror or error) from error

    def discard(self) -> None:
        """Removes the experiment, whatever is in it: for the process that has claimed it and has made nothing."""
        with contextlib.suppress(OSError), locked(self.folder.parent):
            remove(self.folder)

    def settle(self) -> bool:
        """Ends the wait of what this experiment took the place of: it goes where this one measured or cut something, or did all
        that was asked for, and comes back where it did not. Returns whether it came back; the logs of both are kept then.
        """
        try:
            with locked(self.folder.parent):
                return any([self._settle(aside) for aside in asides(self.folder)])
        except OSError:  # a later look does it
            return False

    def _settle(self, aside: Path) -> bool:
        old = Experiment(aside)
        is_missing = not os.path.lexists(self.folder)
        if not is_missing and not self.has("description.txt"):  # something else has the name now, and is not ours to replace
            return False
        if not (old.has("description.txt") and (is_missing or (old.holds_work and not self._took_over))):
            remove(aside)
            return False
        if is_missing:
            rename(aside, self.folder)
            return True
        for log in self.folder.glob("*/training.log"):
            with contextlib.suppress(OSError):  # of the same second
                os.rename(log.parent, aside / log.parent.name)
        put(aside, self.folder)
        return True

    def refuse_if_worked_on(self) -> None:
        """Raises PruningError when a process works on the experiment; a damaged job.json must not keep one for ever."""
        if self.is_worked_on:
            raise PruningError("experiment_busy", name=self.name)

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

    @property
    def is_worked_on(self) -> bool:
        """Whether a process that lives has the experiment; a job.json that cannot be read names none."""
        job = self._job()
        try:
            return job["state"] in (QUEUED, RUNNING) and bool(job["process"]) and is_alive(*job["process"])
        except (KeyError, TypeError):
            return False

    @property
    def holds_work(self) -> bool:
        """Whether any work was done in it: a measurement, a result, a named plan, or a cut.

        A plan.json alone is none: a file or settings give it again.
        """
        try:
            measured = self.metrics().keys() - {"format_version", "seconds"}
        except PruningError:  # whatever it held
            return True
        return bool(measured) or self._holds_result

    @property
    def _holds_result(self) -> bool:
        return any(self.has(name) for name in _WORK)

    @property
    def _took_over(self) -> bool:
        """Whether what it replaced may be removed: the perplexity of the uncut model is not enough, unless it is all that was
        asked for.
        """
        return self._holds_result or self._job().get("state") == DONE

    def _job(self) -> dict:
        with contextlib.suppress(PruningError):
            return read_json(self.path(JOB_FILE), None)
        return {}

    def read(self, version: int | None, *parts: str) -> dict:
        """A JSON object among the files (version None: left to the caller); raises PruningError naming the file.

        A file of the experiment that a setting in it names is named by where it is now.
        """
        path = self.path(*parts)
        with naming_damage(path):
            return located(read_json(path, version), self._home)

    def write(self, content: dict, *parts: str) -> None:
        """Writes a JSON object for `read`."""
        write_json(self.path(*parts), portable(content, self._home))

    @property
    def _home(self) -> Path:
        """The folder of the experiment; of a draft, that of the one it is a draft of."""
        return self.folder.parent if self.folder.name.startswith(".recovered.") else self.folder

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """What another process, or thread, would change by what it holds waits until the block ends, or this process.

        Not to be nested: the second would wait for the first.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder))
            except OSError as error:
                raise PruningError("disk_write", path=self.folder, reason=error.strerror or error) from error
            yield

    def leftovers(self) -> list[Path]:
        """What a process that was killed left half-written: hidden files and folders, and models that were not checked."""
        self.require()
        hidden = [each.path for folder in self._folders() for each in leftovers(folder)]
        others = [entry for entry in self.folder.iterdir() if _EARLIER_PART.fullmatch(entry.name) or _is_unchecked(entry)]
        return [*hidden, *(entry for entry in others if entry not in hidden)]

    def _folders(self) -> list[Path]:
        return [self.folder, *(f for f in self.folder.iterdir() if f.is_dir() and not f.name.startswith("."))]

    def remove_leftovers(self) -> list[Path]:
        """Removes what a process that was killed left half-written; returns what it was. A draft that was whole is taken."""
        self._finish_taking()
        swept = [path for folder in self._folders() for path in sweep_files(folder)]
        found = self.leftovers()
        for entry in found:
            remove(entry)
        return [*swept, *found]

    def forget_exports(self) -> None:
        """Removes other forms of a model that is no longer the one in `model/`, and what checking them found.

        The check of the folder itself stays until the next folder is checked.
        """
        for entry in self._exports():
            remove(entry)
        if "export_check" in self.metrics():
            self._change_metrics(_without_checks_of_exports)

    @property
    def cut_model_folder(self) -> Path:
        """The model that recovery begins with: the saved one, until a recovered one replaces it."""
        return self.path(CUT_MODEL_FOLDER) if self.has(CUT_MODEL_FOLDER) else self.model_folder

    def keep_cut_model(self) -> Path:
        """The folder of the cut model, which recovery begins with and replaces in `model/`.

        Its files are those of `model/` by another name, and take no room until that is replaced.
        """
        folder = self.path(CUT_MODEL_FOLDER)
        if not folder.is_dir():
            copy_linked(self.model_folder, folder)
        return folder

    @contextlib.contextmanager
    def draft(self) -> Iterator["Experiment"]:
        """An experiment beside this one's files, for a repair or a training to write to; gone when the block ends.

        It knows what this one does, but for the training that was before.
        """
        draft = Experiment(hidden_name(self.path("recovered"), PART))
        try:
            draft.folder.mkdir()
            for name in ("description.txt", PLAN_FILE, REPAIR_FILE, SAMPLES_FILE, "metrics.json"):
                if self.has(name):
                    shutil.copy2(self.path(name), draft.path(name))
        except OSError as error:
            remove(draft.folder)
            raise PruningError("disk_write", path=draft.folder, reason=error.strerror or error) from error
        try:
            began = {name: read_json(draft.path(name), None) for name in _MERGED if draft.has(name)}
            write_json(draft.path(_BEGAN_FILE), {"format_version": FORMAT_VERSION, "files": began})
            draft._forget_figures_of_recovery()
            yield draft
        finally:
            remove(draft.folder)

    def take(self, draft: "Experiment") -> None:
        """Replaces what is here by what a draft holds. If this is killed, `remove_leftovers` completes it.

        Of figures and texts only what the draft changed is taken: what others wrote here meanwhile stays.
        """
        gone = [name for name in (ADAPTER_FOLDER, RECOVERY_FILE) if not draft.has(name)]
        gone += [entry.name for entry in self._exports()] if draft.has("model") else []
        write_json(draft.path(_GONE_FILE), {"format_version": FORMAT_VERSION, "names": gone})
        copy_linked(draft.folder, self.path(_TAKEN_FOLDER))  # appears whole; from here on it goes forwards only
        self._finish_taking()

    def _finish_taking(self) -> None:
        taken = self.path(_TAKEN_FOLDER)
        if taken.is_symlink() or not (taken / _GONE_FILE).exists():
            remove(taken)  # all of it was taken, and the removing stopped halfway
            return
        gone = read_json(taken / _GONE_FILE, FORMAT_VERSION).get("names")
        for entry in [self.path(ADAPTER_FOLDER), self.path(RECOVERY_FILE), *self._exports()]:  # nothing else, whatever it says
            if isinstance(gone, list) and entry.name in gone:
                remove(entry)
        for name in _MERGED:
            if (taken / name).exists():
                self._merge(taken, name)
        for name in _RECOVERED:
            if (taken / name).exists():
                _put(taken / name, self.path(name))
        remove(taken)

    def _merge(self, taken: Path, name: str) -> None:
        """Changes in a JSON file here what a draft changed in its own; a second time changes nothing."""
        ours = read_json(taken / name, None)
        with self._alone():
            try:
                before = read_json(taken / _BEGAN_FILE, FORMAT_VERSION)["files"].get(name, {})
                merged = _changed_as(before, ours, read_json(self.path(name), None))
            except PruningError:  # there is no such file here, or none that can be read
                merged = ours
            if name == "metrics.json" and (taken / "model").exists():
                merged = _without_checks_of_exports(merged)
            write_json(self.path(name), merged)
        remove(taken / name)

    def _exports(self) -> list[Path]:
        return [entry for pattern in EXPORTS for entry in self.folder.glob(pattern)]

    def forget_checkpoints(self) -> None:
        """Removes what a training continues from, in one step: half of it would be continued from too."""
        remove(self.path(RECOVERY_FOLDER))

    def _forget_figures_of_recovery(self) -> None:
        self._change_metrics(_without_recovery)
        if self.has(SAMPLES_FILE):
            written = read_json(self.path(SAMPLES_FILE), 1)
            write_json(self.path(SAMPLES_FILE), {stage: text for stage, text in written.items() if stage != "recovered"})

    def forget_result(self) -> None:
        """Removes what a cut left: the model and all that describes it. Table, plan, the times of measuring and the perplexity
        before the cut stay.
        """
        self.path(RESULT_FILE).unlink(missing_ok=True)  # first: it says that there is a cut
        self.forget_checkpoints()
        for name in ("model", ADAPTER_FOLDER, CUT_MODEL_FOLDER):
            remove(self.path(name))
        for name in (SAMPLES_FILE, ZIP_FILE, PICTURE_FILE, REPAIR_FILE, RECOVERY_FILE, COST_FILE, *DESCRIPTIONS):
            self.path(name).unlink(missing_ok=True)
        self.forget_exports()
        self.path("export.json").unlink(missing_ok=True)  # older versions kept there what was asked for
        self._change_metrics(_of_the_uncut_model)

    # how far it got ---------------------------------------------------------------------------------------------------

    @property
    def is_measured(self) -> bool:
        return self.has(TABLE_FILE)

    @property
    def is_planned(self) -> bool:
        return self.has(PLAN_FILE)

    @property
    def is_cut(self) -> bool:
        """A cut is complete; its result file is written last."""
        return self.has(RESULT_FILE)

    @property
    def is_saved(self) -> bool:
        """The cut model is saved and checked; its card is written last."""
        return self.is_cut and self.has("model", CARD_FILE)

    @property
    def is_recoverable(self) -> bool:
        """There is a cut model to begin a recovery with."""
        return self.is_saved or (self.is_cut and self.has(CUT_MODEL_FOLDER))

    @property
    def is_recovered(self) -> bool:
        """A training is complete; its checkpoints are removed last."""
        return self.has(RECOVERY_FILE) and not self.has(RECOVERY_FOLDER)

    # settings -----------------------------------------------------------------------------------------------------

    def write_settings(self, settings: Settings) -> None:
        """Writes `description.txt` with every setting but a person's consent; what is known of the model stays."""
        with self._alone():
            new = {"format_version": FORMAT_VERSION, "fingerprint": None}
            known = self.description() if self.has("description.txt") else new
            self.write(known | {"settings": without_consent(settings.as_dict())}, "description.txt")

    def change_settings(self, **changes) -> None:
        """Writes these settings beside the others that `description.txt` holds."""
        with self._alone():
            description = self.description()
            self.write(description | {"settings": without_consent(description["settings"] | changes)}, "description.txt")

    def write_model(self, header: CheckpointHeader, versions: dict) -> None:
        """Adds to `description.txt` the model's fingerprint and config, and versions of the libraries."""
        model = {"config": header.config, "bytes": header.weight_bytes, "dtype": header.dtype}
        with self._alone():
            content = self.description() | {"fingerprint": header.fingerprint, "model": model, "versions": versions}
            self.write(content, "description.txt")

    def write_job(self, kind: str) -> None:
        """Records in `description.txt` which job last measured or cut here, which packing the result does not change."""
        with self._alone():
            description = self.description()
            if description.get("job") != kind:
                self.write(description | {"job": kind}, "description.txt")

    @property
    def last_job(self) -> str | None:
        """The kind of the last job that measured or cut here; None when none ever ran."""
        return self.description().get("job")

    def description(self) -> dict:
        """The content of `description.txt`, its settings in their types; raises PruningError for one that is none."""
        content = self.read(FORMAT_VERSION, "description.txt")
        path = self.path("description.txt")
        with naming_damage(path):
            content["settings"] = checked_settings(content["settings"], path)
            if not isinstance(content.get("fingerprint"), str | None) or not isinstance(content.get("job"), str | None):
                raise TypeError("its fingerprint or its job is not text")
        return content

    @property
    def settings(self) -> Settings:
        """Every setting; one that was not known when the experiment was made is at its default, and so is a consent, which a
        file cannot give.

        The name is the folder's: one that is killed while it is renamed may have written another.
        """
        written = without_consent(self.description()["settings"])
        return replace(merged(defaults_of(written.get("strategy", DEFAULT_STRATEGY)), written), experiment_name=self.name)

    def pasted_text(self) -> str | None:
        """The calibration text where it was pasted in the app; another experiment on it needs a copy of its own."""
        path = self.path(PASTED_FILE)
        if self.settings.corpus != str(path) or not path.is_file():
            return None
        with naming_damage(path):
            return path.read_text(encoding="utf-8")

    @property
    def source_file(self) -> str | None:
        """The file that a person gave to say what is cut; None where settings say it."""
        settings = self.settings
        return next((file for name in _SOURCES if (file := getattr(settings, name))), None)

    def shape(self) -> ModelShape:
        """The shape of the model before the cut, from `description.txt` alone."""
        return self._described_model()[0]

    def _described_model(self) -> tuple[ModelShape, str | None]:
        """Shape and fingerprint of the model before the cut; raises PruningError where `description.txt` does not say them."""
        description, path = self.description(), self.path("description.txt")
        with naming_damage(path):
            try:
                return ModelShape.from_config(description["model"]["config"]), description["fingerprint"]
            except PruningError as error:
                raise PruningError("file_broken", path=path, reason=error) from error

    # tables and plans ---------------------------------------------------------------------------------------------

    def write_table(self, table: GroupTable) -> None:
        """Writes the group table and its sidecar."""
        self._write_group_csv(TABLE_FILE, table, table.order)

    def read_table(self) -> GroupTable:
        return self._read_table()

    def check_table(self) -> None:
        """Raises PruningError where the first rows of the table, or what its sidecar says, show that it is no table of ours."""
        self._read_table(rows=20)

    def _read_table(self, rows: int | None = None) -> GroupTable:
        path = self.path(TABLE_FILE)
        shape, fingerprint = self._described_model()
        source = read_sidecar(path)
        found = source.get("fingerprint")
        if found and fingerprint and found != fingerprint:
            raise PruningError("plan_other_model", path=path, found=found[:12], expected=fingerprint[:12])
        return GroupTable.from_frame(read_rows(path, rows), shape, source, path)

    def write_layer_importance(self, layers: LayerImportance, rates: LayerRates | None = None) -> None:
        """Writes `layer_importance_config.json`: importance of each layer, and the rates that a plan made of it."""
        self.write(layers.to_json(rates), LAYERS_FILE)

    def read_layer_importance(self) -> LayerImportance | None:
        """What `layer_importance_config.json` holds; None when layers were not measured."""
        if not self.has(LAYERS_FILE):
            return None
        shape, fingerprint = self._described_model()
        return read_layer_importance(self.path(LAYERS_FILE), shape.num_layers, fingerprint)

    def write_plan(self, plan: PruningPlan, table: GroupTable | None = None, rates: LayerRates | None = None) -> None:
        """Writes `plan.json` and `groups_to_prune.csv`, and the rates of layers beside their importance.

        Without a table (the plan came from a file) importance and score stay empty in the CSV.
        """
        if table is None:
            table = GroupTable(plan.shape, np.full(len(plan.kept), np.nan), {"fingerprint": plan.fingerprint})
        self._write_group_csv("groups_to_prune.csv", table, table.sorted(np.flatnonzero(~plan.kept)))
        if (layers := self.read_layer_importance()) is not None:
            self.write_layer_importance(layers, rates)
        write_json(self.path(PLAN_FILE), plan.to_json())

    def read_plan(self) -> PruningPlan:
        return self._plan_in(self.path(PLAN_FILE))

    def _plan_in(self, path: Path) -> PruningPlan:
        shape, fingerprint = self._described_model()
        with naming_damage(path):
            try:
                return PruningPlan.from_json(read_json(path, None), shape, fingerprint, path)
            except PruningError as error:
                if "path" in error.values:
                    raise
                raise PruningError("file_broken", path=path, reason=error) from error

    # plans with a name -----------------------------------------------------------------------------------------------

    def named_plans(self) -> list[str]:
        """Names of the plans that were kept, in their order."""
        return sorted(path.stem for path in self.path(PLANS_FOLDER).glob("*.json"))

    def write_named_plan(self, name: str, plan: PruningPlan) -> None:
        """Keeps a plan under a name; a plan of the same name is replaced. Raises PruningError for an impossible name."""
        write_json(self._place_of_plan(name), plan.to_json())

    def keep_plan(self, name: str, plan: PruningPlan) -> str:
        """Keeps a plan under this name, or with a number behind it where a plan has it already; returns the name."""
        numbered, number = name, 1
        while True:
            try:
                write_json(self._place_of_plan(numbered), plan.to_json(), replace=False)
                return numbered
            except FileExistsError:
                number += 1
                numbered = f"{name}-{number}"

    def read_named_plan(self, name: str) -> PruningPlan:
        return self._plan_in(self._named_plan(name))

    def forget_named_plan(self, name: str) -> None:
        self._named_plan(name).unlink(missing_ok=True)

    def _place_of_plan(self, name: str) -> Path:
        path = self._named_plan(name)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise PruningError("disk_write", path=path.parent, reason=error.strerror or error) from error
        return path

    def _named_plan(self, name: str) -> Path:
        if not _NAME.fullmatch(name or ""):
            raise PruningError("plan_name", name=name)
        if self.path(PLANS_FOLDER).is_symlink():
            raise PruningError("file_broken", path=self.path(PLANS_FOLDER), reason="it leads out of the experiment")
        return self.path(PLANS_FOLDER, f"{name}.json")

    def _write_group_csv(self, name: str, table: GroupTable, positions: np.ndarray) -> None:
        content = csv_text(table.frame(positions))
        digest = hashlib.sha256(content.encode()).hexdigest()
        # The rows last: they say that groups were measured, and what the sidecar says is of these rows only.
        self.write({"format_version": TABLE_VERSION, "rows_sha256": digest} | table.source, f"{name}.json")
        write_whole(self.path(name), content)

    # measurements -------------------------------------------------------------------------------------------------

    def metrics(self) -> dict:
        """The content of `metrics.json`, or an empty one."""
        if not self.has("metrics.json"):
            return {"format_version": FORMAT_VERSION}
        metrics = read_json(self.path("metrics.json"), FORMAT_VERSION)
        with naming_damage(self.path("metrics.json")):
            require(metrics, _METRICS, "the whole")
        return _without_check_of_cut(metrics)

    def samples(self) -> dict[str, str]:
        """The content of `samples.json`: the prompt, and by stage how a model continues it; raises PruningError."""
        samples = read_json(self.path(SAMPLES_FILE), 1)
        with naming_damage(self.path(SAMPLES_FILE)):
            texts = {name: text for name, text in samples.items() if name != "format_version"}
            require(texts, {"prompt": TEXT, ANY: TEXT}, "the whole")
        return texts

    def update_metrics(self, **changes) -> dict:
        """Merges `changes` into `metrics.json`, and returns the whole. What stands under a key of a dictionary is replaced."""
        return self._change_metrics(lambda metrics: _merged(metrics, changes))

    def record_perplexity(self, stage: str, basis: dict, perplexity: float | None) -> None:
        """Writes the perplexity of a stage (None: infinite) and what it refers to; figures on another text are forgotten."""

        def change(metrics: dict) -> dict:
            if metrics.get("basis", basis) != basis:  # figures on two texts are no comparison
                metrics = {k: v for k, v in metrics.items() if k != "perplexity"}
            stages = _merged(metrics.get("perplexity", {}), {stage: {basis["dataset"]: perplexity}})
            return metrics | {"perplexity": stages, "basis": basis}

        self._change_metrics(change)

    def _change_metrics(self, change: Callable[[dict], dict]) -> dict:
        """Writes what `change` makes of `metrics.json`, and returns it; other writers wait."""
        with self._alone():
            metrics = change(self.metrics())
            write_json(self.path("metrics.json"), metrics)
        return metrics


def default_name(base_model: str, *parts: str) -> str:
    """A name for an experiment: the model, what is done to it, and the time, joined by '-'."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(base_model).name).strip(".-")[:80] or "model"
    return "-".join([model, *parts, datetime.now().strftime("%Y%m%d-%H%M%S")])


def list_experiments(root: str | Path) -> list[Experiment]:
    """The experiments under `root`, newest first."""
    sweep(root)
    found = [Experiment(folder) for folder in Path(root).glob("[!.]*")] if Path(root).is_dir() else []
    return sorted((one for one in found if one.exists), key=lambda one: _modified(one.folder), reverse=True)


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0


def sweep(root: str | Path) -> None:
    """Removes what processes that are gone left half-made under `root`. An experiment that was set aside comes back where the
    one in its place never made anything of worth.
    """
    root = Path(root)
    with contextlib.suppress(OSError):  # a folder that only others may write to
        if leftovers(root):
            with locked(root):
                _sweep(root)


def _sweep(root: Path) -> None:
    found = leftovers(root)
    # Where a name was left without an experiment, that of worth comes back before what was to take its place.
    for each in sorted(found, key=lambda each: not Experiment(each.path).holds_work):
        stands = Experiment(root / each.target)
        with contextlib.suppress(OSError):
            if not each.is_aside:
                remove(each.path)
            elif not stands.is_worked_on:
                stands._settle(each.path)


def read_table(path: Path, shape: ModelShape) -> GroupTable:
    """A group table from a CSV and its sidecar (without sidecar: source unknown); raises PruningError naming the fault."""
    return GroupTable.from_frame(read_rows(path), shape, read_sidecar(path), path)


def read_rows(path: Path, count: int | None = None) -> pd.DataFrame:
    """The rows of a CSV, or so many first ones; raises PruningError when it cannot be read."""
    try:
        return pd.read_csv(path, nrows=count)
    except FileNotFoundError as error:
        raise PruningError("file_missing", path=path) from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise PruningError("file_broken", path=path, reason=first_line(error)) from error


def read_sidecar(path: Path) -> dict:
    """What `<name>.csv.json` says of a CSV: fingerprint, method, calibration; empty when it is not there.

    `edited` is true for rows that are not those it was written for.
    """
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return {}
    with naming_damage(sidecar):
        source = located(read_json(sidecar, TABLE_VERSION), path.parent)
        if not isinstance(source.get("calibration", {}), dict) or not isinstance(source.get("fingerprint"), str | None):
            raise TypeError("it does not say what was measured")
    source.pop("format_version")
    written = source.pop("rows_sha256", None)
    if written is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != written:
        source["edited"] = True
    return source


def read_layer_importance(path: Path, num_layers: int, fingerprint: str | None) -> LayerImportance:
    """The importance of layers that a file holds, checked against the model."""
    with naming_damage(path):
        return LayerImportance.from_json(located(read_json(path, None), path.parent), num_layers, fingerprint, path)


def portable(content, folder: Path):
    """The content of a JSON file, with the files of `folder` that its settings name named relative to it.

    So it stays true when the folder is renamed, moved or copied. Lists and objects inside are gone through.
    """
    return _with_files(content, lambda name, value: _as_inside(value, folder))


def located(content, folder: Path):
    """`portable` undone for where `folder` is now. Raises ValueError for a file that should be inside and is not.

    Older files name their own by where the folder was: these are found by their name.
    """
    return _with_files(content, lambda name, value: _from_inside(name, value, folder))


def _with_files(content, change: Callable[[str, object], object]):
    if isinstance(content, list):
        return [_with_files(entry, change) for entry in content]
    if not isinstance(content, dict):
        return content
    return {
        name: change(name, value)
        if name in _FILE_SETTINGS and (isinstance(value, str) or _is_inside(value))
        else _with_files(value, change)
        for name, value in content.items()
    }


def _is_inside(value) -> bool:
    return isinstance(value, dict) and value.keys() == {_INSIDE}


def _as_inside(value, folder: Path):
    if _is_inside(value):
        return value
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # no path at all
        typed = Path(value).expanduser()
        for form in (os.path.abspath, os.path.realpath):
            path, home = Path(form(typed)), Path(form(folder))
            if home in path.parents:
                return {_INSIDE: path.relative_to(home).as_posix()}
    return value


def _from_inside(name: str, value, folder: Path) -> str:
    if _is_inside(value):
        inner = PurePosixPath(value[_INSIDE])
        if inner.is_absolute() or ".." in inner.parts or not inner.parts:
            raise ValueError(f"{value[_INSIDE]!r} is no file of this folder")
        found = folder.joinpath(*inner.parts)
        if not found.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{value[_INSIDE]!r} leads out of this folder")
        return str(found)
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        typed = Path(value).expanduser()
        own = folder / typed.name
        # The file was here under another name of the folder; pasted text that still exists there may be of a later experiment.
        is_lost = not typed.is_file() or (name == "corpus" and typed.name == PASTED_FILE)
        if name in _READ_FILES and len(typed.parts) > 1 and is_lost and own.is_file():
            return str(own)
    return value


def _texts_inside(description: dict) -> list[str]:
    """The files of text that settings name, as `portable` left them."""
    settings = description["settings"]
    named = [settings[name] for name in _READ_FILES if name.endswith("corpus") and _is_inside(settings.get(name))]
    return [value[_INSIDE] for value in named]


def without_consent(settings: dict) -> dict:
    """Settings as a file keeps them, or may say them."""
    return {name: value for name, value in settings.items() if name not in OF_THE_PERSON}


def checked_settings(settings: dict, path: Path) -> dict:
    """Settings that a file holds in their types; those that are not known stay as they are, those without a value are left out.

    Raises PruningError, or ValueError or TypeError, for a value that is none.
    """
    if not is_strategy(settings.get("strategy", DEFAULT_STRATEGY)):
        raise ValueError(f"there is no strategy {settings['strategy']!r}")
    checked = {}
    for name, value in settings.items():
        setting = SETTINGS.get(name)
        if setting is None:
            checked[name] = value
        elif value is not None or setting.default is None:
            if setting.kind is str and not isinstance(value, str | None):
                raise TypeError(f"{name} is {value!r}, not text")
            try:
                checked[name] = setting.parse(value)
            except PruningError as error:
                raise PruningError("file_broken", path=path, reason=error) from error
            if setting.kind is int and abs(checked[name] or 0) > _LARGEST:
                raise ValueError(f"{name} is too large")
    return checked


def _without_checks_of_exports(metrics: dict) -> dict:
    checks = {name: found for name, found in metrics.get("export_check", {}).items() if name == "hf"}
    return metrics | ({"export_check": checks} if "export_check" in metrics else {})


def _without_check_of_cut(metrics: dict) -> dict:
    """Drops what earlier versions left of the check of a cut, once the model was repaired or trained: its distance from the
    original files, which no changed model has.
    """
    check = metrics.get("export_check", {}).get("hf")
    is_changed = "recovery" in metrics or bool(metrics.get("repair"))
    if not is_changed or not check or "original_diff" not in check:
        return metrics
    kept = {name: value for name, value in check.items() if name != "original_diff"}
    return metrics | {"export_check": metrics["export_check"] | {"hf": kept}}


def _without_recovery(metrics: dict) -> dict:
    stages = {name: metrics[name] for name in ("perplexity", "warning") if name in metrics}
    kept = {name: {stage: of for stage, of in each.items() if stage != "recovered"} for name, each in stages.items()}
    return {name: value for name, value in metrics.items() if name != "recovery"} | kept


def _of_the_uncut_model(metrics: dict) -> dict:
    """The times of measuring, and the perplexity before the cut."""
    measuring = {name: metrics["seconds"][name] for name in _MEASURING if name in metrics.get("seconds", {})}
    kept = {"format_version": FORMAT_VERSION, "seconds": measuring}
    if "before" in metrics.get("perplexity", {}):
        kept |= {"basis": metrics["basis"], "perplexity": {"before": metrics["perplexity"]["before"]}}
    return kept


def _is_unchecked(entry: Path) -> bool:
    """A model folder without its card, which is written last."""
    return (entry.name == "model" or entry.name.startswith("model-")) and entry.is_dir() and not (entry / CARD_FILE).exists()


def _put(source: Path, target: Path) -> None:
    """Moves a file or a folder to `target`; if this is killed, it still has the name `source`."""
    try:
        put(source, target, swap=False)
    except OSError as error:
        raise PruningError("disk_write", path=target, reason=error.strerror or error) from error


def _merged(old: dict, new: dict) -> dict:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merged[key] | value if both else value
    return merged


def _changed_as(before: dict, after: dict, now: dict) -> dict:
    """`now` with what differs between `before` and `after`, dictionaries key by key."""
    changed = {key: value for key, value in now.items() if key not in before or key in after}
    for key, value in after.items():
        if key in before and before[key] == value:
            continue
        both = isinstance(value, dict) and isinstance(now.get(key), dict)
        old = before.get(key)
        changed[key] = _changed_as(old if isinstance(old, dict) else {}, value, now[key]) if both else value
    return changed


def read_matrices(experiment: Experiment) -> pd.DataFrame:
    """The matrix table that a cut wrote; raises PruningError for a file that is not ours."""
    path = experiment.path(RESULT_FILE)
    matrices = read_rows(path)
    for column in MATRIX_COLUMNS:
        if column not in matrices.columns:
            raise PruningError("table_columns", path=path, column=column, columns=", ".join(MATRIX_COLUMNS))
    with naming_damage(path):
        if matrices[[column for column in MATRIX_COLUMNS if column != "layer_idx"]].isna().any(axis=None):
            raise ValueError("a row is cut short")
        for column in ("params_before", "params_after", "bytes_before", "bytes_after", "retention", "sparsity"):
            pd.to_numeric(matrices[column])
    return matrices
