"""Runs sensitivity measurements in the worker: each point is kept as it comes, and what is kept is not measured again.

All points of a measurement are masked plans of one loaded model on the same windows, so they are paired: a rise comes with
the standard error of its mean over windows.
"""

import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ...errors import Cancelled, PruningError
from ...experiment import LAYERS_FILE, SENSITIVITY_FOLDER, write_whole
from ...methods import IMPORTANCE_METHODS, LAYER_METHODS
from ...model import matrix_sizes
from ...model.calibration import CALIBRATION, draw_samples, load_corpus
from ...model.checkpoint import LoadedModel
from ...model.held_out import HeldOutText, perplexity
from ...model.importance import measure_at_once, shared_passes
from ...model.layer_importance import measure_layers
from ...model.masking import masked
from ...model.model_source import DEMO
from ...model.sensitivity import LayerWalk, Rise, perplexity_of, token_losses, window_losses, written_tokens
from ...model.surgery import cut
from ...model.training import train
from ...planning.comparison import spearman
from ...planning.group_table import GroupTable
from ...planning.plan import PruningPlan
from ...planning.recovery_cost import recipe
from ...planning.shape import ATTENTION, MLP
from ...settings import SETTINGS, Settings
from ...words import counted, readable_duration
from ..context import Run, load_held_out, load_model
from ..train import TrainingData, training_data, training_from_settings
from . import results
from .plans import lowest_of_layer, protected_and_not, split_plans, strategy_plans, with_first_and_last_protected
from .results import KINDS, Question, SensitivityResult, read_result, write_result

_SHOWN_CHANNELS, _SHOWN_TOKENS = 3, 8


def answer(run: Run, loaded: LoadedModel, text: HeldOutText) -> None:
    """Answers the question that the run was asked; points that are kept from before are left out."""
    table = run.experiment.read_table()
    missing = table.groups.size - len(table.order)
    if missing:
        raise PruningError("learn_needs_all_groups", missing=missing)
    wanted = results.asked_in(run.experiment, run.request)
    found = read_result(run.experiment, wanted) or SensitivityResult(wanted)
    study = _Study(run, loaded, text, table, replace(found, text=text.basis), time.time())
    if not found.finished:
        _EXPERIMENTS[wanted.experiment](study)
        study.finish()


