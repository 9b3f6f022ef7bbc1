"""Importance of groups and of layers, measured or taken over: what another experiment measured the same way is not
measured again.

Two measurements are the same when model, method, text, samples, length, seed and number format are.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import PruningError
from ..experiment import LAYERS_FILE, TABLE_FILE, Experiment, list_experiments, read_layer_importance, read_sidecar
from ..files import copy_whole, read_json
from ..methods import IMPORTANCE_METHODS
from ..model.calibration import CALIBRATION, check_window, draw_samples, load_corpus
from ..model.checkpoint import LoadedModel
from ..model.importance import measure_groups
from ..model.layer_importance import measure_layers
from ..model.masking import masked
from ..model.runtime import resolve_device, resolve_dtype
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.group_table import GroupTable
from ..planning.layer_importance import LayerImportance
from ..planning.plan import PruningPlan
from ..planning.planner import measured_layers, needs_layer_importance
from ..settings import Settings
from ..words import counted
from .context import Run, open_model, warm_model
from .progress import Progress


class Measurement:
    """What one run has to measure, and where the same was measured already.

    With `layers_where_needed` layers are left out where no setting needs their importance.
    """

    def __init__(self, experiment: Experiment, settings: Settings, header: CheckpointHeader, layers_where_needed: bool = False):
        self.experiment, self.settings, self.header = experiment, settings, header
        self.layers = measured_layers(settings, header.shape.num_layers)
        self.wants_layers = settings.layer_importance_samples > 0 and not settings.layer_importance_config
        if layers_where_needed:
            self.wants_layers = self.wants_layers and needs_layer_importance(settings)
        self.method = IMPORTANCE_METHODS[settings.importance_method]
        needs_text = self.method.needs_samples or self.wants_layers
        self.corpus = None
        if needs_text:
            check_window(settings.seq_len, header.shape.max_position_embeddings)
            self.corpus = load_corpus(settings.corpus, CALIBRATION, settings.text_column)

    def taken_over(self, progress: Progress) -> bool:
        """Whether all that is wanted was measured elsewhere, and is now here too."""
        if not self._take_over_groups(progress) or (self.wants_layers and not self._take_over_layers(progress)):
            return False
        if self.settings.layer_importance_config:
            self._reuse_layers(progress)
        return True

    def run(self, progress: Progress, loaded: LoadedModel) -> None:
        """Measures what is wanted and was not taken over; writes the table, and the importance of layers."""
        if not self._take_over_groups(progress):
            self._measure_groups(progress, loaded)
        if self.settings.layer_importance_config:
            self._reuse_layers(progress)
        elif self.wants_layers and not self._take_over_layers(progress):
            self._measure_layers(progress, loaded)
        self.experiment.settle()  # what a run takes the place of may be large, and a model is to be written next

    # groups -----------------------------------------------------------------------------------------------------------

    def _measure_groups(self, progress: Progress, loaded: LoadedModel) -> None:
        settings, method = self.settings, self.method
        with progress.step("gradients", settings.num_samples, "samples", detail=f"groups by {method.name}"):
            samples, used = torch.zeros(0, 2, dtype=torch.int64), {}
            if method.needs_samples:
                samples = self._draw(progress, loaded, settings.num_samples)
                used = {"num_samples": len(samples)}
            shape, batch_size = loaded.header.shape, settings.gradient_batch_size
            importance = measure_groups(
                method.name, loaded.model, shape, samples, batch_size, progress.advance, self._limited_layers
            )
        with progress.step("group_table"):
            source = self._source_of_groups()
            source["calibration"] |= used
            table = GroupTable(shape, importance, source)
            self.experiment.write_table(table)
            text = f" on {counted(len(samples), 'sample')}" if used else ""
            progress.say(f"    {counted(len(table.order), 'group')} scored by {method.name}{text}")

    def again(self, progress: Progress, loaded: LoadedModel, plan: PruningPlan, detail: str) -> np.ndarray:
        """Importance of the groups that `plan` keeps, measured on what it leaves of the model, [groups] float64."""
        settings, method = self.settings, self.method
        with progress.step("gradients", settings.num_samples, "samples", detail), masked(loaded.model, plan) as model:
            samples = torch.zeros(0, 2, dtype=torch.int64)
            if method.needs_samples:
                samples = self._draw(progress, loaded, settings.num_samples)
            shape, batch_size = loaded.header.shape, settings.gradient_batch_size
            return measure_groups(method.name, model, shape, samples, batch_size, progress.advance, self._limited_layers)

    def _take_over_groups(self, progress: Progress) -> bool:
        if self.has_groups():
            progress.skip("gradients", "groups are measured already")
            return True
        for other in self._others(TABLE_FILE):
            if self._is_wanted_table(other.path(TABLE_FILE)):
                source = read_json(other.path(f"{TABLE_FILE}.json"), None)
                self.experiment.write(self._on_own_text(source), f"{TABLE_FILE}.json")
                copy_whole(other.path(TABLE_FILE), self.experiment.path(TABLE_FILE))  # last: it says that groups were measured
                progress.skip("gradients", f"measured the same way in {other.name}")
                return True
        return False

    def has_groups(self) -> bool:
        """Whether the experiment holds the table that would be measured."""
        own = self.experiment.path(TABLE_FILE)
        return own.exists() and self._is_wanted_table(own)

    def _is_wanted_table(self, path: Path) -> bool:
        return _comparable(_readable(read_sidecar, path)) == _comparable(self._source_of_groups())

    def _source_of_groups(self) -> dict:
        """What the table's sidecar says: all that the numbers depend on."""
        settings, method = self.settings, self.method
        calibration = self._calibration(settings.num_samples) if method.needs_samples else {}
        if method.depends_on_batch_size:
            calibration["gradient_batch_size"] = settings.gradient_batch_size
        source = {"fingerprint": self.header.fingerprint, "method": method.name, "calibration": calibration}
        if self._limited_layers is not None:
            source["layers"] = [self.layers.start, self.layers.stop]
        return source | {"dtype": self._dtype}

    @property
    def _limited_layers(self) -> range | None:
        return self.layers if len(self.layers) < self.header.shape.num_layers else None

    # layers -----------------------------------------------------------------------------------------------------------

    def _measure_layers(self, progress: Progress, loaded: LoadedModel) -> None:
        settings, method = self.settings, self.settings.layer_importance_method
        count = settings.layer_importance_samples
        with progress.step("gradients", count, "samples", detail=f"layers by {method}"):
            samples = self._draw(progress, loaded, count)
            source = self._source_of_layers()
            source["calibration"]["num_samples"] = len(samples)
            batch_size = settings.gradient_batch_size
            layers = measure_layers(method, loaded.model, samples, batch_size, progress.advance, source)
            self.experiment.write_layer_importance(layers)
            text = counted(len(samples), "sample")
            progress.say(f"    most important: layer {int(layers.importance.argmax())}; on {text}")

    def _take_over_layers(self, progress: Progress) -> bool:
        if self.measured_layers_of(self.experiment):
            progress.skip("gradients", "layers are measured already")
            return True
        for other in self._others(LAYERS_FILE):
            if layers := self.measured_layers_of(other):
                self.experiment.write_layer_importance(replace(layers, source=self._on_own_text(layers.source)))
                progress.skip("gradients", f"layers were measured the same way in {other.name}")
                return True
        return False

    def measured_layers_of(self, experiment: Experiment) -> LayerImportance | None:
        """The importance of layers that an experiment holds; None when it is not the one that would be measured."""
        if not experiment.has(LAYERS_FILE) or self.corpus is None:
            return None
        layers = _readable(self._read_layers, experiment.path(LAYERS_FILE))
        wanted = _comparable(self._source_of_layers()) | {"method": self.settings.layer_importance_method}
        is_wanted = layers is not None and _comparable(layers.source) | {"method": layers.method} == wanted
        return layers if is_wanted else None

    def _reuse_layers(self, progress: Progress) -> None:
        path = Path(self.settings.layer_importance_config).expanduser()
        self.experiment.write_layer_importance(self._read_layers(path))
        progress.say(f"    importance of layers from {path}")

    def _read_layers(self, path: Path) -> LayerImportance:
        return read_layer_importance(path, self.header.shape.num_layers, self.header.fingerprint)

    def _source_of_layers(self) -> dict:
        calibration = self._calibration(self.settings.layer_importance_samples)
        return {"fingerprint": self.header.fingerprint, "calibration": calibration, "dtype": self._dtype}

    # what both need ---------------------------------------------------------------------------------------------------

    def _calibration(self, asked_samples: int) -> dict:
        settings = self.settings
        return {
            "corpus": settings.corpus,
            "corpus_sha256": self.corpus.sha256,
            "asked_samples": asked_samples,
            "seq_len": settings.seq_len,
            "seed": settings.seed,
        }

    def _on_own_text(self, source: dict) -> dict:
        """A source of another experiment, its text named as it is here; the path of the text does not change the numbers."""
        calibration = source.get("calibration", {})
        own = {"corpus": self.settings.corpus} if "corpus" in calibration else {}
        return source | ({"calibration": calibration | own} if "calibration" in source else {})

    @property
    def _dtype(self) -> str:
        return str(resolve_dtype(self.settings.dtype, resolve_device(self.settings.device))).removeprefix("torch.")

    def _draw(self, progress: Progress, loaded: LoadedModel, count: int) -> torch.Tensor:
        settings, corpus = self.settings, self.corpus
        samples = draw_samples(corpus, loaded.tokenizer, count, settings.seq_len, settings.seed)
        if len(samples) < count:
            windows = counted(len(samples), "window")
            progress.say(f"    the text gives {windows}, {count} were asked for: all of the text is used")
        progress.advance(0, len(samples))
        return samples

    def _others(self, file: str) -> list[Experiment]:
        return [e for e in list_experiments(self.experiment.folder.parent) if e != self.experiment and e.has(file)]


def _comparable(source: dict | None) -> dict:
    """A source without what does not change the numbers: where the text came from, how many windows it gave."""
    calibration = {k: v for k, v in (source or {}).get("calibration", {}).items() if k not in ("corpus", "num_samples")}
    return {k: v for k, v in (source or {}).items() if k != "calibration"} | {"calibration": calibration}


def _readable(read, path: Path):
    """What `read` makes of a file of another experiment; None when it cannot be read."""
    try:
        return read(path)
    except PruningError:
        return None


def measure(run: Run) -> None:
    """Measures the importance of every group and of every layer, unless the same was measured before."""
    with run.progress.step("load"):
        header = open_model(run)
        measurement = Measurement(run.experiment, run.settings, header)
        if measurement.taken_over(run.progress):
            return
        loaded = warm_model(header, run.settings, run.permissions)
    run.progress.skip("baseline", "the model is not cut")
    measurement.run(run.progress, loaded)
