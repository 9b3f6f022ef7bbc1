"""Runs sensitivity measurements in the worker: each point is kept as it comes, and what is kept is not measured again.

All points of a measurement are masked plans of one loaded model on the same windows, so they are paired: a rise comes with
the standard error of its mean over windows.
"""

import io
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ...errors import Cancelled, PruningError
from ...experiment import FINDINGS_FOLDER, LAYERS_FILE, Experiment, write_whole
from ...model import matrix_sizes
from ...model.calibration import CALIBRATION, draw_samples, load_corpus
from ...model.checkpoint import LoadedModel
from ...model.held_out import HeldOutText, perplexity
from ...model.importance import IMPORTANCE_METHODS, NEEDS_NO_SAMPLES, measure_at_once, passes
from ...model.layer_importance import LAYER_METHODS, measure_layers
from ...model.masking import masked
from ...model.model_source import DEMO
from ...model.sensitivity import LayerWalk, Rise, perplexity_of, token_losses, window_losses, written_tokens
from ...model.surgery import cut
from ...model.training import recover as train
from ...planning.comparison import spearman
from ...planning.group_table import GroupTable
from ...planning.plan import PruningPlan
from ...planning.recovery_cost import recipe
from ...planning.shape import ATTENTION, MLP
from ...settings import SETTINGS
from ..context import load_held_out, load_model
from ..permissions import Permissions
from ..progress import RunReport
from ..train import TrainingData, training_data, training_from_settings
from . import findings
from .findings import KINDS, Finding, Request, asked, read_finding, write_finding
from .plans import lowest_of_layer, protected_and_not, split_plans, strategy_plans, with_first_and_last_protected

_SHOWN_CHANNELS, _SHOWN_TOKENS = 3, 8


def find_out(experiment: Experiment, report: RunReport, loaded: LoadedModel, text: HeldOutText, batch_size: int) -> None:
    """Answers what `findings.ask` wrote down; points that are kept from before are left out."""
    table = experiment.read_table()
    missing = table.groups.size - len(table.order)
    if missing:
        raise PruningError("learn_needs_all_groups", missing=missing)
    wanted = findings.asked(experiment)
    found = read_finding(experiment, wanted) or Finding(wanted)
    run = _Run(experiment, report, loaded, text, batch_size, table, replace(found, text=text.basis), time.time())
    if not found.finished:
        _EXPERIMENTS[wanted.experiment](run)
        run.finish()
    experiment.path(findings.WAITING_FILE).unlink(missing_ok=True)  # nothing waits any more


