"""Runs that cut: load -> baseline -> measure -> plan -> cut -> describe -> evaluate -> save, and train where that is asked for.

prune        table, plan.json       ->  pruning_analysis.csv, metrics.json, samples.json, model/
whole_run    description.txt        ->  the same, measured and planned first
apply        a file of a person     ->  the same
baseline     description.txt        ->  metrics.json: perplexity of the model as it is"""

import contextlib
from functools import partial

from transformers import PreTrainedModel

from ..errors import Cancelled, PruningError
from ..experiment import PICTURE_FILE, REPAIR_FILE, RESULT_FILE, SAMPLES_FILE, Experiment
from ..export.formats import HF, parse_formats
from ..files import write_csv, write_json
from ..model.checkpoint import LoadedModel
from ..model.generation import continue_text
from ..model.held_out import HeldOutText
from ..model.surgery import cut
from ..planning.plan import PruningPlan
from ..planning.planner import plan_from_settings, settings_give
from ..planning.rounds import plan_in_rounds
from .context import forget_model, load_held_out, load_model, saved_dtype
from .export import make_formats
from .measure import Measurement
from .permissions import Permissions
from .picture import save_plan_picture
from .progress import RunReport
from .recover import repair_and_judge, repair_and_train, train_and_save, validation_perplexity
from .repair import repaired_weights
from .results import describe_cut, header_of, record_perplexity, save_and_check, say_empty_layers, say_plan, was_measured
from .streamed import apply_streamed, choose_plan
from .train import training_data


