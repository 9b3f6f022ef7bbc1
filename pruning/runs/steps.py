"""The steps of the road: load -> measure -> plan -> cut -> describe -> evaluate -> save. Each reads and writes the folder.

    measure   description.txt            ->  global_group_table.csv
    prune     table, plan.json           ->  pruning_analysis.csv, metrics.json, samples.json, model/
    pack      model/                     ->  model.zip

The app runs them one by one in its worker; the command line runs them in one go. Same steps, same files.
"""

import contextlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel

from analysis import diff
from analysis.generation import continue_text
from analysis.perplexity import HeldOutText, perplexity

from ..errors import PruningError
from ..experiment import (
    CARD_FILE,
    PLAN_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    ZIP_FILE,
    Experiment,
    write_csv,
    write_json,
    write_whole,
)
from ..export.hugging_face import check_reload, model_card, save_model, write_zip
from ..model.calibration import CALIBRATION, check_window, draw_samples, load_corpus
from ..model.checkpoint import LoadedModel, load, open_checkpoint
from ..model.importance import measure as measure_importance
from ..model.surgery import cut
from ..planning.checkpoint_header import CheckpointHeader, TensorHeader
from ..planning.group_table import GroupTable
from ..planning.plan import PruningPlan
from .planner import plan_from_settings
from .report import RunReport

_CHECK_WINDOWS = 4  # windows on which an exported model must give the logits of the one in memory


def measure(experiment: Experiment, report: RunReport, settings: dict, token: str | None = None) -> None:
    """Measures the importance of every group and writes the group table."""
    loaded = _load(experiment, report, settings, token)
    report.skip("baseline", "part of the cut")
    _measure(experiment, report, settings, loaded)


def prune(experiment: Experiment, report: RunReport, settings: dict, token: str | None = None) -> None:
    """Cuts by `plan.json`, describes and evaluates the result, saves it and checks that it loads again."""
    plan = experiment.read_plan()
    loaded = _load(experiment, report, settings, token)
    text = _held_out(settings, loaded)
    experiment.forget_result()  # not before it is sure that the new cut has all it needs
    _baseline(experiment, report, settings, loaded, text)
    _cut_and_judge(experiment, report, settings, loaded, plan, text)


def whole_run(experiment: Experiment, report: RunReport, settings: dict, token: str | None = None) -> None:
    """Everything in one go, as the command line does it: measure, plan by the settings, cut, evaluate, save."""
    loaded = _load(experiment, report, settings, token)
    text = _held_out(settings, loaded)
    _baseline(experiment, report, settings, loaded, text)
    table = _measure(experiment, report, settings, loaded)
    with report.step("selection"):
        plan = plan_from_settings(table, settings)
        experiment.write_plan(plan, table)
        _say_plan(report, plan)
    _cut_and_judge(experiment, report, settings, loaded, plan, text)


def baseline(experiment: Experiment, report: RunReport, settings: dict, token: str | None = None) -> None:
    """Perplexity of the model as it is, and nothing else."""
    loaded = _load(experiment, report, settings, token)
    _baseline(experiment, report, settings, loaded, _held_out(settings, loaded))


def pack(experiment: Experiment, report: RunReport, settings: dict, token: str | None = None) -> None:
    """Packs the saved, checked model folder as `model.zip`."""
    if not experiment.is_saved:
        raise PruningError("step_needs", step="export", needed="a cut")
    with report.step("save", unit="bytes"):
        write_zip(experiment.model_folder, experiment.path(ZIP_FILE), report.progress)


JOBS: dict[str, Callable] = {"measure": measure, "prune": prune, "pack": pack, "global": whole_run, "baseline": baseline}


def run(kind: str, experiment: Experiment, console: bool = False, token: str | None = None) -> None:
    """Runs one kind of job on an experiment whose settings are written; how it ends stands in `job.json`.

    Raises PruningError for whatever went wrong. `token` opens gated hub models and is written nowhere.
    """
    with RunReport(experiment, kind, console) as report:
        JOBS[kind](experiment, report, experiment.settings, token)
        if report.seconds:
            experiment.update_metrics(seconds={name: round(s, 3) for name, s in report.seconds.items()})


# the steps ------------------------------------------------------------------------------------------------------------


def _load(experiment: Experiment, report: RunReport, settings: dict, token: str | None) -> LoadedModel:
    with report.step("load"):
        header = open_checkpoint(settings["base_model"], token, settings["trust_remote_code"])
        check_window(settings["seq_len"], header.shape.max_position_embeddings)
        _know_model(experiment, header)
        loaded = _warm_model(header, settings)
        report.say(f"    {settings['base_model']}: {header.shape.parameters:,} parameters, {header.shape.num_layers} layers")
        return loaded


