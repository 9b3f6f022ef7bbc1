"""The way from rates to the cut as one picture, with the numbers of an experiment."""

import argparse
from pathlib import Path

import numpy as np

from pruning.experiment import LAYERS_FILE, Experiment
from pruning.experiment_table import protection_of, settings_of_plan
from pruning.files import read_json
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.strategies import strategy_of_plan

from ..flow import save_flow_picture
from ..model_files import open_experiment, source_of
from .arguments import add_experiment

FLOW_FILE = "pruning_flow.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, FLOW_FILE)


def run(args: argparse.Namespace) -> int:
    """Draws the picture; returns the exit code."""
    draw(open_experiment(args.experiment, args.output_root), Path(args.output).expanduser())
    print(f"{args.output} shows how the plan of {args.experiment} came about.")
    return 0


def draw(experiment: Experiment, path: Path) -> None:
    """Writes the picture of the experiment's plan."""
    plan = experiment.read_plan()
    table = experiment.read_table() if experiment.is_measured else None
    protection = protection_of(experiment, plan.shape, settings_of_plan(experiment)) or Protection.none(plan.shape.num_layers)
    rates, bytes_per_parameter = _rates(experiment, plan), source_of(experiment).bytes_per_parameter
    save_flow_picture(plan, path, protection, table, rates, bytes_per_parameter)


def _rates(experiment: Experiment, plan: PruningPlan) -> np.ndarray | None:
    """The rates that the strategy computed for all layers, [layers]; None where it has none."""
    strategy = strategy_of_plan(plan.settings)
    if not (strategy and strategy.has_layer_rates and experiment.has(LAYERS_FILE)):
        return None
    layers = read_json(experiment.path(LAYERS_FILE), None)["layers"]
    if not all("rate_computed" in layer for layer in layers):
        return None
    return np.array([layer["rate_computed"] for layer in layers])