@dataclass
class _Run:
    """One measurement while it runs: where its points go, and how plans and scores are measured for it."""

    experiment: Experiment
    report: RunReport
    loaded: LoadedModel
    text: HeldOutText
    batch_size: int
    table: GroupTable
    finding: Finding
    began: float

    @property
    def wanted(self) -> Request:
        return self.finding.request

    @property
    def options(self) -> dict:
        return self.finding.request.options

    @cached_property
    def _corpus(self):
        settings = self.experiment.settings
        return load_corpus(settings["corpus"], CALIBRATION, settings["text_column"])

    @cached_property
    def whole(self) -> np.ndarray:
        """Losses of the model as it is, [windows]."""
        return window_losses(self.loaded.model, self.text.windows, self.batch_size)

    def losses(self, plan: PruningPlan, place: int = 0, places: int = 1) -> np.ndarray:
        """Losses of the model without what the plan removes, [windows]; the `place`-th of so many plans."""
        windows = len(self.text.windows)

        def tell(done: int, total: int) -> None:
            self.report.progress(windows * place + done, windows * places)

        with masked(self.loaded.model, plan) as model:
            return window_losses(model, self.text.windows, self.batch_size, tell)

    def keep(self, *points: dict, whole: dict | None = None) -> None:
        """Writes points, or what is true of all of them, at once: a run that is stopped continues from here."""
        now = time.time()
        self.finding = replace(
            self.finding,
            points=[*self.finding.points, *points],
            whole=self.finding.whole | (whole or {}),
            seconds=self.finding.seconds + now - self.began,
        )
        self.began = now
        write_finding(self.experiment, self.finding)

    def note_whole(self, losses: np.ndarray) -> None:
        self.finding = replace(self.finding, perplexity=_finite(perplexity_of(losses)))

    def finish(self) -> None:
        self.finding = replace(self.finding, finished=True)
        self.keep()
        self.report.say(f"    {self.wanted.experiment}: {len(self.finding.points)} points, {self.finding.seconds:.1f} s")

    # scores -----------------------------------------------------------------------------------------------------------

    def importance(self, methods: tuple[str, ...], seed: int, count: int) -> list[np.ndarray]:
        """Importance of every group by methods that one pass gives, on `count` calibration windows, [groups] each.

        Kept for the next question.
        """
        paths = [self._kept_importance(method, seed, count) for method in methods]
        if not all(path.exists() for path in paths):
            with self.report.step("gradients", count, "samples", detail=f"groups by {' and '.join(methods)}, seed {seed}"):
                samples = self._samples(seed, 1 if methods[0] in NEEDS_NO_SAMPLES else count)
                shape, size = self.loaded.header.shape, self.experiment.settings["gradient_batch_size"]
                measured = measure_at_once(methods, self.loaded.model, shape, samples, size, self.report.progress)
            for path, importance in zip(paths, measured, strict=True):
                _write_array(path, importance)
        return [np.load(path) for path in paths]

    def _kept_importance(self, method: str, seed: int, count: int) -> Path:
        key = Request(method, {"seed": seed, "count": count}, self.wanted.basis | {"table": None, "windows": None})
        return self.experiment.path(FINDINGS_FOLDER, key.file.replace(".json", ".npy"))

    def layer_importance(self, method: str, seed: int, count: int) -> np.ndarray:
        """Importance of every layer by `method`, [layers]; the experiment's own where it was measured by this method."""
        own = self.experiment.read_layer_importance()
        if own is not None and own.method == method:
            return own.importance
        with self.report.step("gradients", count, "samples", detail=f"layers by {method}"):
            size = self.experiment.settings["gradient_batch_size"]
            samples = self._samples(seed, count)
            return measure_layers(method, self.loaded.model, samples, size, self.report.progress).importance

    def table_of_seed(self, seed: int) -> GroupTable:
        """The experiment's table, or one by the same method on other calibration windows."""
        settings, method = self.experiment.settings, self.table.source.get("method")
        if seed == settings["seed"] or method not in IMPORTANCE_METHODS:
            return self.table
        [importance] = self.importance((method,), seed, settings["num_samples"])
        return replace(self.table, importance=importance)

    def _samples(self, seed: int, count: int):
        return draw_samples(self._corpus, self.loaded.tokenizer, count, self.experiment.settings["seq_len"], seed)


# one layer at a time --------------------------------------------------------------------------------------------------


def _layers(run: _Run) -> None:
    """Each layer cut alone, masked, and which scores foresaw the rise."""
    model, layers, kinds = run.loaded.model, run.table.shape.num_layers, run.options["kinds"]
    windows, total = len(run.text.windows), layers * len(kinds) * len(run.text.windows)
    with run.report.step("perplexity", total, "windows", detail="one layer at a time"):
        walk = LayerWalk(model, run.text.windows, run.batch_size)
        run.note_whole(walk.whole)
        for layer in range(layers):
            new = []
            for number, kind in enumerate(kinds):
                if run.finding.point(layer=layer, kind=kind):
                    continue
                begun = windows * (layer * len(kinds) + number)
                plan = lowest_of_layer(run.table, layer, KINDS[kind], run.options["share"])
                with masked(model, plan):
                    losses = walk.losses(lambda done, _, begun=begun: run.report.progress(begun + done, total))
                new.append({"layer": layer, "kind": kind} | _cut(plan) | _rise(walk.whole, losses))
            if new:
                run.keep(*new)
            walk.forward()
    _foresee(run)


