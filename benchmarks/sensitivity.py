"""How long the sensitivity measurements take on a model, and their results.

    measure importance  ->  layers, protection, split, ...  ->  seconds of each, and its main figures

Each runs as its job does, in this process, in a folder of its own; `--output_root` keeps it.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from pruning.experiment import Experiment
from pruning.runs import steps
from pruning.runs.requests import Request, write_request
from pruning.runs.sensitivity import results
from pruning.runs.sensitivity.results import EXPERIMENTS, LAYERS, PROTECTION, SPLIT, SensitivityResult
from pruning.settings import resolve

from ._flags import add_names

_NAME = "sensitivity"
_BOUND = 90  # seconds for each of these on two cores
_BOUNDED = (LAYERS, PROTECTION, SPLIT)
_AT_ONCE = {"kinds": [results.BOTH]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base_model", default="demo", help="the model (default demo)")
    parser.add_argument("--method", default="taylor", help="importance method of the table (default taylor)")
    parser.add_argument("--windows", type=int, default=results.WINDOWS, help="held-out windows (default 64)")
    parser.add_argument("--strategy", default="layer", choices=("layer", "global"), help="of protect or not (default layer)")
    parser.add_argument("--output_root", help="folder to keep the results in; what is kept is not measured again")
    add_names(parser, "--experiments", EXPERIMENTS)


def run(args: argparse.Namespace) -> None:
    """Prints seconds and figures of every measurement asked for."""
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        experiment = _measured(args, Path(args.output_root or temporary))
        for kind, options in _questions(args):
            wanted = results.question(experiment, experiment.read_table(), kind, args.windows, **options)
            load, began, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
            write_request(experiment, Request("learn", asdict(wanted)))
            steps.run("learn", experiment)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            found = results.read_result(experiment, wanted)
            is_bounded = kind in _BOUNDED and options != _AT_ONCE
            bound = f"   {'pass' if found.seconds <= _BOUND else 'MISS'}  at most {_BOUND} s" if is_bounded else ""
            name = f"{kind} {options}" if options else kind
            print(f"\n{name}: {seconds:.1f} s, CPU {cpu:.1f} s, load {load:.1f}; measured in {found.seconds:.1f} s{bound}")
            _FIGURES.get(kind, _points)(found)


def _questions(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    """(measurement, options that are not its defaults): layers twice, attention and MLP apart and at once."""
    for kind in args.experiments:
        yield kind, {"strategy": args.strategy} if kind in (results.PROTECTION, results.TRAINED, results.GRID) else {}
        if kind == LAYERS:
            yield kind, _AT_ONCE


def _measured(args: argparse.Namespace, root: Path) -> Experiment:
    """The experiment in `root`, measured with the default settings."""
    if (root / _NAME / "global_group_table.csv").exists():
        return Experiment.open(root, _NAME)
    experiment = Experiment.create(root, _NAME)
    given = {"base_model": args.base_model, "importance_method": args.method}
    experiment.write_settings(resolve(given | {"output_root": str(root), "experiment_name": _NAME}))
    steps.run("measure", experiment)
    return experiment


def _layers(found: SensitivityResult) -> None:
    print(f"  whole model: perplexity {found.perplexity:.3f}")
    for kind in found.question.options["kinds"]:
        of_kind = sorted((p for p in found.points if p["kind"] == kind), key=lambda p: -p["rise"])
        shown = ", ".join(f"{p['layer']}: {p['perplexity']:.3f} (+{p['rise']:.4f} +- {p['error']:.4f})" for p in of_kind[:5])
        print(f"  {kind:9s} matters most in layer {shown}")
    for method, of_kind in found.whole["spearman"].items():
        print(f"  {method:16s}" + "".join(f"{kind} {_shown(value):>8s}   " for kind, value in of_kind.items()))


def _protection(found: SensitivityResult) -> None:
    print(f"  whole model: perplexity {found.perplexity:.3f}; {found.question.options}")
    for point in found.points:
        if "reason" in point:
            print(f"  ratio {point['ratio']:.0%} seed {point['seed']}: {point['reason']}")
            continue
        a, b, difference = point["all"], point["protected"], point["difference"]
        print(
            f"  ratio {point['ratio']:4.0%} seed {point['seed']}: all {a['perplexity']:10.3f} ({a['removed']:,})   protected "
            f"{b['perplexity']:10.3f} ({b['removed']:,})   loss {difference['mean']:+.4f} +- {difference['error']:.4f}"
        )


def _points(found: SensitivityResult) -> None:
    for point in found.points:
        print("  " + ", ".join(f"{name} {_shown(value)}" for name, value in point.items() if not isinstance(value, list)))
    for name, value in found.whole.items():
        print(f"  {name}: {str(value)[:300]}")


def _shown(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


_FIGURES = {LAYERS: _layers, PROTECTION: _protection}
