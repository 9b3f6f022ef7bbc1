"""Recovery as part of a run and as a job of its own: repair and train a cut model, judge it, save it, or leave the cut one.

    cut_model/ (as it was cut, and repaired)  --repair, train-->  a draft  --checked-->  model/ and all that describes it

A job that fails, is killed or is cancelled leaves model/ and all figures as they were, and continues when it is started again.
One that is refused also leaves an earlier training that was stopped, with the settings to continue it.
"""

import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from ..errors import Cancelled, PruningError
from ..experiment import ADAPTER_FOLDER, COST_FILE, CUT_MODEL_FOLDER, RECOVERY_FILE, REPAIR_FILE, SAMPLES_FILE, Experiment
from ..files import read_json, write_json
from ..model import processes
from ..model.checkpoint import LoadedModel, load, open_checkpoint
from ..model.generation import continue_text
from ..model.held_out import HeldOutText, perplexity
from ..model.repair import undo_repair
from ..model.runtime import free_bytes, resolve_device
from ..model.training import check_targets, trained_weights
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.plan import PruningPlan
from ..planning.recovery_cost import recovery_cost
from ..settings import Settings
from ..words import counted, readable_duration
from .context import Run, load_held_out, saved_dtype
from .measured_cost import FORMAT_VERSION as COST_VERSION
from .permissions import Permissions
from .recovery_settings import OF_A_MEASUREMENT, needs_repair
from .repair import repair, repaired_weights, seconds_of_repair, text_of_repair
from .requests import forget_request, settings_asked_for
from .results import record_perplexity, round_as_saved, save_and_check, was_measured
from .train import (
    STOPPED,
    Baseline,
    TrainingData,
    assist_training,
    earlier_training,
    is_trained,
    measure_seconds,
    refuse_to_give_up,
    train_cut_model,
    training_data,
    training_from_settings,
    training_in_short,
    warn_of_shared_text,
    write_history,
)


def recover(run: Run) -> None:
    """The job: does what was asked for, or else what the settings say, as a run goes on with its training."""
    try:
        repair_and_train(run.by(replace(run.settings, **settings_asked_for(run.experiment, "recover"))))
    except (Cancelled, KeyboardInterrupt):
        raise  # what was asked for may be gone on with
    except Exception:
        forget_request(run.experiment)
        raise
    forget_request(run.experiment)


def repair_and_train(run: Run) -> None:
    """Repairs (`reconstruct`) and trains (`finetune`) the model that a cut saved, and puts the result in its place.

    Goes on with a training of the same settings that was stopped. A cancel during the training saves the best state so far.
    """
    with run.experiment.draft() as draft:
        ready = None
        try:
            ready = _prepare(run, draft)
        finally:
            # the others wait for it
            processes.from_first((run.settings, _cut_model_folder(run.experiment, draft)) if ready else None)
        if ready:
            train_and_save(run, draft, *ready, run.permissions)


def _prepare(
    run: Run, draft: Experiment
) -> tuple[LoadedModel, PreTrainedModel, TrainingData, HeldOutText, float | None] | None:
    """All that comes before the training, and what the training begins with; None where none is left to do."""
    if not (run.settings.reconstruct or run.settings.finetune):
        raise PruningError("recover_nothing")
    if not run.experiment.is_recoverable:
        raise PruningError("step_needs", step="recovery", needed="a cut with a saved model")
    repairs = needs_repair(run.experiment, run.settings)
    is_done = run.settings.resume and not repairs and is_trained(run.experiment, run.settings)
    trains = run.settings.finetune and not is_done
    if not (repairs or trains):
        run.progress.say("    this recovery came to its end; nothing is left to do")
        return None
    with run.progress.step("load"):
        loaded = _load_from(run.experiment.keep_cut_model(), run.settings)
        repaired = ", repaired" if run.experiment.has(REPAIR_FILE) else ""
        run.progress.say(f"    the cut model{repaired}: {loaded.header.shape.parameters:,} parameters")
    text = load_held_out(run.settings, loaded)
    data = training_data(run.settings, loaded, text) if trains else None
    _refuse_what_cannot_be(run.experiment, run.settings, loaded, repairs, trains, run.permissions)
    if not run.settings.overwrite:
        refuse_to_give_up(run.experiment, run.settings, data, repairs or run.experiment.has(REPAIR_FILE))
        if not trains and run.experiment.has(RECOVERY_FILE):
            raise PruningError("repair_replaces")
    for each in (run.experiment, draft):
        each.write_settings(replace(run.settings, resume=False, dry_run=False, overwrite=False))
    forget_request(run.experiment)
    line = _judge_missing(run, draft, loaded, text, data)
    if repairs:
        _repair_cut_model(run, draft, loaded, text)
        if not (trains and run.experiment.has(RECOVERY_FILE)):  # else a trained model stands there, until the next one is kept
            run.experiment.take(draft)
            run.experiment.forget_checkpoints()  # of a training that began without the repair
    return (loaded, loaded.model, data, text, line) if data else None


