"""`importance`, `global`, `layer`, `uniform`, `apply`: the road in one go, as an experiment the app can open.

settings -> checks that need no weights -> experiment folder -> steps -> summary
"""

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path

from ..errors import PruningError
from ..experiment import TABLE_FILE, Experiment, default_name, portable, read_layer_importance
from ..export.formats import HF, parse_formats, shard_bytes
from ..files import naming_damage
from ..plan_from_file import layers_from_file, plan_from_file, refuse_unused
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.plan import TARGET_BASES
from ..planning.planner import check_model_settings, check_plan_settings, needs_layer_importance
from ..runs.environment import prepare_this_process
from ..runs.permissions import Permissions
from ..runs.requests import Request
from ..runs.status import BASELINE, MEASURE
from ..settings import OF_THE_FOLDER, OF_THE_PERSON, Settings, canonical, resolve
from ..strategies import STRATEGIES
from ..words import counted, readable_size
from .arguments import given_settings, named_as_now, refuse_missing_folder, strategy_of
from .exits import telling_how_to_go_on

COMMANDS = {
    "importance": "measure the importance of groups and layers and write the tables; cut nothing",
    **{name: strategy.help for name, strategy in STRATEGIES.items()},
    "apply": "cut by a file: rows that go (--groups), an edited table (--table), or a plan (--plan); evaluate, save",
}
_JOBS = {"importance": MEASURE}  # of the app; the other commands are jobs of their own name


def run(command: str, known: argparse.Namespace) -> int:
    """Runs one of COMMANDS; returns the exit code. Raises PruningError."""
    notes: list[str] = []
    given = given_settings(command, known, notes)
    settings = resolve(named_as_now(command, given, notes), strategy_of(command))
    refuse_unused(given)
    print(*notes, sep="", end="", file=sys.stderr)  # only now: what is refused is one sentence
    stopped = _stopped_run(command, given, settings) if settings.resume else None
    if stopped is not None:
        # Where the table goes is said by this command line alone: a description may come from somebody else.
        settings = replace(stopped.settings, dry_run=settings.dry_run, save_table_path=settings.save_table_path)
    if settings.base_model is None:
        raise PruningError("setting_missing", name="base_model")
    job = _job(command, given, settings) if stopped is None else stopped.last_job or _JOBS.get(command, command)
    name = settings.experiment_name or default_name(settings.base_model, command, f"{settings.pruning_ratio:g}")
    settings = replace(settings, experiment_name=name)
    Experiment.at(settings.output_root, name)
    _check_output(settings)

    prepare_this_process()
    from ..model.checkpoint import open_checkpoint  # torch takes seconds; bad arguments are answered before

    permissions = Permissions.of_this_command(known)
    header = open_checkpoint(settings.base_model, permissions.token, permissions.trust_remote_code)
    check_model_settings(header.shape, settings)
    if job != "baseline":
        _check(command, header, settings)
    if settings.dry_run:
        from .dry_run import show

        return show(job, header, settings)
    experiment = _experiment(stopped, job, settings)
    with telling_how_to_go_on(command, experiment):
        _run_job(job, experiment, permissions, is_new=stopped is None)
    if settings.save_table_path and experiment.is_measured:
        write_table_file(experiment, Path(settings.save_table_path).expanduser())
    tell_summary(experiment, notes)
    return 0


def _job(command: str, given: dict, settings: Settings) -> str:
    """The kind of job: without a ratio, a strategy that is to measure the model as it is does nothing else."""
    if command not in STRATEGIES or not settings.test_before_prune or "pruning_ratio" in given:
        return _JOBS.get(command, command)
    for name in ("test_after_prune", "save_model", "reconstruct", "finetune"):
        if getattr(settings, name):
            raise PruningError("baseline_only", name=name)
    return BASELINE


def _experiment(stopped: Experiment | None, job: str, settings: Settings) -> Experiment:
    """The experiment of the run, which is this process's from here on."""
    from ..runs.status import claim, create_experiment

    if stopped is not None:
        claim(stopped, Request(job))
        return stopped
    written = replace(settings, resume=False, overwrite=False, dry_run=False)
    return create_experiment(settings.output_root, settings.experiment_name, written, job, settings.overwrite)


def _run_job(job: str, experiment: Experiment, permissions: Permissions, is_new: bool) -> None:
    from ..runs import steps

    try:
        steps.run(job, experiment, console=True, permissions=permissions, resume=not is_new)
    except BaseException as error:
        has_to_be_read = not isinstance(error, PruningError) or error.code in ("unexpected", "cancelled")
        if experiment.settle():
            print("Nothing was made, so the experiment that was to be replaced is kept as it was.", file=sys.stderr)
        elif is_new and not experiment.holds_work and not has_to_be_read:
            experiment.discard()
        raise
    experiment.settle()


