"""The steps of the road: load -> measure -> plan -> cut -> describe -> evaluate -> save. Each reads and writes the folder.

    measure   description.txt            ->  global_group_table.csv, layer_importance_config.json
    try       plans that wait            ->  trials.json: masked perplexity of each
    learn     an experiment that waits   ->  sensitivity/: what cuts do to the loss, masked
    prune     table, plan.json           ->  pruning_analysis.csv, metrics.json, samples.json, model/
    recover   model/                     ->  model/ (the cut one goes to cut_model/), recovery.json, adapter/, repair.json
    cost      model/                     ->  recovery_cost.json: what the training asked for would take
    pack      model/                     ->  model.zip
    export    model/, export.json        ->  *.gguf, pytorch_model.bin, model-<dtype>/: exporting.py

The app runs them one by one in its worker; the command line runs them in one go. Same steps, same files.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from analysis.generation import continue_text
from analysis.perplexity import HeldOutText
from analysis.picture import save_plan_picture

from ..errors import Cancelled, PruningError
from ..experiment import (
    PICTURE_FILE,
    REPAIR_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    Experiment,
    write_csv,
    write_json,
)
from ..export.formats import HF, parse_formats
from ..model.checkpoint import LoadedModel
from ..model.surgery import cut
from ..planning.checkpoint_header import CheckpointHeader, TensorHeader
from ..planning.plan import PruningPlan
from .describing import describe_cut, say_empty_layers, say_plan
from .exporting import export, make_formats, pack_model
from .findings import asked
from .iterative import plan_in_rounds
from .judging import load_held_out, record_perplexity, save_and_check, saved_dtype, was_measured
from .learning import find_out
from .loading import forget_model, open_model, warm_model
from .measuring import Measurement
from .permissions import Permissions
from .planner import plan_from_settings, settings_give
from .recovering import repaired_weights, training_data
from .recovery_job import measure_cost, recover, repair_and_judge, repair_and_train, train_and_save, validation_perplexity
from .report import RunReport
from .streaming import apply_streamed, choose_plan
from .trials import asked_for
from .trying import try_waiting


def measure(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Measures the importance of every group and of every layer, unless the same was measured before."""
    with report.step("load"):
        header = open_model(experiment, report, settings, permissions)
        measurement = Measurement(experiment, settings, header)
        if measurement.taken_over(report):
            return
        loaded = warm_model(header, settings, permissions)
    report.skip("baseline", "the model is not cut")
    measurement.run(report, loaded)