def _refuse_what_cannot_be(
    experiment: Experiment, settings: Settings, loaded: LoadedModel, repairs: bool, trains: bool, permissions: Permissions
) -> None:
    """Raises PruningError for what would else be found after an hour of work, or when a stopped training is gone already."""
    if trains:
        check_targets(loaded.model, training_from_settings(settings, 1))
    if repairs or (trains and settings.distill_weight):
        _source_header(experiment, settings, permissions)
    if repairs:
        text_of_repair(settings, loaded)


def _repair_cut_model(run: Run, draft: Experiment, loaded: LoadedModel, text: HeldOutText) -> None:
    """Repairs the loaded model, judges and saves it: model and cut model of the draft are the repaired one."""
    source = _source(run.experiment, run.settings, run.permissions)
    if run.experiment.has(REPAIR_FILE):
        run.progress.say("    the repair that was made before is undone first")
        undo_repair(source.model, loaded.model, run.experiment.read_plan())
    content = repair_and_judge(run.on(draft), source, loaded.model, run.experiment.read_plan(), text)
    draft.write(content, REPAIR_FILE)
    save_and_check(run.on(draft), loaded, loaded.model, changed=repaired_weights(draft))
    draft.keep_cut_model()


def assist(experiment: Experiment, permissions: Permissions = Permissions()) -> None:
    """What the other processes of `accelerate launch` do in `recover`: wait for the training, and take part in it."""
    asked = processes.from_first(None)
    if asked is None:  # the first process needed no training
        return
    settings, cut_model = asked
    loaded = _load_from(cut_model, settings)
    data = training_data(settings, loaded, load_held_out(settings, loaded))
    assist_training(experiment, settings, loaded.model, data, partial(_teacher, experiment, settings, permissions))


def measure_cost(run: Run) -> None:
    """Writes recovery_cost.json: what the recovery would take that this file asks for, or else the settings.

    Changes nothing else: the settings stay those of the run that left them, which may be gone on with.
    """
    asked = replace(run.settings, **settings_asked_for(run.experiment, "cost"))
    with run.progress.step("recovery", detail="a short measurement of what it takes"):
        cost = cost_of_recovery(run.experiment, asked, run.permissions)
        measured_with = asked.of(OF_A_MEASUREMENT)
        run.experiment.write({"format_version": COST_VERSION, "settings": measured_with} | cost, COST_FILE)
        if cost["repair_seconds"] is not None:
            run.progress.say(f"    the repair about {readable_duration(cost['repair_seconds'])}")
        if asked.finetune:
            run.progress.say(f"    {counted(cost['steps'], 'step')}, about {readable_duration(cost['seconds'])}")


def cost_of_recovery(experiment: Experiment, settings: Settings, permissions: Permissions = Permissions()) -> dict:
    """What the settings ask for takes: bytes that are free where it computes (`device`), seconds of the repair, and of a
    training parameters, bytes at the peak, windows, tokens, steps and seconds, from a step and an evaluation that are timed.

    `repair_seconds` is None where none is asked for, or done already.
    """
    if not experiment.is_recoverable:
        raise PruningError("step_needs", step="recovery", needed="a cut with a saved model")
    device = resolve_device(settings.device)
    here = {"device": device.type, "free_bytes": free_bytes(settings.device)}
    loaded = load(open_checkpoint(str(experiment.cut_model_folder)), settings)
    repairs = needs_repair(experiment, settings)
    distils = settings.finetune and settings.distill_weight
    source = _source(experiment, settings, permissions) if repairs or distils else None
    seconds = seconds_of_repair(settings, source, loaded.model, experiment.read_plan()) if repairs else None
    cost = here | {"repair_seconds": seconds}
    if not settings.finetune:
        return cost
    data = training_data(settings, loaded, load_held_out(settings, loaded))
    training = recovery_cost(
        loaded.header.shape, experiment.shape(), settings, len(data.text), loaded.model.dtype.itemsize, processes.count()
    )
    timed = measure_seconds(settings, loaded.model, data, source.model if distils else None)
    return cost | asdict(training) | {"memory_bytes": training.memory_bytes, "windows": len(data.text)} | timed