@dataclass
class _Study:
    """One experiment while it runs: where its points go, and how plans and scores are measured for it."""

    run: Run
    loaded: LoadedModel
    text: HeldOutText
    table: GroupTable
    result: SensitivityResult
    began: float

    @property
    def wanted(self) -> Question:
        return self.result.question

    @property
    def options(self) -> dict:
        return self.result.question.options

    @cached_property
    def _corpus(self):
        settings = self.run.experiment.settings
        return load_corpus(settings.corpus, CALIBRATION, settings.text_column)

    @cached_property
    def whole(self) -> np.ndarray:
        """Losses of the model as it is, [windows]."""
        return window_losses(self.loaded.model, self.text.windows, self.run.batch_size)

    def losses(self, plan: PruningPlan, place: int = 0, places: int = 1) -> np.ndarray:
        """Losses of the model without what the plan removes, [windows]; the `place`-th of so many plans."""
        windows = len(self.text.windows)

        def tell(done: int, total: int) -> None:
            self.run.progress.advance(windows * place + done, windows * places)

        with masked(self.loaded.model, plan) as model:
            return window_losses(model, self.text.windows, self.run.batch_size, tell)

    def tell_from(self, begun: int, total: int) -> Callable[[int, int], None]:
        """What tells of windows that are done, `begun` of them before."""
        return lambda done, _: self.run.progress.advance(begun + done, total)

    def keep(self, *points: dict, whole: dict | None = None) -> None:
        """Writes points, or what is true of all of them, at once: a run that is stopped continues from here."""
        now = time.time()
        self.result = replace(
            self.result,
            points=[*self.result.points, *points],
            whole=self.result.whole | (whole or {}),
            seconds=self.result.seconds + now - self.began,
        )
        self.began = now
        write_result(self.run.experiment, self.result)

    def note_whole(self, losses: np.ndarray) -> None:
        self.result = replace(self.result, perplexity=_finite(perplexity_of(losses)))

    def finish(self) -> None:
        self.result = replace(self.result, finished=True)
        self.keep()
        points, time_taken = counted(len(self.result.points), "point"), readable_duration(self.result.seconds)
        self.run.progress.say(f"    {self.wanted.experiment}: {points}, {time_taken}")

    # scores -----------------------------------------------------------------------------------------------------------

    def importance(self, methods: tuple[str, ...], seed: int, count: int) -> list[np.ndarray]:
        """Importance of every group by methods that one pass gives, on `count` calibration windows, [groups] each.

        Kept for the next question.
        """
        paths = [self._kept_importance(method, seed, count) for method in methods]
        if not all(path.exists() for path in paths):
            with self.run.progress.step(
                "gradients", count, "samples", detail=f"groups by {' and '.join(methods)}, seed {seed}"
            ):
                samples = self._samples(seed, count if IMPORTANCE_METHODS[methods[0]].needs_samples else 1)
                shape, size = self.loaded.header.shape, self.run.experiment.settings.gradient_batch_size
                measured = measure_at_once(methods, self.loaded.model, shape, samples, size, self.run.progress.advance)
            for path, importance in zip(paths, measured, strict=True):
                content = io.BytesIO()
                np.save(content, importance)
                path.parent.mkdir(exist_ok=True)
                write_whole(path, content.getvalue())
        return [np.load(path) for path in paths]

    def _kept_importance(self, method: str, seed: int, count: int) -> Path:
        key = Question(method, {"seed": seed, "count": count}, self.wanted.basis | {"table": None, "windows": None})
        return self.run.experiment.path(SENSITIVITY_FOLDER, key.file.replace(".json", ".npy"))

    def layer_importance(self, method: str, seed: int, count: int) -> np.ndarray:
        """Importance of every layer by `method`, [layers]; the experiment's own where it was measured by this method."""
        own = self.run.experiment.read_layer_importance()
        if own is not None and own.method == method:
            return own.importance
        with self.run.progress.step("gradients", count, "samples", detail=f"layers by {method}"):
            size = self.run.experiment.settings.gradient_batch_size
            samples = self._samples(seed, count)
            return measure_layers(method, self.loaded.model, samples, size, self.run.progress.advance).importance

    def table_of_seed(self, seed: int) -> GroupTable:
        """The experiment's table, or one by the same method on other calibration windows."""
        settings, method = self.run.experiment.settings, self.table.source.get("method")
        if seed == settings.seed or method not in IMPORTANCE_METHODS:
            return self.table
        [importance] = self.importance((method,), seed, settings.num_samples)
        return replace(self.table, importance=importance)

    def _samples(self, seed: int, count: int):
        return draw_samples(self._corpus, self.loaded.tokenizer, count, self.run.experiment.settings.seq_len, seed)


# one layer at a time --------------------------------------------------------------------------------------------------


def _layers(study: _Study) -> None:
    """Each layer cut alone, masked, and which scores foresaw the rise."""
    model, layers, kinds = study.loaded.model, study.table.shape.num_layers, study.options["kinds"]
    windows, total = len(study.text.windows), layers * len(kinds) * len(study.text.windows)
    with study.run.progress.step("perplexity", total, "windows", detail="one layer at a time"):
        walk = LayerWalk(model, study.text.windows, study.run.batch_size)
        study.note_whole(walk.whole)
        for layer in range(layers):
            new = []
            for number, kind in enumerate(kinds):
                if study.result.point(layer=layer, kind=kind):
                    continue
                begun = windows * (layer * len(kinds) + number)
                plan = lowest_of_layer(study.table, layer, KINDS[kind], study.options["share"])
                with masked(model, plan):
                    losses = walk.losses(study.tell_from(begun, total))
                new.append({"layer": layer, "kind": kind} | _cut(plan) | _rise(walk.whole, losses))
            if new:
                study.keep(*new)
            walk.forward()
    _foresee(study)