def _foresee(run: _Run) -> None:
    """What each method says of the very groups that went, layer by layer, and its correlation with the measured rise.

    A group method's foresight of a layer is the sum of its importance over the groups that were cut there; a layer method's
    is its importance of the layer, whatever was cut.
    """
    seed, count = run.experiment.settings["seed"], run.options["samples"]
    foreseen = dict(run.finding.whole.get("foreseen", {}))
    cuts = {
        kind: [
            lowest_of_layer(run.table, layer, KINDS[kind], run.options["share"]) for layer in range(run.table.shape.num_layers)
        ]
        for kind in run.options["kinds"]
    }
    for methods in passes([method for method in IMPORTANCE_METHODS if method not in foreseen]):
        for method, importance in zip(methods, run.importance(methods, seed, count), strict=True):
            foreseen[method] = {kind: [float(importance[~plan.kept].sum()) for plan in plans] for kind, plans in cuts.items()}
        run.keep(whole={"foreseen": foreseen})
    for method in LAYER_METHODS:
        if method not in foreseen:
            foreseen[method] = dict.fromkeys(cuts, run.layer_importance(method, seed, count).tolist())
            run.keep(whole={"foreseen": foreseen})
    measured = {
        kind: np.array([run.finding.point(layer=i, kind=kind)["rise"] for i in range(len(plans))])
        for kind, plans in cuts.items()
    }
    correlations = {
        method: {kind: _number(spearman(np.array(of_kind[kind]), measured[kind])) for kind in cuts}
        for method, of_kind in foreseen.items()
    }
    run.keep(whole={"spearman": correlations})


# protect or not -------------------------------------------------------------------------------------------------------


def _protection(run: _Run) -> None:
    """All layers cut against first and last ones spared, the same number of parameters, over ratios and calibration seeds."""
    options = run.options
    todo = [(seed, ratio) for seed in options["seeds"] for ratio in options["ratios"]]
    todo = [one for one in todo if not run.finding.point(seed=one[0], ratio=one[1])]
    for seed in {seed for seed, _ in todo}:
        run.table_of_seed(seed)
    with run.report.step("perplexity", 0, "windows", detail="protect or not"):
        run.note_whole(run.whole)
        for place, (seed, ratio) in enumerate(todo):
            run.keep(_compared(run, seed, ratio, 2 * place, 2 * len(todo)))


def _compared(run: _Run, seed: int, ratio: float, place: int, places: int) -> dict:
    """Both scenarios at one ratio: {all, protected, difference: protected minus all, paired}; or why there is no such cut."""
    options, point = run.options, {"seed": seed, "ratio": ratio}
    try:
        plans = protected_and_not(run.table_of_seed(seed), ratio, options["strategy"], options["first"], options["last"])
    except PruningError as error:
        return point | {"reason": error.content}
    losses = [run.losses(plan, place + number, places) for number, plan in enumerate(plans)]
    for name, plan, found in zip(("all", "protected"), plans, losses, strict=True):
        point[name] = _cut(plan) | _rise(run.whole, found)
    return point | {"difference": _named(Rise.between(*losses))}


def _trained(run: _Run) -> None:
    """Both scenarios cut for real, each trained by the same LoRA on the same text; one calibration seed."""
    options = run.options
    todo = [ratio for ratio in options["ratios"] if not run.finding.point(ratio=ratio)]
    run.note_whole(run.whole)
    settings = _same_training(run)
    data = training_data(settings, run.loaded, run.text)
    for ratio in todo:
        try:
            plans = protected_and_not(run.table, ratio, options["strategy"], options["first"], options["last"])
        except PruningError as error:
            run.keep({"ratio": ratio, "reason": error.content})
            continue
        point, trained = {"ratio": ratio}, []
        for name, plan in zip(("all", "protected"), plans, strict=True):
            with run.report.step("perplexity", 0, "windows", detail=f"{ratio:.0%}, {name}"):
                cut_alone = _rise(run.whole, run.losses(plan))
            trained.append(_losses_after_training(run, plan, settings, data, f"{ratio:.0%}, {name}"))
            point[name] = _cut(plan) | {"cut": cut_alone, "trained": _rise(run.whole, trained[-1])}
        run.keep(point | {"difference": _named(Rise.between(*trained))})


