"""Runs that cut: load -> baseline -> measure -> plan -> cut -> describe -> evaluate -> save, and train where that is asked for.

prune        table, plan.json       ->  pruning_analysis.csv, metrics.json, samples.json, model/
whole_run    description.txt        ->  the same, measured and planned first
apply        a file of a person     ->  the same
baseline     description.txt        ->  metrics.json: perplexity of the model as it is"""

import contextlib
from dataclasses import replace
from functools import partial

from transformers import PreTrainedModel

from ..errors import Cancelled, PruningError
from ..experiment import PICTURE_FILE, REPAIR_FILE, RESULT_FILE, SAMPLES_FILE
from ..export.formats import HF, parse_formats
from ..files import write_csv, write_json
from ..model.checkpoint import LoadedModel
from ..model.generation import continue_text
from ..model.held_out import HeldOutText
from ..model.surgery import cut
from ..planning.plan import PruningPlan
from ..planning.planner import plan_from_settings, settings_give
from ..planning.rounds import plan_in_rounds
from ..settings import Settings
from .context import Run, forget_model, load_held_out, load_model, saved_dtype
from .export import make_formats
from .measure import Measurement
from .picture import save_plan_picture
from .recover import repair_and_judge, repair_and_train, train_and_save, validation_perplexity
from .repair import repaired_weights
from .requests import settings_asked_for
from .results import describe_cut, header_of, record_perplexity, save_and_check, say_empty_layers, say_plan, was_measured
from .streamed import apply_streamed, choose_plan
from .train import training_data


def prune(run: Run) -> None:
    """Cuts by `plan.json` as the request asks, describes and evaluates the result, saves it and checks that it loads again.

    In rounds (`iterative_steps`) the settings of that plan give another one, which replaces it. Raises PruningError when
    rounds are asked for and the plan is not one of the settings: what is cut then would not be what it says.
    """
    if asked := settings_asked_for(run.experiment, "prune"):
        run = run.by(replace(run.settings, **asked))
        run.experiment.write_settings(replace(run.settings, resume=False))
    plan = run.experiment.read_plan()
    if run.settings.iterative_steps > 1:
        table, layers = run.experiment.read_table(), run.experiment.read_layer_importance()
        if not settings_give(plan, table, run.settings, layers):
            raise PruningError("rounds_of_fixed_plan", rounds=run.settings.iterative_steps)
    loaded = load_model(run)
    text = _held_out(run.settings, loaded)
    measurement = Measurement(run.experiment, run.settings, loaded.header) if run.settings.iterative_steps > 1 else None
    run.experiment.forget_result()  # not before it is sure that the new cut has all it needs
    _baseline(run, loaded, text)
    if measurement is not None:
        plan = _select(run, loaded, measurement)
    _cut_and_train(run, loaded, plan, text)


def whole_run(run: Run) -> None:
    """Everything in one go, as the command line does it: measure, plan by the settings, cut, evaluate, save."""
    if _went_on_with_recovery(run) or _is_finished(run):
        return
    loaded = load_model(run)
    measurement = Measurement(run.experiment, run.settings, loaded.header, layers_where_needed=True)
    text = _held_out(run.settings, loaded)
    _baseline(run, loaded, text)
    measurement.run(run.progress, loaded)
    plan = _select(run, loaded, measurement)
    _cut_and_train(run, loaded, plan, text)


def apply(run: Run) -> None:
    """Cuts by a file that a person made or edited: rows that go, a table to plan from, or a plan."""
    if run.settings.stream:
        apply_streamed(run)
        return
    if _went_on_with_recovery(run) or _is_finished(run):
        return
    loaded = load_model(run)
    text = _held_out(run.settings, loaded)
    _baseline(run, loaded, text)
    run.progress.skip("gradients", "a file says what goes")
    plan = choose_plan(run, loaded.header)
    _cut_and_train(run, loaded, plan, text)


def baseline(run: Run) -> None:
    """Perplexity of the model as it is, and nothing else."""
    loaded = load_model(run)
    _baseline(run, loaded, _held_out(run.settings, loaded))


def _baseline(run: Run, loaded: LoadedModel, text: HeldOutText | None) -> None:
    if not run.settings.test_before_prune:
        run.progress.skip("baseline")
        return
    if run.settings.resume and was_measured(run.experiment, "before", text):
        run.progress.skip("baseline", "measured before the run was stopped")
        return
    with run.progress.step("baseline", len(text.windows), "windows"):
        record_perplexity(run, "before", loaded.model, text)