def _foresee(study: _Study) -> None:
    """What each method says of the very groups that went, layer by layer, and its correlation with the measured rise.

    A group method's foresight of a layer is the sum of its importance over the groups that were cut there; a layer method's
    is its importance of the layer, whatever was cut.
    """
    seed, count = study.run.experiment.settings.seed, study.options["samples"]
    foreseen = dict(study.result.whole.get("foreseen", {}))
    cuts = {
        kind: [
            lowest_of_layer(study.table, layer, KINDS[kind], study.options["share"])
            for layer in range(study.table.shape.num_layers)
        ]
        for kind in study.options["kinds"]
    }
    for methods in shared_passes([method for method in IMPORTANCE_METHODS if method not in foreseen]):
        for method, importance in zip(methods, study.importance(methods, seed, count), strict=True):
            foreseen[method] = {kind: [float(importance[~plan.kept].sum()) for plan in plans] for kind, plans in cuts.items()}
        study.keep(whole={"foreseen": foreseen})
    for method in LAYER_METHODS:
        if method not in foreseen:
            foreseen[method] = dict.fromkeys(cuts, study.layer_importance(method, seed, count).tolist())
            study.keep(whole={"foreseen": foreseen})
    measured = {
        kind: np.array([point["rise"] for i in range(len(plans)) if (point := study.result.point(layer=i, kind=kind))])
        for kind, plans in cuts.items()
    }
    correlations = {
        method: {kind: _number(spearman(np.array(of_kind[kind]), measured[kind])) for kind in cuts}
        for method, of_kind in foreseen.items()
    }
    study.keep(whole={"spearman": correlations})


# protect or not -------------------------------------------------------------------------------------------------------


def _protection(study: _Study) -> None:
    """All layers cut against first and last ones spared, the same number of parameters, over ratios and calibration seeds."""
    options = study.options
    todo = [(seed, ratio) for seed in options["seeds"] for ratio in options["ratios"]]
    todo = [one for one in todo if not study.result.point(seed=one[0], ratio=one[1])]
    for seed in {seed for seed, _ in todo}:
        study.table_of_seed(seed)
    with study.run.progress.step("perplexity", 0, "windows", detail="protect or not"):
        study.note_whole(study.whole)
        for place, (seed, ratio) in enumerate(todo):
            study.keep(_compared(study, seed, ratio, 2 * place, 2 * len(todo)))


def _compared(study: _Study, seed: int, ratio: float, place: int, places: int) -> dict:
    """Both scenarios at one ratio: {all, protected, difference: protected minus all, paired}; or why there is no such cut."""
    options, point = study.options, {"seed": seed, "ratio": ratio}
    try:
        plans = protected_and_not(study.table_of_seed(seed), ratio, options["strategy"], options["first"], options["last"])
    except PruningError as error:
        return point | {"reason": error.content}
    losses = [study.losses(plan, place + number, places) for number, plan in enumerate(plans)]
    for name, plan, found in zip(("all", "protected"), plans, losses, strict=True):
        point[name] = _cut(plan) | _rise(study.whole, found)
    return point | {"difference": _named(Rise.between(*losses))}


def _trained(study: _Study) -> None:
    """Both scenarios cut for real, each trained by the same LoRA on the same text; one calibration seed."""
    options = study.options
    todo = [ratio for ratio in options["ratios"] if not study.result.point(ratio=ratio)]
    study.note_whole(study.whole)
    settings = _same_training(study)
    data = training_data(settings, study.loaded, study.text)
    for ratio in todo:
        try:
            plans = protected_and_not(study.table, ratio, options["strategy"], options["first"], options["last"])
        except PruningError as error:
            study.keep({"ratio": ratio, "reason": error.content})
            continue
        point, trained = {"ratio": ratio}, []
        for name, plan in zip(("all", "protected"), plans, strict=True):
            with study.run.progress.step("perplexity", 0, "windows", detail=f"{ratio:.0%}, {name}"):
                cut_alone = _rise(study.whole, study.losses(plan))
            trained.append(_losses_after_training(study, plan, settings, data, f"{ratio:.0%}, {name}"))
            point[name] = _cut(plan) | {"cut": cut_alone, "trained": _rise(study.whole, trained[-1])}
        study.keep(point | {"difference": _named(Rise.between(*trained))})