def repair_and_judge(
    run: Run, source: LoadedModel, pruned: PreTrainedModel, plan: PruningPlan, text: HeldOutText | None
) -> dict:
    """Repairs a cut model; records its perplexity where there is a text, and what it writes. Returns repair.json."""
    if text is not None:
        warn_of_shared_text(run, "repaired", run.settings.corpus)
    content = repair(run, source, pruned, plan)
    run.experiment.update_metrics(repair={"matrices": len(content["matrices"]), "tokens": content["calibration"]["tokens"]})
    if text is not None:
        with run.progress.step("recovery", len(text.windows), "windows", detail="perplexity of the repaired model"):
            record_perplexity(run, "repaired", pruned, text)
        cut, repaired = (_perplexity_of(run.experiment, stage) for stage in ("after", "repaired"))
        if cut is not None and repaired is not None and repaired > cut:
            worse = f"{cut:.2f} -> {repaired:.2f}"
            run.progress.say(f"    the repair made perplexity worse ({worse}): try more reconstruct_tokens")
    _write_sample(run.experiment, "repaired", pruned, source, run.settings)
    return content


def _perplexity_of(experiment: Experiment, stage: str) -> float | None:
    """The perplexity of a stage in metrics.json; None where it was not measured, math.inf where it is not finite."""
    for value in experiment.metrics().get("perplexity", {}).get(stage, {}).values():
        return math.inf if value is None else value
    return None


def train_and_save(
    run: Run,
    draft: Experiment,
    loaded: LoadedModel,
    pruned: PreTrainedModel,
    data: TrainingData,
    text: HeldOutText,
    perplexity_before: float | None,
    save: bool = True,
    plan: PruningPlan | None = None,
) -> None:
    """Trains `pruned`, evaluates and saves the result, and replaces what is there by it; raises Cancelled after
    that where training was cancelled. `plan`: how `loaded` was cut, where it is the model before the cut.
    """
    if save:
        run.experiment.keep_cut_model()
    warn_of_shared_text(run.on(draft), "recovered", run.settings.finetune_corpus or run.settings.corpus)
    baseline = Baseline(perplexity_before, draft.has(REPAIR_FILE))
    teacher = partial(_teacher, run.experiment, run.settings, run.permissions)
    again = partial(_model_as_cut, run.experiment, draft, run.settings)
    adapter = draft.path(ADAPTER_FOLDER)
    # What the adapter says that it loads onto; where no model is saved, the plan makes it again.
    pruned.name_or_path = pruned.config.name_or_path = CUT_MODEL_FOLDER
    result, history = train_cut_model(run, pruned, data, baseline, teacher, again, adapter)
    round_as_saved(result.model, saved_dtype(loaded, run.settings))
    with run.progress.step("recovery", len(text.windows), "windows", detail="perplexity of the recovered model"):
        record_perplexity(run.on(draft), "recovered", result.model, text)
    _write_sample(draft, "recovered", result.model, loaded, run.settings)
    draft.update_metrics(recovery=training_in_short(run.settings, data, result))
    draft.write(history, RECOVERY_FILE)
    if result.was_cancelled and _is_no_better(draft, run.experiment):
        run.progress.say("    the model that was recovered before is as good or better, so it stays")
        write_history(run.experiment, history | {"state": STOPPED})
        raise Cancelled()
    if save:
        changed = repaired_weights(draft) | trained_weights(result.model, training_from_settings(run.settings, len(data.text)))
        save_and_check(run.on(draft), loaded, result.model, plan, changed)
    run.experiment.take(draft)
    if result.was_cancelled:
        write_history(run.experiment, history)  # its checkpoint stays, to go on from
        raise Cancelled()
    run.experiment.forget_checkpoints()