def _know_model(experiment: Experiment, header: CheckpointHeader) -> None:
    """Writes down which model this is about; raises PruningError when the experiment began with another one."""
    known = experiment.description()["fingerprint"]
    if known is None:
        libraries = {name: version(name) for name in ("torch", "transformers", "streamlit")}
        experiment.write_model(header, {"python": platform.python_version()} | libraries)
    elif known != header.fingerprint:
        raise PruningError("plan_other_model", path=experiment.folder, found=known[:12], expected=header.fingerprint[:12])


_MODEL_SETTINGS = ("device", "dtype", "attn_implementation", "trust_remote_code")
_warm: dict[tuple, LoadedModel] = {}


def _warm_model(header: CheckpointHeader, settings: dict) -> LoadedModel:
    """The model of the last job when it is the same one; at most one is kept."""
    key = (str(header.folder), header.fingerprint, *(settings[name] for name in _MODEL_SETTINGS))
    if key not in _warm:
        _warm.clear()
        _warm[key] = load(header, settings)
    return _warm[key]


def _baseline(experiment: Experiment, report: RunReport, settings: dict, loaded: LoadedModel, text: HeldOutText | None) -> None:
    if not settings["test_before_prune"]:
        report.skip("baseline")
        return
    with report.step("baseline", len(text.windows), "windows"):
        _record_perplexity(experiment, report, "before", loaded.model, text, settings)


def _measure(experiment: Experiment, report: RunReport, settings: dict, loaded: LoadedModel) -> GroupTable:
    with report.step("gradients", settings["num_samples"], "samples"):
        corpus = load_corpus(settings["corpus"], CALIBRATION, settings["text_column"])
        samples = draw_samples(corpus, loaded.tokenizer, settings["num_samples"], settings["seq_len"], settings["seed"])
        if len(samples) < settings["num_samples"]:
            report.say(f"    the text gives {len(samples)} windows, {settings['num_samples']} were asked for: all are used")
        report.progress(0, len(samples))
        method, batch_size = settings["importance_method"], settings["gradient_batch_size"]
        shape = loaded.header.shape
        importance = measure_importance(method, loaded.model, shape, samples, batch_size, report.progress)
    with report.step("group_table"):
        calibration = {
            "corpus": settings["corpus"],
            "corpus_sha256": corpus.sha256,
            "num_samples": len(samples),
            "seq_len": settings["seq_len"],
            "seed": settings["seed"],
        }
        source = {"fingerprint": loaded.header.fingerprint, "method": method, "calibration": calibration}
        table = GroupTable(shape, importance, source)
        experiment.write_table(table)
        report.say(f"    {len(table.order):,} groups scored by {method} on {len(samples)} samples")
    return table


def _cut_and_judge(
    experiment: Experiment,
    report: RunReport,
    settings: dict,
    loaded: LoadedModel,
    plan: PruningPlan,
    text: HeldOutText | None,
) -> None:
    """Cuts, describes, evaluates and saves; a cut that does not come to its end leaves nothing of its result."""
    try:
        written = {"prompt": settings["prompt"], "before": continue_text(loaded.model, loaded.tokenizer, settings["prompt"])}
        source = loaded.header if loaded.header.tensors else _header_of(loaded.model, loaded)
        with report.step("cut"):
            _warm.clear()  # the cut takes the source's weights apart as it goes
            pruned = cut(loaded.model, plan, release_source=True)
        _say_empty_layers(report, plan)
        matrices = _describe_cut(experiment, report, loaded, source, _header_of(pruned, loaded), plan)
        if settings["test_after_prune"]:
            with report.step("perplexity", len(text.windows), "windows"):
                _record_perplexity(experiment, report, "after", pruned, text, settings)
        else:
            report.skip("perplexity")
        written["after"] = continue_text(pruned, loaded.tokenizer, settings["prompt"])
        write_json(experiment.path(SAMPLES_FILE), {"format_version": 1} | written)
        report.skip("recovery")
        if settings["save_model"]:
            _save(experiment, report, loaded, pruned, settings)
        else:
            report.skip("save")
        write_csv(experiment.path(RESULT_FILE), matrices)  # last: it says that the cut came to its end
    except BaseException:
        with contextlib.suppress(PruningError):  # a full disk is what may have brought us here
            experiment.forget_result()
        raise