def _same_training(study: _Study) -> Settings:
    """Settings of the light recipe; what is reported stays out of what the best state is chosen by."""
    known = study.run.experiment.settings
    light = recipe("light", known.base_model == DEMO)
    own = {"finetune_samples": study.options["samples"], "eval_windows": len(study.text.windows)}
    defaults = {name: setting.default for name, setting in SETTINGS.items() if setting.group == "recovery"}
    return replace(known, **(defaults | light | own))


def _losses_after_training(study: _Study, plan: PruningPlan, settings: Settings, data: TrainingData, detail: str) -> np.ndarray:
    """Losses of the model that a plan cuts and LoRA trains, [windows]; the loaded model stays as it is."""
    pruned = cut(study.loaded.model, plan)
    for parameter in pruned.parameters():  # what a cut keeps whole it shares with the loaded model
        parameter.data = parameter.data.clone()
    training = training_from_settings(settings, len(data.text))
    progress = study.run.progress
    with progress.step("recovery", training.steps, "steps", detail=detail), tempfile.TemporaryDirectory() as folder:
        result = train(
            pruned,
            data.text,
            training,
            Path(folder),
            lambda model: perplexity(
                model, data.validation, study.run.batch_size, lambda *_: study.run.progress.check_cancelled()
            ),
            lambda point: progress.advance(point.step, training.steps),
        )
    if result.was_cancelled:
        raise Cancelled()
    return window_losses(result.model, study.text.windows, study.run.batch_size)


def _grid(study: _Study) -> None:
    """The same ratio with n first and m last layers protected, n x m; the cut of all layers is one of the points."""
    options = study.options
    todo = [(n, m) for n in options["firsts"] for m in options["lasts"] if not study.result.point(first=n, last=m)]
    with study.run.progress.step("perplexity", 0, "windows", detail="first x last layers protected"):
        study.note_whole(study.whole)
        plan = with_first_and_last_protected(study.table, options["ratio"], options["strategy"], 0, 0)
        budget = int(plan.removed_parameters.sum())
        unprotected = study.losses(plan)
        for place, (first, last) in enumerate(todo):
            point = {"first": first, "last": last}
            try:
                plan = with_first_and_last_protected(study.table, options["ratio"], options["strategy"], first, last, budget)
            except PruningError as error:
                study.keep(point | {"reason": error.content})
                continue
            losses = study.losses(plan, place, len(todo))
            difference = _named(Rise.between(unprotected, losses))
            study.keep(point | _cut(plan) | _rise(study.whole, losses) | {"difference": difference})


# attention : MLP, strategies ------------------------------------------------------------------------------------------


def _split(study: _Study) -> None:
    """The same number of parameters shared differently between attention and MLP; `auto` is what the scores chose."""
    todo = [
        (ratio, split, plan)
        for ratio in study.options["ratios"]
        for split, plan in split_plans(study.table, ratio)
        if not study.result.point(ratio=ratio, split=split)
    ]
    with study.run.progress.step("perplexity", 0, "windows", detail="attention : MLP"):
        study.note_whole(study.whole)
        for place, (ratio, split, plan) in enumerate(todo):
            point = {"ratio": ratio, "split": split}
            if isinstance(plan, PruningError):
                study.keep(point | {"reason": plan.content})
            else:
                study.keep(point | _cut(plan) | _rise(study.whole, study.losses(plan, place, len(todo))))


def _strategies(study: _Study) -> None:
    """Layer-wise and global at one budget."""
    layers = study.run.experiment.read_layer_importance() if study.run.experiment.has(LAYERS_FILE) else None
    found = strategy_plans(study.table, study.options["ratio"], layers)
    with study.run.progress.step("perplexity", 0, "windows", detail="two strategies"):
        study.note_whole(study.whole)
        kept, points = {}, []
        for place, (name, plan, seconds) in enumerate(found):
            kept[name] = study.losses(plan, place, len(found))
            points.append({"strategy": name, "plan_seconds": seconds} | _cut(plan) | _rise(study.whole, kept[name]))
        study.keep(*points, whole={"difference": _named(Rise.between(kept["layer"], kept["global"]))})


# inside a group, zeros or less ----------------------------------------------------------------------------------------