def _is_no_better(draft: Experiment, experiment: Experiment) -> bool:
    """Whether model/ is a recovered one that is as good as the one in the draft, on the same text."""
    if not experiment.has(RECOVERY_FILE) or draft.metrics().get("basis") != experiment.metrics().get("basis"):
        return False
    ours, theirs = _perplexity_of(draft, "recovered"), _perplexity_of(experiment, "recovered")
    return theirs is not None and ours >= theirs


# parts ----------------------------------------------------------------------------------------------------------------


def _load_from(folder: Path, settings: Settings) -> LoadedModel:
    return load(open_checkpoint(str(folder)), _on_own_device(settings))


def _cut_model_folder(experiment: Experiment, draft: Experiment) -> Path:
    """The model that training begins with: as it was cut, or repaired in this draft."""
    return (draft if draft.has(CUT_MODEL_FOLDER) else experiment).cut_model_folder


def _model_as_cut(experiment: Experiment, draft: Experiment, settings: Settings) -> PreTrainedModel:
    return _load_from(_cut_model_folder(experiment, draft), settings).model


def _source(experiment: Experiment, settings: Settings, permissions: Permissions) -> LoadedModel:
    """The model before the cut; raises PruningError when it is not there any more, or another one stands there."""
    header = _source_header(experiment, settings, permissions)
    return load(header, _on_own_device(settings), permissions.trust_remote_code)


def _source_header(experiment: Experiment, settings: Settings, permissions: Permissions) -> CheckpointHeader:
    header = open_checkpoint(settings.base_model, permissions.token, permissions.trust_remote_code)
    known = experiment.description()["fingerprint"]
    if header.fingerprint != known:
        raise PruningError("plan_other_model", path=experiment.folder, found=known[:12], expected=header.fingerprint[:12])
    return header


def _teacher(experiment: Experiment, settings: Settings, permissions: Permissions) -> PreTrainedModel:
    return _source(experiment, settings, permissions).model


def _on_own_device(settings: Settings) -> Settings:
    return replace(settings, device=processes.device(settings.device))


def _judge_missing(
    run: Run, draft: Experiment, loaded: LoadedModel, text: HeldOutText, data: TrainingData | None
) -> float | None:
    """Records in the draft perplexities that the cut did not, and returns the unpruned model's on the validation windows.

    None where nothing is trained, or where the unpruned model is not there any more.
    """
    stage = "repaired" if run.experiment.has(REPAIR_FILE) else "after"
    if not was_measured(draft, stage, text):
        with run.progress.step("perplexity", len(text.windows), "windows"):
            record_perplexity(run.on(draft), stage, loaded.model, text)
        _note(run.experiment, draft, stage)
    if data is None:
        return None
    earlier = earlier_training(run.experiment) or {}
    if earlier.get("validation") == data.validated_on:
        return earlier["lines"]["before"]
    try:
        source = _source(run.experiment, run.settings, run.permissions)
    except PruningError as error:
        run.progress.say(f"    no line for the model before the cut: {error}")
        return None
    if not was_measured(draft, "before", text):
        with run.progress.step("baseline", len(text.windows), "windows"):
            record_perplexity(run.on(draft), "before", source.model, text)
        _note(run.experiment, draft, "before")
    return validation_perplexity(run, source.model, data)


def _note(experiment: Experiment, draft: Experiment, stage: str) -> None:
    """What was measured of a model that stays as it is holds whatever becomes of this recovery."""
    figures = draft.metrics()
    if experiment.metrics().get("basis", figures["basis"]) == figures["basis"]:
        experiment.update_metrics(basis=figures["basis"], perplexity={stage: figures["perplexity"][stage]})


def validation_perplexity(run: Run, model: PreTrainedModel, data: TrainingData) -> float:
    """Perplexity of the unpruned model on the validation windows: the line that a training is held against."""
    with run.progress.step("baseline", len(data.validation), "windows", detail="on validation text"):
        return perplexity(model, data.validation, run.batch_size, run.progress.advance)


def _write_sample(experiment: Experiment, stage: str, model: PreTrainedModel, loaded: LoadedModel, settings: Settings) -> None:
    path = experiment.path(SAMPLES_FILE)
    written = read_json(path, 1) if path.exists() else {"format_version": 1, "prompt": settings.prompt}
    write_json(path, written | {stage: continue_text(model, loaded.tokenizer, written["prompt"])})