def prune(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Cuts by `plan.json`, describes and evaluates the result, saves it and checks that it loads again.

    In rounds (`iterative_steps`) the settings of that plan give another one, which takes its place. Raises PruningError when
    rounds are asked for and the plan is not one of the settings: what is cut then would not be what it says.
    """
    plan = experiment.read_plan()
    if settings["iterative_steps"] > 1:
        table, layers = experiment.read_table(), experiment.read_layer_importance()
        if not settings_give(plan, table, settings, layers):
            raise PruningError("rounds_of_fixed_plan", rounds=settings["iterative_steps"])
    loaded = _load(experiment, report, settings, permissions)
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
    loaded = _load(experiment, report, settings, permissions)
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
    loaded = _load(experiment, report, settings, permissions)
    text = _held_out(settings, loaded)
    _baseline(experiment, report, settings, loaded, text)
    report.skip("gradients", "a file says what goes")
    plan = choose_plan(experiment, report, settings, loaded.header)
    _cut_and_train(experiment, report, settings, loaded, plan, text, permissions)


def baseline(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Perplexity of the model as it is, and nothing else."""
    loaded = _load(experiment, report, settings, permissions)
    _baseline(experiment, report, settings, loaded, _held_out(settings, loaded))


def pack(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Packs the saved, checked model folder as `model.zip`."""
    with report.step("save", unit="bytes"):
        pack_model(experiment, report)


def try_plans(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Perplexity of the plans that wait in the experiment to be tried, masked; the model is not cut."""
    loaded = _load(experiment, report, settings, permissions)
    with report.step("perplexity", 0, "windows", detail="masked"):
        text = load_held_out(settings | asked_for(experiment)[1], loaded)
        try_waiting(experiment, report, loaded, text, 2 * settings["gradient_batch_size"])


def learn(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Runs the experiment that waits: what cuts do to the loss, masked; the model is not cut."""
    loaded = _load(experiment, report, settings, permissions)
    with report.step("baseline", detail="of the model as it is, on the windows of the experiment"):
        text = load_held_out(settings | {"eval_windows": asked(experiment).basis["windows"]}, loaded)
    find_out(experiment, report, loaded, text, 2 * settings["gradient_batch_size"])


JOBS: dict[str, Callable] = {
    "measure": measure,
    "prune": prune,
    "recover": recover,
    "cost": measure_cost,
    "pack": pack,
    "export": export,
    "try": try_plans,
    "learn": learn,
    "global": whole_run,
    "layer": whole_run,
    "uniform": whole_run,
    "apply": apply,
    "baseline": baseline,
}
# Jobs that measure or cut; the others use the result.
ROAD = ("measure", "prune", "global", "layer", "uniform", "apply", "baseline")


def run(
    kind: str,
    experiment: Experiment,
    console: bool = False,
    permissions: Permissions = Permissions(),
    resume: bool = False,
) -> None:
    """Runs one kind of job on an experiment whose settings are written; how it ends stands in `job.json`.

    Raises PruningError for whatever went wrong. `resume` goes on from the last step that was finished.
    """
    with RunReport(experiment, kind, console) as report:
        if kind in ROAD:
            experiment.write_job(kind)
        JOBS[kind](experiment, report, experiment.settings | {"resume": resume}, permissions)
        if report.seconds and kind not in ("try", "cost", "learn"):  # no steps of the road
            experiment.update_metrics(seconds={name: round(s, 3) for name, s in report.seconds.items()})


# the steps ------------------------------------------------------------------------------------------------------------


def _load(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions) -> LoadedModel:
    with report.step("load"):
        return warm_model(open_model(experiment, report, settings, permissions), settings, permissions)


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
    """Cuts, describes, evaluates and saves; a cut that does not come to its end leaves nothing of its result."""
    try:
        written = {"prompt": settings["prompt"], "before": continue_text(loaded.model, loaded.tokenizer, settings["prompt"])}
        source = loaded.header if loaded.header.tensors else _header_of(loaded.model, loaded)
        with report.step("cut"):
            forget_model()  # the cut takes the source's weights apart as it goes
            pruned = cut(loaded.model, plan, release_source=not settings["reconstruct"])  # a repair compares with it
        say_empty_layers(report, plan)
        matrices = describe_cut(
            experiment, report, loaded.header, source, _header_of(pruned, loaded), plan, saved_dtype(loaded, settings)
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
        write_csv(experiment.path(RESULT_FILE), matrices)  # last: it says that the cut came to its end
        return pruned
    except BaseException:
        with contextlib.suppress(PruningError):  # a full disk is what may have brought us here
            experiment.forget_result()
        raise


def _is_finished(experiment: Experiment, report: RunReport, settings: dict) -> bool:
    is_whole = experiment.is_cut and (experiment.is_saved or not settings["save_model"])
    is_finished = settings["resume"] and is_whole and (experiment.is_recovered or not settings["finetune"])
    if is_finished:
        report.say("    this run came to its end; nothing is left to do")
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


def _header_of(model: PreTrainedModel, loaded: LoadedModel) -> CheckpointHeader:
    """What the files of a model in memory hold or will hold."""
    dtype = loaded.saved_dtype
    tensors = {
        name: TensorHeader(str(dtype), tuple(tensor.shape), Path(), 0, tensor.numel() * dtype.itemsize)
        for name, tensor in model.named_parameters()
    }
    return CheckpointHeader(Path(), model.config.to_dict(), tensors, ())


def _make_other_formats(experiment: Experiment, report: RunReport, settings: dict) -> None:
    """What `save_format` asks for beside the folder. One that cannot be made is told; the run is done all the same."""
    for name in parse_formats(settings["save_format"]):
        if name != HF:
            try:
                make_formats(experiment, report, settings, (name,), settings["max_shard_size"])
            except Cancelled:
                raise
            except PruningError as error:
                report.say(f"    {name}: {error}")