def prune(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Cuts by `plan.json`, describes and evaluates the result, saves it and checks that it loads again.

    In rounds (`iterative_steps`) the settings of that plan give another one, which replaces it. Raises PruningError when
    rounds are asked for and the plan is not one of the settings: what is cut then would not be what it says.
    """
    plan = experiment.read_plan()
    if settings["iterative_steps"] > 1:
        table, layers = experiment.read_table(), experiment.read_layer_importance()
        if not settings_give(plan, table, settings, layers):
            raise PruningError("rounds_of_fixed_plan", rounds=settings["iterative_steps"])
    loaded = load_model(experiment, report, settings, permissions)
    text = _held_out(settings, loaded)
    measurement = Measurement(experiment, settings, loaded.header) if settings["iterative_steps"] > 1 else None
    experiment.forget_result()  # not before it is sure that the new cut has all it needs
    _baseline(experiment, report, settings, loaded, text)
    if measurement is not None:
        plan = _select(experiment, report, settings, loaded, measurement)
    _cut_and_train(experiment, report, settings, loaded, plan, text, permissions)


def whole_run(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Everything in one go, as the command line does it: measure, plan by the settings, cut, evaluate, save."""
    if _went_on_with_recovery(experiment, report, settings, permissions) or _is_finished(experiment, report, settings):
        return
    loaded = load_model(experiment, report, settings, permissions)
    measurement = Measurement(experiment, settings, loaded.header, layers_where_needed=True)
    text = _held_out(settings, loaded)
    _baseline(experiment, report, settings, loaded, text)
    measurement.run(report, loaded)
    plan = _select(experiment, report, settings, loaded, measurement)
    _cut_and_train(experiment, report, settings, loaded, plan, text, permissions)


def apply(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Cuts by a file that a person made or edited: rows that go, a table to plan from, or a plan."""
    if settings["stream"]:
        apply_streamed(experiment, report, settings, permissions)
        return
    if _went_on_with_recovery(experiment, report, settings, permissions) or _is_finished(experiment, report, settings):
        return
    loaded = load_model(experiment, report, settings, permissions)
    text = _held_out(settings, loaded)
    _baseline(experiment, report, settings, loaded, text)
    report.skip("gradients", "a file says what goes")
    plan = choose_plan(experiment, report, settings, loaded.header)
    _cut_and_train(experiment, report, settings, loaded, plan, text, permissions)


def baseline(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Perplexity of the model as it is, and nothing else."""
    loaded = load_model(experiment, report, settings, permissions)
    _baseline(experiment, report, settings, loaded, _held_out(settings, loaded))


def _baseline(experiment: Experiment, report: RunReport, settings: dict, loaded: LoadedModel, text: HeldOutText | None) -> None:
    if not settings["test_before_prune"]:
        report.skip("baseline")
        return
    if settings["resume"] and was_measured(experiment, "before", text):
        report.skip("baseline", "measured before the run was stopped")
        return
    with report.step("baseline", len(text.windows), "windows"):
        record_perplexity(experiment, report, "before", loaded.model, text, settings)


def _select(
    experiment: Experiment, report: RunReport, settings: dict, loaded: LoadedModel, measurement: Measurement
) -> PruningPlan:
    """The plan that the settings give, written down; in rounds where that is asked for."""
    if settings["resume"] and settings["iterative_steps"] > 1 and experiment.is_planned:
        report.skip("selection", "planned in rounds before the run was stopped")
        return experiment.read_plan()
    table, layers = experiment.read_table(), experiment.read_layer_importance()
    planned = None
    if settings["iterative_steps"] > 1:
        planned, table = plan_in_rounds(table, settings, layers, partial(measurement.again, report, loaded), report.say)
    with report.step("selection"):
        planned = planned or plan_from_settings(table, settings, layers)
        experiment.write_plan(planned.plan, table, planned.rates)
        say_plan(report, planned.plan)
    return planned.plan


def _cut_and_train(
    experiment: Experiment,
    report: RunReport,
    settings: dict,
    loaded: LoadedModel,
    plan: PruningPlan,
    text: HeldOutText | None,
    permissions: Permissions,
) -> None:
    """Cuts, and trains the cut model where that is asked for; a training that fails leaves the cut as it is."""
    if settings["finetune"]:
        data = training_data(settings, loaded, text)  # a fault in the text is said before an hour of work
        before = validation_perplexity(report, settings, loaded.model, data)
        pruned = _cut_and_judge(experiment, report, settings, loaded, plan, text)
        save = settings["save_model"]
        with experiment.draft() as draft:
            train_and_save(experiment, draft, report, settings, loaded, pruned, data, text, before, permissions, save, plan)
    else:
        _cut_and_judge(experiment, report, settings, loaded, plan, text)
    if settings["save_model"]:
        _make_other_formats(experiment, report, settings)


def _cut_and_judge(
    experiment: Experiment,
    report: RunReport,
    settings: dict,
    loaded: LoadedModel,
    plan: PruningPlan,
    text: HeldOutText | None,
) -> PreTrainedModel:
    """Cuts, describes, evaluates and saves; a cut that fails leaves nothing of its result."""
    try:
        written = {"prompt": settings["prompt"], "before": continue_text(loaded.model, loaded.tokenizer, settings["prompt"])}
        source = loaded.header if loaded.header.tensors else header_of(loaded.model, loaded)
        with report.step("cut"):
            forget_model()  # the cut takes the source's weights apart as it goes
            pruned = cut(loaded.model, plan, release_source=not settings["reconstruct"])  # a repair compares with it
        say_empty_layers(report, plan)
        matrices = describe_cut(
            experiment, report, loaded.header, source, header_of(pruned, loaded), plan, saved_dtype(loaded, settings)
        )
        if settings["test_after_prune"]:
            with report.step("perplexity", len(text.windows), "windows"):
                record_perplexity(experiment, report, "after", pruned, text, settings)
        else:
            report.skip("perplexity")
        written["after"] = continue_text(pruned, loaded.tokenizer, settings["prompt"])
        write_json(experiment.path(SAMPLES_FILE), {"format_version": 1} | written)
        if settings["reconstruct"]:
            judged_on = text if settings["test_after_prune"] else None
            repaired = repair_and_judge(experiment, report, settings, loaded, pruned, plan, judged_on)
            experiment.write(repaired, REPAIR_FILE)
        elif not settings["finetune"]:
            report.skip("recovery")
        save_plan_picture(plan, experiment.path(PICTURE_FILE))
        if settings["save_model"]:
            save_and_check(experiment, report, loaded, pruned, settings, plan, repaired_weights(experiment))
        else:
            report.skip("save")
        write_csv(experiment.path(RESULT_FILE), matrices)  # last: it says that the cut is complete
        return pruned
    except BaseException:
        with contextlib.suppress(PruningError):  # a full disk is what may have brought us here
            experiment.forget_result()
        raise


def _is_finished(experiment: Experiment, report: RunReport, settings: dict) -> bool:
    is_whole = experiment.is_cut and (experiment.is_saved or not settings["save_model"])
    is_finished = settings["resume"] and is_whole and (experiment.is_recovered or not settings["finetune"])
    if is_finished:
        report.say("    this run is complete; nothing is left to do")
    return is_finished


def _went_on_with_recovery(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions) -> bool:
    """Whether the run had saved its cut before it was stopped, so that only its training was left; that is done then."""
    is_left = settings["resume"] and settings["finetune"] and experiment.is_recoverable and not experiment.is_recovered
    if is_left:
        repair_and_train(experiment, report, settings, permissions)
        _make_other_formats(experiment, report, settings)
    return is_left


def _held_out(settings: dict, loaded: LoadedModel) -> HeldOutText | None:
    """The text for perplexity; None when none is asked for."""
    if not (settings["test_before_prune"] or settings["test_after_prune"] or settings["finetune"]):
        return None
    return load_held_out(settings, loaded)


def _make_other_formats(experiment: Experiment, report: RunReport, settings: dict) -> None:
    """What `save_format` asks for beside the folder. If one cannot be made, that is logged, and the run still succeeds."""
    for name in parse_formats(settings["save_format"]):
        if name != HF:
            try:
                make_formats(experiment, report, settings, (name,), settings["max_shard_size"])
            except Cancelled:
                raise
            except PruningError as error:
                report.say(f"    {name}: {error}")