def _stopped_run(command: str, given: dict, settings: Settings) -> Experiment | None:
    """The experiment to go on with, None when there is none yet; raises PruningError when it was another run."""
    name = settings.experiment_name
    if name is None:
        raise PruningError("setting_missing", name="experiment_name")
    if settings.overwrite:
        raise PruningError("settings_exclusive", first="resume", second="overwrite")
    experiment = Experiment.at(settings.output_root, name)
    if not experiment.has("description.txt"):
        if settings.base_model is None:
            raise PruningError("experiment_unknown", name=name, root=settings.output_root)
        return None
    from ..runs.status import read_status

    status = read_status(experiment)
    if status and status.is_active:
        raise PruningError("experiment_busy", name=name)
    before, last = experiment.settings, experiment.last_job
    now = _JOBS.get(command, command)
    if last == BASELINE and command == before.strategy and "pruning_ratio" not in given:
        now = BASELINE
    if last not in (now, None):
        raise PruningError("resume_differs", name="command", before=last, now=now)
    asked, had = (portable(each.as_dict(), experiment.folder) for each in (settings, before))
    for setting in map(canonical, given):
        is_same = asked[setting] == had[setting]
        if setting not in (*OF_THE_FOLDER, *OF_THE_PERSON) and not is_same:
            raise PruningError("resume_differs", name=setting, before=getattr(before, setting), now=getattr(settings, setting))
    return experiment


def _check(command: str, header: CheckpointHeader, settings: Settings) -> None:
    """Raises PruningError for what can be known to fail before anything is measured."""
    if command == "apply":
        plan_from_file(header.shape, header.fingerprint, settings, layers_from_file(header, settings))
        return
    if command != "importance":
        check_plan_settings(header.shape, settings)
    if path := settings.layer_importance_config:
        read_layer_importance(Path(path).expanduser(), header.shape.num_layers, header.fingerprint)
    elif command != "importance" and needs_layer_importance(settings) and not settings.layer_importance_samples:
        raise PruningError("layer_importance_needed", setting="This plan")


def _check_output(settings: Settings) -> None:
    """Raises PruningError for formats, sizes and combinations that could only fail once all is done."""
    others = [name for name in parse_formats(settings.save_format) if name != HF]
    shard_bytes(settings.max_shard_size)
    if others and settings.stream:
        raise PruningError("settings_exclusive", first="stream", second="save_format")
    if others and not settings.save_model:
        raise PruningError("format_needs_model", formats=", ".join(others))
    for name in ("test_before_prune", "test_after_prune", "reconstruct", "finetune"):
        if settings.stream and getattr(settings, name):
            raise PruningError("settings_exclusive", first="stream", second=name)
    path = settings.save_table_path
    if path and Path(path).suffix not in (".csv", ".json"):
        raise PruningError("table_path", path=path)
    if path:
        refuse_missing_folder(Path(path).expanduser())


def write_table_file(experiment: Experiment, path: Path) -> None:
    """Copies the group table to a .csv with its sidecar, or to one .json that holds both."""
    from ..files import write_csv, write_json
    from ..planning.group_table import FORMAT_VERSION

    table = experiment.read_table()
    source = {"format_version": FORMAT_VERSION} | table.source
    if path.suffix == ".json":
        write_json(path, source | {"groups": table.frame().to_dict(orient="records")})
    else:
        write_csv(path, table.frame())
        write_json(path.with_name(f"{path.name}.json"), source)


def tell_summary(experiment: Experiment, notes: list[str]) -> None:
    """Prints the summary of a run, and keeps it in the log, the notes on its flags before it."""
    from ..runs.status import read_status

    with naming_damage(experiment.path("metrics.json")):
        told = summary(experiment)
    print(told)
    with contextlib.suppress(OSError), experiment.path(read_status(experiment).log).open("a", encoding="utf-8") as log:
        log.write("".join(notes) + told.lstrip() + "\n")


def summary(experiment: Experiment) -> str:
    """The results of the run, one figure per line, each with its basis."""
    metrics = experiment.metrics()
    rows = [("experiment", str(experiment.folder))]
    if "parameters" in metrics:
        before, after = metrics["parameters"]["before"], metrics["parameters"]["after"]
        ratio = metrics["ratio"]
        rows.append(("parameters", f"{before:,} -> {after:,}"))
        target = f" (target {ratio['target']:.2%} of {TARGET_BASES[ratio['target_basis']]})" if ratio["target"] else ""
        rows.append(("ratio", f"{ratio['actual']:.2%} of all parameters{target}"))
        sizes = metrics["size_bytes"]
        rows.append(("weights", f"{readable_size(sizes['before'])} -> {readable_size(sizes['after'])}"))
    for stage, values in metrics.get("perplexity", {}).items():
        basis = metrics["basis"]
        for dataset, value in values.items():
            shown = "infinite" if value is None else f"{value:.2f}"
            windows = counted(basis["windows"], "window")
            rows.append((f"perplexity {stage}", f"{shown} ({dataset}, seq {basis['seq_len']}, {windows})"))
    if experiment.has("model"):
        rows.append(("model", str(experiment.model_folder)))
    elif experiment.is_measured and not experiment.is_cut:
        rows.append(("table", str(experiment.path(TABLE_FILE))))
    width = max(len(name) for name, _ in rows)
    return "\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
