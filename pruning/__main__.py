"""`python -m pruning global ...`: the road without a browser. Flags are made from settings.py.

Exit codes: 0 done, 2 for input the person can mend (one sentence says what), 130 stopped, 1 anything else.
"""

import argparse
import os
import shutil
import sys

from .errors import Cancelled, PruningError
from .experiment import TABLE_FILE, Experiment, default_name
from .runs.environment import prepare_this_process
from .settings import GROUPS, SETTINGS, Setting, canonical, resolve

_USER_ERROR, _STOPPED, _FAILED = 2, 130, 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence instead of the whole usage; an unknown flag gets the nearest known one."""
        raise PruningError("unexpected_flag", message=message)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        return _global(_parse(sys.argv[1:] if arguments is None else arguments))
    except (Cancelled, KeyboardInterrupt):
        print("Stopped.", file=sys.stderr)
        return _STOPPED
    except PruningError as error:
        print(f"Error: {error}", file=sys.stderr)
        return _FAILED if error.code == "unexpected" else _USER_ERROR


def _parse(arguments: list[str]) -> dict:
    """Settings as given, by the names they were given."""
    parser = _Parser(prog="python -m pruning", description="Prune Llama-family models: whole KV groups and MLP channels.")
    commands = parser.add_subparsers(dest="strategy", required=True, metavar="command", parser_class=_Parser)
    what = "measure, cut the lowest-scored groups of the whole model, evaluate, save"
    command = commands.add_parser(
        "global",
        help=what,
        usage="python -m pruning global --base_model MODEL [options]",
        description=what[0].upper() + what[1:] + ".",
        epilog="Exit codes: 0 done, 2 something in the input to mend, 130 stopped, 1 anything else.",
        allow_abbrev=False,
    )
    _add_flags(command)
    known, unknown = parser.parse_known_args(arguments)
    for flag in unknown:
        if not flag.startswith("--"):
            raise PruningError("unexpected_flag", message=f"unexpected argument {flag!r}")
        canonical(flag.removeprefix("--").partition("=")[0])
    given = {name: value for name, value in vars(known).items() if name != "strategy" and value is not None}
    return given


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for group in GROUPS:
        section = parser.add_argument_group(group)
        for setting in SETTINGS.values():
            if setting.group == group:
                _add_flag(section, setting)


def _add_flag(section, setting: Setting) -> None:
    # Values stay text here: settings.py checks them, so that page and terminal say the same sentence.
    has_default = setting.default not in (None, "")
    default = (
        f" Default: {repr(setting.default) if chr(10) in str(setting.default) else setting.default}." if has_default else ""
    )
    options = {"help": f"{setting.help}{default}".replace("%", "%%"), "default": None, "dest": setting.name}
    if setting.kind is bool:
        section.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **options)
        return
    metavar = "|".join(setting.choices) or (setting.unit or setting.kind.__name__).upper()
    section.add_argument(setting.flag, metavar=metavar, **options)
    for old in setting.old_names:
        section.add_argument(f"--{old}", help=argparse.SUPPRESS, default=None, dest=old)


def _global(given: dict) -> int:
    settings = resolve(given)
    for name in given:
        if canonical(name) != name:
            print(f"Note: --{name} is now called --{canonical(name)}.", file=sys.stderr)
    if settings["base_model"] is None:
        raise PruningError("setting_missing", name="base_model")
    only_baseline = "pruning_ratio" not in given and settings["test_before_prune"]
    settings["experiment_name"] = settings["experiment_name"] or default_name(
        settings["base_model"], "global", f"{settings['pruning_ratio']:g}"
    )
    Experiment.at(settings["output_root"], settings["experiment_name"])

    prepare_this_process()
    from .model.checkpoint import open_checkpoint  # torch takes seconds; bad arguments are answered before
    from .runs import steps
    from .runs.planner import check_plan_settings
    from .runs.status import create_experiment

    token = os.environ.get("HF_TOKEN")
    header = open_checkpoint(settings["base_model"], token)
    if not only_baseline:
        check_plan_settings(header.shape, settings)
    experiment = create_experiment(settings["output_root"], settings["experiment_name"], settings["overwrite"])
    experiment.write_settings(settings)
    try:
        steps.run("baseline" if only_baseline else "global", experiment, console=True, token=token)
    except PruningError as error:
        # Nothing was measured: nothing is left behind, but for a log that somebody has to read.
        if not experiment.has(TABLE_FILE) and error.code not in ("unexpected", "cancelled"):
            shutil.rmtree(experiment.folder)
        raise
    _print_summary(experiment)
    return 0


def _print_summary(experiment: Experiment) -> None:
    metrics = experiment.metrics()
    rows = [("experiment", str(experiment.folder))]
    if "parameters" in metrics:
        before, after = metrics["parameters"]["before"], metrics["parameters"]["after"]
        ratio = metrics["ratio"]
        rows.append(("parameters", f"{before:,} -> {after:,}"))
        basis = {"model": "all parameters", "selected": "the layers that may be cut"}[ratio["target_basis"]]
        rows.append(("ratio", f"{ratio['actual']:.2%} of all parameters (target {ratio['target']:.2%} of {basis})"))
        sizes = metrics["size_bytes"]
        rows.append(("weights", f"{sizes['before'] / 2**30:.4f} GiB -> {sizes['after'] / 2**30:.4f} GiB"))
    for stage, values in metrics.get("perplexity", {}).items():
        basis = metrics["basis"]
        for dataset, value in values.items():
            shown = "infinite" if value is None else f"{value:.2f}"
            rows.append((f"perplexity {stage}", f"{shown} ({dataset}, seq {basis['seq_len']}, {basis['windows']} windows)"))
    if experiment.has("model"):
        rows.append(("model", str(experiment.model_folder)))
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows))


if __name__ == "__main__":
    sys.exit(main())
