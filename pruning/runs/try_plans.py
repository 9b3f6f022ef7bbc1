"""Tries plans without cutting: masked perplexity on held-out text, one plan after the other, each kept as it comes."""

import math
import time
from dataclasses import replace

from ..errors import PruningError
from ..model.checkpoint import LoadedModel
from ..model.held_out import HeldOutText, perplexity
from ..model.masking import masked
from ..planning.group_table import GroupTable
from ..planning.layer_importance import LayerImportance
from ..planning.plan import PruningPlan
from ..planning.planner import plan_from_settings
from ..settings import Settings, merged
from .context import Run, load_held_out, load_model
from .progress import Progress
from .trials import WHOLE, Trial, Waiting, asked_for, find_by_digest, read_trials, write_trials


def try_waiting(run: Run, loaded: LoadedModel, text: HeldOutText) -> None:
    """Tries the plans that the run is asked to, and the model as it is; what was tried on this text is left out."""
    waiting, judged_by = asked_for(run.request)
    table, layers = run.experiment.read_table(), run.experiment.read_layer_importance()
    trials = read_trials(run.experiment)
    windows = len(text.windows)
    total = windows * (len(waiting) + 1)

    def judged(trial: Trial, plan: PruningPlan, place: int) -> Trial:
        """The trial with its perplexity: measured, or that of an equal plan."""
        known = find_by_digest(trials, trial.digest, judged_by)
        if known and not known.reason:
            run.progress.advance(windows * (place + 1), total)
            return replace(trial, perplexity=known.perplexity, basis=known.basis, seconds=known.seconds)
        started = time.time()
        with masked(loaded.model, plan) as model:
            value = perplexity(
                model, text.windows, run.batch_size, lambda done, _: run.progress.advance(windows * place + done, total)
            )
        return replace(
            trial, perplexity=value if math.isfinite(value) else None, basis=text.basis, seconds=time.time() - started
        )

    whole = PruningPlan.keep_all(table.shape, fingerprint=table.source.get("fingerprint"))
    if find_by_digest(trials, WHOLE, judged_by) is None:
        trials.append(judged(Trial(WHOLE, {}, judged_by, parameters=whole.shape.parameters), whole, 0))
        write_trials(run.experiment, trials)
    for place, one in enumerate(waiting, start=1):
        trial, plan = _planned(one, table, layers, judged_by)
        if plan is not None:
            trial = judged(trial, plan, place)
        trials = [t for t in trials if (t.settings, t.judged_by) != (trial.settings, judged_by)] + [trial]
        write_trials(run.experiment, trials)
        _say(run.progress, trial)


def _planned(
    waiting: Waiting, table: GroupTable, layers: LayerImportance | None, judged_by: dict
) -> tuple[Trial, PruningPlan | None]:
    """The trial still without its perplexity, and its plan; no plan where the settings ask for the impossible."""
    try:
        if waiting.plan is not None:
            plan = PruningPlan.from_json(waiting.plan, table.shape, table.source.get("fingerprint"))
        else:
            plan = plan_from_settings(table, merged(Settings(), waiting.settings), layers).plan
    except PruningError as error:
        return Trial("", waiting.settings, judged_by, reason=str(error), table=table.digest), None
    after = plan.shape_after.parameters
    found = {"actual_ratio": plan.actual_ratio, "parameters": after, "table": table.digest}
    return Trial(plan.digest, waiting.settings, judged_by, **found), plan


def _say(progress: Progress, trial: Trial) -> None:
    asked = f"ratio {trial.settings.get('pruning_ratio', 0):.0%}, split {trial.settings.get('pruning_distribution', 'auto')}"
    if trial.reason:
        progress.say(f"    {asked}: {trial.reason}")
    else:
        shown = "infinite" if trial.perplexity is None else f"{trial.perplexity:.2f}"
        progress.say(f"    {asked}: {trial.actual_ratio:.2%} go, perplexity {shown}")


def try_plans(run: Run) -> None:
    """Perplexity of the plans that are asked for, masked; the model is not cut."""
    loaded = load_model(run)
    with run.progress.step("perplexity", 0, "windows", detail="masked"):
        text = load_held_out(replace(run.settings, **asked_for(run.request)[1]), loaded)
        try_waiting(run, loaded, text)
