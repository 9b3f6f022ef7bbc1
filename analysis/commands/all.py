"""Size, difference, picture and report of one experiment in one go, written into its folder."""

import argparse

from pruning.errors import PruningError
from pruning.experiment import DESCRIPTIONS, RESULT_FILE

from ..model_files import open_experiment, open_files, source_of
from ..report import write_report
from ..size import size_change
from . import diff, flow
from .arguments import add_output_root
from .size import size_sentence

_CHINESE_FILE, _FLOW_FILE, _REPORT_FILE = DESCRIPTIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", metavar="NAME", required=True, help="Name or folder of an experiment that has a plan.")
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="Column names of the CSV. Default: en.")
    add_output_root(parser)


def run(args: argparse.Namespace) -> int:
    """Prints size and difference, writes the files; returns the exit code."""
    experiment = open_experiment(args.experiment, args.output_root)
    if not experiment.is_planned:
        raise PruningError("step_needs", step="analysis", needed="a plan")
    if experiment.is_saved:
        change = size_change(source_of(experiment), open_files(str(experiment.folder), args.output_root))
        print(size_sentence(change) + "\n")
    else:
        print(f"{experiment.name} holds no saved model; sizes follow from its plan.\n")
    difference = diff.of_experiment(experiment, args.output_root)
    diff.show(difference)
    written = []
    if args.language == "zh" or experiment.is_cut:  # the app takes pruning_analysis.csv as the sign of a cut
        # The Chinese table is written beside the one of the cut, which the app reads.
        written.append(experiment.path(_CHINESE_FILE if args.language == "zh" else RESULT_FILE))
        diff.write_table(difference.matrices, written[0], args.language)
    written.append(experiment.path(_FLOW_FILE))
    flow.draw(experiment, written[-1])
    written.append(experiment.path(_REPORT_FILE))
    write_report(experiment, written[-1])
    print("\n" + "\n".join(f"wrote {path}" for path in written))
    return 0 if difference.passed else diff.FAILED