def _same_training(run: _Run) -> dict:
    """Settings of the light recipe; what is reported stays out of what the best state is chosen by."""
    known = run.experiment.settings
    light = recipe("light", known["base_model"] == DEMO)
    own = {"finetune_samples": run.options["samples"], "eval_windows": len(run.text.windows)}
    return known | {name: setting.default for name, setting in SETTINGS.items() if setting.group == "recovery"} | light | own


def _losses_after_training(run: _Run, plan: PruningPlan, settings: dict, data: TrainingData, detail: str) -> np.ndarray:
    """Losses of the model that a plan cuts and LoRA trains, [windows]; the loaded model stays as it is."""
    pruned = cut(run.loaded.model, plan)
    for parameter in pruned.parameters():  # what a cut keeps whole it shares with the loaded model
        parameter.data = parameter.data.clone()
    training = training_from_settings(settings, len(data.text))
    with run.report.step("recovery", training.steps, "steps", detail=detail), tempfile.TemporaryDirectory() as folder:
        result = train(
            pruned,
            data.text,
            training,
            Path(folder),
            lambda model: perplexity(model, data.validation, run.batch_size, lambda *_: run.report.check_cancelled()),
            lambda point: run.report.progress(point.step, training.steps),
        )
    if result.was_cancelled:
        raise Cancelled()
    return window_losses(result.model, run.text.windows, run.batch_size)


def _grid(run: _Run) -> None:
    """The same ratio with n first and m last layers protected, n x m; the cut of all layers is one of the points."""
    options = run.options
    todo = [(n, m) for n in options["firsts"] for m in options["lasts"] if not run.finding.point(first=n, last=m)]
    with run.report.step("perplexity", 0, "windows", detail="first x last layers protected"):
        run.note_whole(run.whole)
        plan = with_first_and_last_protected(run.table, options["ratio"], options["strategy"], 0, 0)
        budget = int(plan.removed_parameters.sum())
        unprotected = run.losses(plan)
        for place, (first, last) in enumerate(todo):
            point = {"first": first, "last": last}
            try:
                plan = with_first_and_last_protected(run.table, options["ratio"], options["strategy"], first, last, budget)
            except PruningError as error:
                run.keep(point | {"reason": error.content})
                continue
            losses = run.losses(plan, place, len(todo))
            difference = _named(Rise.between(unprotected, losses))
            run.keep(point | _cut(plan) | _rise(run.whole, losses) | {"difference": difference})


# attention : MLP, strategies ------------------------------------------------------------------------------------------


def _split(run: _Run) -> None:
    """The same number of parameters shared differently between attention and MLP; `auto` is what the scores chose."""
    todo = [
        (ratio, split, plan)
        for ratio in run.options["ratios"]
        for split, plan in split_plans(run.table, ratio)
        if not run.finding.point(ratio=ratio, split=split)
    ]
    with run.report.step("perplexity", 0, "windows", detail="attention : MLP"):
        run.note_whole(run.whole)
        for place, (ratio, split, plan) in enumerate(todo):
            point = {"ratio": ratio, "split": split}
            if isinstance(plan, PruningError):
                run.keep(point | {"reason": plan.content})
            else:
                run.keep(point | _cut(plan) | _rise(run.whole, run.losses(plan, place, len(todo))))


