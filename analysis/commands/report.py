"""One self-contained HTML page for an experiment: settings, figures, charts, tables, texts. It needs no network."""

import argparse
from pathlib import Path

from pruning.experiment import DESCRIPTIONS

from ..model_files import open_experiment
from ..report import write_report
from .arguments import add_experiment

_REPORT_FILE = DESCRIPTIONS[-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, _REPORT_FILE)


def run(args: argparse.Namespace) -> int:
    """Writes the page; returns the exit code."""
    write_report(open_experiment(args.experiment, args.output_root), Path(args.output).expanduser())
    print(f"{args.output} describes {args.experiment}; any browser opens it.")
    return 0