def _held_out(settings: dict, loaded: LoadedModel) -> HeldOutText | None:
    """The text for perplexity; None when none is asked for."""
    if not (settings["test_before_prune"] or settings["test_after_prune"]):
        return None
    check_window(settings["eval_seq_len"], loaded.header.shape.max_position_embeddings)
    return HeldOutText.load(
        loaded.tokenizer, settings["eval_corpus"], settings["eval_seq_len"], settings["eval_windows"], settings["text_column"]
    )


def _record_perplexity(
    experiment: Experiment, report: RunReport, stage: str, model: PreTrainedModel, text: HeldOutText, settings: dict
) -> None:
    # No backward pass here: twice the windows fit, and a person who runs out of memory has one number to lower.
    batch_size = 2 * settings["gradient_batch_size"]
    value = perplexity(model, text.windows, batch_size, on_progress=report.progress)
    basis = text.basis
    experiment.update_metrics(basis=basis, perplexity={stage: {basis["dataset"]: _finite(value)}})
    report.say(f"    perplexity {stage}: {value:.2f} ({basis['dataset']}, seq {basis['seq_len']}, {basis['windows']} windows)")


def _say_plan(report: RunReport, plan: PruningPlan) -> None:
    attention, mlp = plan.removed_parameters.sum(axis=0)
    report.say(f"    {plan.actual_ratio:.2%} of all parameters go: attention {attention:,}, MLP {mlp:,}")


def _say_empty_layers(report: RunReport, plan: PruningPlan) -> None:
    if not plan.remove_empty_layers:
        report.skip("empty_layers")
        return
    with report.step("empty_layers"):
        gone = plan.shape.num_layers - len(plan.kept_layers)
        report.say(f"    {gone} layers removed, {len(plan.kept_layers)} left")


def _describe_cut(
    experiment: Experiment,
    report: RunReport,
    loaded: LoadedModel,
    before: CheckpointHeader,
    after_cut: CheckpointHeader,
    plan: PruningPlan,
) -> pd.DataFrame:
    """Records sizes and ratio, and returns the table of every matrix before and after."""
    with report.step("statistics"):
        matrices = diff.actual_matrix_table(before, after_cut, plan)
        after = plan.shape_after.parameters
        experiment.update_metrics(
            fingerprint=loaded.header.fingerprint,
            parameters={"before": plan.shape.parameters, "after": after},
            ratio={
                "target": plan.settings.get("pruning_ratio"),
                "target_basis": plan.settings.get("ratio_basis", "model"),
                "actual": plan.actual_ratio,
            },
            size_bytes={"before": loaded.header.weight_bytes, "after": after * loaded.saved_dtype.itemsize},
        )
        failed = [check.key for check in diff.checks(plan, matrices) if not check.passed]
        report.say(f"    {plan.shape.parameters:,} -> {after:,} parameters ({plan.actual_ratio:.2%} removed)")
        if failed:
            raise PruningError("unexpected", reason=f"the cut does not keep its promises: {', '.join(failed)}")
    return matrices


def _header_of(model: PreTrainedModel, loaded: LoadedModel) -> CheckpointHeader:
    """What the files of a model in memory hold or will hold."""
    dtype = loaded.saved_dtype
    tensors = {
        name: TensorHeader(str(dtype), tuple(tensor.shape), Path(), 0, tensor.numel() * dtype.itemsize)
        for name, tensor in model.named_parameters()
    }
    return CheckpointHeader(Path(), model.config.to_dict(), tensors, ())


def _save(experiment: Experiment, report: RunReport, loaded: LoadedModel, pruned: PreTrainedModel, settings: dict) -> None:
    folder = experiment.model_folder
    with report.step("save", unit="bytes"):
        save_model(pruned, loaded.tokenizer, folder, dtype=loaded.saved_dtype, on_progress=report.progress)
        report.say("    loading it again in a fresh process")
        check = check_reload(folder, pruned, loaded.tokenizer, _check_windows(settings, loaded))
        report.check_cancelled()
        weight_bytes = CheckpointHeader.read(folder).weight_bytes
        experiment.update_metrics(export_check={"hf": check}, size_bytes={"after": weight_bytes})
        write_whole(folder / PLAN_FILE, experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
        write_whole(folder / CARD_FILE, model_card(experiment))
        report.say(f"    largest difference of logits {check['max_abs_diff']:.1e}, top-1 agreement {check['top1']:.2%}")


def _check_windows(settings: dict, loaded: LoadedModel) -> torch.Tensor:
    limit = loaded.header.shape.max_position_embeddings
    seq_len = min(settings["seq_len"], limit) if limit else settings["seq_len"]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(loaded.header.shape.vocab_size, (_CHECK_WINDOWS, seq_len), generator=generator)


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None
