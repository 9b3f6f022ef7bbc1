"""Flags that several commands share: models, and the plan that a person gives as a file or as settings."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from pruning.commands.arguments import add_flag, add_output_root
from pruning.errors import PruningError
from pruning.experiment import read_layer_importance, read_table
from pruning.files import read_json
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.plan import PruningPlan
from pruning.planning.planner import plan_from_settings
from pruning.settings import PLAN_SETTINGS, SETTINGS, Settings, defaults_of, resolve
from pruning.strategies import STRATEGIES

from ..model_files import ModelFiles

_PLAN_SETTINGS = tuple(SETTINGS[name] for name in (*PLAN_SETTINGS, "layer_importance_config"))
MODEL = "demo, a model folder, a pytorch_model.bin, or the name of an experiment"


def add_experiment(parser: argparse.ArgumentParser, result: str) -> None:
    """The experiment to show, and the file that the result goes to."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help="Name or folder of an experiment.")
    parser.add_argument("--output", metavar="FILE", default=result, help=f"Default: {result}.")
    add_output_root(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print JSON instead of tables.")


def add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--original_model", metavar="MODEL", help=f"The model before the cut: {MODEL}.")
    parser.add_argument("--pruned_model", metavar="MODEL", help=f"The model after the cut: {MODEL}.")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """--plan, or the settings that a plan is made of."""
    section = parser.add_argument_group(
        "plan",
        "A plan.json, or settings. layer (with pruning_strategy uniform, the default here) and uniform need no scores: how "
        "many groups go from each layer follows from the settings, which ones is then not known. global needs --table.",
    )
    section.add_argument("--plan", metavar="FILE", help="A plan.json.")
    section.add_argument("--strategy", choices=tuple(STRATEGIES), help="Default: layer.")
    section.add_argument("--table", metavar="FILE", help="A global_group_table.csv with the scores of this model.")
    defaults = replace(defaults_of("layer"), pruning_strategy="uniform")
    for setting in _PLAN_SETTINGS:
        add_flag(section, setting, getattr(defaults, setting.name))


def has_plan(args: argparse.Namespace) -> bool:
    """Whether a plan was given, as a file or as settings."""
    return bool(args.plan or args.strategy or args.table or _given(args))


def plan_of(args: argparse.Namespace, model: ModelFiles) -> PruningPlan:
    """The plan that the flags give for this model; raises PruningError when they give none, or contradict each other."""
    shape = model.shape
    if args.plan:
        if args.strategy or args.table or _given(args):
            raise PruningError("settings_exclusive", first="plan", second="settings of a plan")
        path = Path(args.plan).expanduser()
        return PruningPlan.from_json(read_json(path, None), shape, model.fingerprint, path)
    settings = settings_of_flags(args)
    if args.table:
        table = read_table(Path(args.table).expanduser(), shape)
    elif STRATEGIES[settings.strategy].compares_layers:
        message = f"`{settings.strategy}` decides by scores: give --table, or --strategy layer"
        raise PruningError("analysis_arguments", message=message)
    else:
        table = GroupTable(shape, np.ones(GroupIndex(shape).size), {"method": "none"})
    layers = None
    if settings.layer_importance_config:
        path = Path(settings.layer_importance_config).expanduser()
        layers = read_layer_importance(path, shape.num_layers, model.fingerprint)
    return plan_from_settings(table, settings, layers).plan


def settings_of_flags(args: argparse.Namespace) -> Settings:
    """Every setting, those of the flags checked; rates are equal unless an importance of layers is given."""
    given = _given(args)
    if not given.get("layer_importance_config"):
        given = {"pruning_strategy": "uniform"} | given
    return resolve(given, args.strategy or "layer")


def _given(args: argparse.Namespace) -> dict:
    names = [name for setting in _PLAN_SETTINGS for name in (setting.name, *setting.old_names)]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