def _select(run: Run, loaded: LoadedModel, measurement: Measurement) -> PruningPlan:
    """The plan that the settings give, written down; in rounds where that is asked for."""
    if run.settings.resume and run.settings.iterative_steps > 1 and run.experiment.is_planned:
        run.progress.skip("selection", "planned in rounds before the run was stopped")
        return run.experiment.read_plan()
    table, layers = run.experiment.read_table(), run.experiment.read_layer_importance()
    planned = None
    if run.settings.iterative_steps > 1:
        planned, table = plan_in_rounds(
            table, run.settings, layers, partial(measurement.again, run.progress, loaded), run.progress.say
        )
    with run.progress.step("selection"):
        planned = planned or plan_from_settings(table, run.settings, layers)
        run.experiment.write_plan(planned.plan, table, planned.rates)
        say_plan(run.progress, planned.plan)
    return planned.plan


def _cut_and_train(run: Run, loaded: LoadedModel, plan: PruningPlan, text: HeldOutText | None) -> None:
    """Cuts, and trains the cut model where that is asked for; a training that fails leaves the cut as it is."""
    if run.settings.finetune:
        data = training_data(run.settings, loaded, text)  # a fault in the text is said before an hour of work
        before = validation_perplexity(run, loaded.model, data)
        pruned = _cut_and_judge(run, loaded, plan, text)
        save = run.settings.save_model
        with run.experiment.draft() as draft:
            train_and_save(run, draft, loaded, pruned, data, text, before, save, plan)
    else:
        _cut_and_judge(run, loaded, plan, text)
    if run.settings.save_model:
        _make_other_formats(run)


def _cut_and_judge(run: Run, loaded: LoadedModel, plan: PruningPlan, text: HeldOutText | None) -> PreTrainedModel:
    """Cuts, describes, evaluates and saves; a cut that does not come to its end leaves nothing of its result."""
    try:
        written = {
            "prompt": run.settings.prompt,
            "before": continue_text(loaded.model, loaded.tokenizer, run.settings.prompt),
        }
        source = loaded.header if loaded.header.tensors else header_of(loaded.model, loaded)
        with run.progress.step("cut"):
            forget_model()  # the cut takes the source's weights apart as it goes
            pruned = cut(loaded.model, plan, release_source=not run.settings.reconstruct)  # a repair compares with it
        say_empty_layers(run.progress, plan)
        matrices = describe_cut(run, loaded.header, source, header_of(pruned, loaded), plan, saved_dtype(loaded, run.settings))
        if run.settings.test_after_prune:
            with run.progress.step("perplexity", len(text.windows), "windows"):
                record_perplexity(run, "after", pruned, text)
        else:
            run.progress.skip("perplexity")
        written["after"] = continue_text(pruned, loaded.tokenizer, run.settings.prompt)
        write_json(run.experiment.path(SAMPLES_FILE), {"format_version": 1} | written)
        if run.settings.reconstruct:
            judged_on = text if run.settings.test_after_prune else None
            repaired = repair_and_judge(run, loaded, pruned, plan, judged_on)
            run.experiment.write(repaired, REPAIR_FILE)
        elif not run.settings.finetune:
            run.progress.skip("recovery")
        save_plan_picture(plan, run.experiment.path(PICTURE_FILE))
        if run.settings.save_model:
            save_and_check(run, loaded, pruned, plan, repaired_weights(run.experiment))
        else:
            run.progress.skip("save")
        write_csv(run.experiment.path(RESULT_FILE), matrices)  # last: it says that the cut came to its end
        return pruned
    except BaseException:
        with contextlib.suppress(PruningError):  # a full disk is what may have brought us here
            run.experiment.forget_result()
        raise


def _is_finished(run: Run) -> bool:
    is_whole = run.experiment.is_cut and (run.experiment.is_saved or not run.settings.save_model)
    is_finished = run.settings.resume and is_whole and (run.experiment.is_recovered or not run.settings.finetune)
    if is_finished:
        run.progress.say("    this run came to its end; nothing is left to do")
    return is_finished


def _went_on_with_recovery(run: Run) -> bool:
    """Whether the run had saved its cut before it was stopped, so that only its training was left; that is done then."""
    is_left = (
        run.settings.resume and run.settings.finetune and run.experiment.is_recoverable and not run.experiment.is_recovered
    )
    if is_left:
        repair_and_train(run)
        _make_other_formats(run)
    return is_left


def _held_out(settings: Settings, loaded: LoadedModel) -> HeldOutText | None:
    """The text for perplexity; None when none is asked for."""
    if not (settings.test_before_prune or settings.test_after_prune or settings.finetune):
        return None
    return load_held_out(settings, loaded)


def _make_other_formats(run: Run) -> None:
    """What `save_format` asks for beside the folder. One that cannot be made is told; the run is done all the same."""
    for name in parse_formats(run.settings.save_format):
        if name != HF:
            try:
                make_formats(run, (name,), run.settings.max_shard_size)
            except Cancelled:
                raise
            except PruningError as error:
                run.progress.say(f"    {name}: {error}")