def _strategies(run: _Run) -> None:
    """Layer-wise and global at one budget."""
    layers = run.experiment.read_layer_importance() if run.experiment.has(LAYERS_FILE) else None
    found = strategy_plans(run.table, run.options["ratio"], layers)
    with run.report.step("perplexity", 0, "windows", detail="two strategies"):
        run.note_whole(run.whole)
        kept, points = {}, []
        for place, (name, plan, seconds) in enumerate(found):
            kept[name] = run.losses(plan, place, len(found))
            points.append({"strategy": name, "plan_seconds": seconds} | _cut(plan) | _rise(run.whole, kept[name]))
        run.keep(*points, whole={"difference": _named(Rise.between(kept["layer"], kept["global"]))})


# inside a group, zeros or less ----------------------------------------------------------------------------------------


def _inside(run: _Run) -> None:
    """Lowest- and highest-scored groups of a layer: every token's loss with and without, and what channels write."""
    model, table, layer = run.loaded.model, run.table, run.options["layer"]
    tokens = run.loaded.tokenizer
    with run.report.step("perplexity", 0, "windows", detail="inside a group"):
        for rank, group in _extremes(table, layer, ATTENTION, 1):
            kept = np.ones(table.groups.size, dtype=bool)
            kept[table.groups.slice_of(layer, ATTENTION).start + group] = False
            plan = PruningPlan(table.shape, kept)
            losses = run.losses(plan)
            window = run.text.windows[int(np.argmax(losses - run.whole))]  # where it matters most, there is something to see
            before = token_losses(model, window)
            with masked(model, plan):
                after = token_losses(model, window)
            shown = {
                "tokens": [tokens.decode([i]) for i in window.tolist()],
                "before": before.tolist(),
                "after": after.tolist(),
            }
            run.keep({"kind": ATTENTION, "group": group, "rank": rank} | shown | _rise(run.whole, losses))
        for rank, channel in _extremes(table, layer, MLP, _SHOWN_CHANNELS):
            ids, raised = written_tokens(model, layer, channel, _SHOWN_TOKENS)
            written = {"tokens": [tokens.decode([i]) for i in ids], "raised": raised}
            run.keep({"kind": MLP, "group": channel, "rank": rank} | written)
    run.note_whole(run.whole)


def _extremes(table: GroupTable, layer: int, kind: str, count: int) -> Iterator[tuple[str, int]]:
    """(lowest or highest, index) of the groups of a block at both ends of its scores."""
    block = table.groups.slice_of(layer, kind)
    by_rank = np.argsort(table.rank_from_best[block])
    ends = {"lowest": by_rank[::-1][:count], "highest": by_rank[:count]}
    yield from ((rank, int(group)) for rank, groups in ends.items() for group in groups)


def _matrix(run: _Run) -> None:
    """One matrix with zeros in it, and the same matrix made smaller: memory and measured speed."""
    layer, share = run.options["layer"], run.options["share"]
    with run.report.step("statistics", detail="zeros or a smaller matrix"):
        weight = run.loaded.model.model.layers[layer].mlp.gate_proj.weight
        plan = lowest_of_layer(run.table, layer, (MLP,), share)
        kept = np.flatnonzero(plan.kept[run.table.groups.slice_of(layer, MLP)])
        run.keep(whole=matrix_sizes.compare(weight, kept))


_EXPERIMENTS = {
    findings.LAYERS: _layers,
    findings.PROTECTION: _protection,
    findings.TRAINED: _trained,
    findings.GRID: _grid,
    findings.SPLIT: _split,
    findings.STRATEGIES: _strategies,
    findings.INSIDE: _inside,
    findings.MATRIX: _matrix,
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


def _write_array(path, values: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, values)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, content.getvalue())


def learn(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Runs the sensitivity measurement that waits: how cuts change the loss, masked; the model is not cut."""
    loaded = load_model(experiment, report, settings, permissions)
    with report.step("baseline", detail="of the model as it is, on the windows of the experiment"):
        text = load_held_out(settings | {"eval_windows": asked(experiment).basis["windows"]}, loaded)
    find_out(experiment, report, loaded, text, 2 * settings["gradient_batch_size"])