def _inside(study: _Study) -> None:
    """Lowest- and highest-scored groups of a layer: every token's loss with and without, and what channels write."""
    model, table, layer = study.loaded.model, study.table, study.options["layer"]
    tokens = study.loaded.tokenizer
    with study.run.progress.step("perplexity", 0, "windows", detail="inside a group"):
        for rank, group in _extremes(table, layer, ATTENTION, 1):
            kept = np.ones(table.groups.size, dtype=bool)
            kept[table.groups.slice_of(layer, ATTENTION).start + group] = False
            plan = PruningPlan(table.shape, kept)
            losses = study.losses(plan)
            window = study.text.windows[
                int(np.argmax(losses - study.whole))
            ]  # where it matters most, there is something to see
            before = token_losses(model, window)
            with masked(model, plan):
                after = token_losses(model, window)
            shown = {
                "tokens": [tokens.decode([i]) for i in window.tolist()],
                "before": before.tolist(),
                "after": after.tolist(),
            }
            study.keep({"kind": ATTENTION, "group": group, "rank": rank} | shown | _rise(study.whole, losses))
        for rank, channel in _extremes(table, layer, MLP, _SHOWN_CHANNELS):
            ids, raised = written_tokens(model, layer, channel, _SHOWN_TOKENS)
            written = {"tokens": [tokens.decode([i]) for i in ids], "raised": raised}
            study.keep({"kind": MLP, "group": channel, "rank": rank} | written)
    study.note_whole(study.whole)


def _extremes(table: GroupTable, layer: int, kind: str, count: int) -> Iterator[tuple[str, int]]:
    """(lowest or highest, index) of the groups of a block at both ends of its scores."""
    block = table.groups.slice_of(layer, kind)
    by_rank = np.argsort(table.rank_from_best[block])
    ends = {"lowest": by_rank[::-1][:count], "highest": by_rank[:count]}
    yield from ((rank, int(group)) for rank, groups in ends.items() for group in groups)


def _matrix(study: _Study) -> None:
    """One matrix with zeros in it, and the same matrix made smaller: memory and measured speed."""
    layer, share = study.options["layer"], study.options["share"]
    with study.run.progress.step("statistics", detail="zeros or a smaller matrix"):
        weight = study.loaded.model.model.layers[layer].mlp.gate_proj.weight
        plan = lowest_of_layer(study.table, layer, (MLP,), share)
        kept = np.flatnonzero(plan.kept[study.table.groups.slice_of(layer, MLP)])
        study.keep(whole=matrix_sizes.compare(weight, kept))


_EXPERIMENTS = {
    results.LAYERS: _layers,
    results.PROTECTION: _protection,
    results.TRAINED: _trained,
    results.GRID: _grid,
    results.SPLIT: _split,
    results.STRATEGIES: _strategies,
    results.INSIDE: _inside,
    results.MATRIX: _matrix,
}


# numbers of a point ---------------------------------------------------------------------------------------------------


def _cut(plan: PruningPlan) -> dict:
    """What a plan removes: parameters of attention and of MLP, and the share of all."""
    attention, mlp = (int(n) for n in plan.removed_parameters.sum(axis=0))
    return {"removed": attention + mlp, "attention": attention, "mlp": mlp, "actual_ratio": plan.actual_ratio}


def _rise(whole: np.ndarray, losses: np.ndarray) -> dict:
    rise = Rise.between(whole, losses)
    return {"perplexity": _finite(perplexity_of(losses)), "rise": rise.mean, "error": _number(rise.error)}


def _named(rise: Rise) -> dict:
    return {"mean": rise.mean, "error": _number(rise.error), "is_clear": rise.is_clear}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> float | None:
    """None for what JSON cannot hold."""
    return None if math.isnan(value) else value


def measure_sensitivity(run: Run) -> None:
    """Runs the experiment that is asked for: what cuts do to the loss, masked; the model is not cut."""
    loaded = load_model(run)
    with run.progress.step("baseline", detail="of the model as it is, on the windows of the experiment"):
        windows = results.asked_in(run.experiment, run.request).basis["windows"]
        text = load_held_out(replace(run.settings, eval_windows=windows), loaded)
    answer(run, loaded, text)
