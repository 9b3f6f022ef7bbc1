"""`list`: the experiments of a folder and how far each got."""

import argparse
import math

import pandas as pd

from ..experiment import list_experiments
from ..experiment_table import experiment_table
from ..runs.damage import fault_of
from ..runs.status import state_of
from .arguments import add_output_root

_COLUMNS = ("experiment", "state", "model", "method", "strategy", "actual", "perplexity", "changed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output_root(parser)


def run(known: argparse.Namespace) -> int:
    """Prints one line per experiment, newest first, and what is wrong with damaged ones; returns the exit code."""
    found = experiment_table(list_experiments(known.output_root), state_of, fault_of)
    if found.rows.empty:
        print(f"There are no experiments under {known.output_root}.")
        return 0
    rows = [_COLUMNS, *(_row(row) for row in found.rows.to_dict("records"))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if found.faults:
        print()
    for name, fault in found.faults.items():
        print(f"{name}: {fault}")
    return 0


def _row(row: dict) -> tuple[str, ...]:
    changed = row["date"].strftime("%Y-%m-%d %H:%M")
    if pd.isna(row["model"]):  # nothing of it can be read
        return (row["name"], row["state"], *["-"] * 5, changed)
    perplexity = row["perplexity_before"] if pd.isna(row["perplexity"]) else row["perplexity"]
    actual = "-" if math.isnan(row["ratio_actual"]) else f"{row['ratio_actual']:.2%}"
    told = "-" if math.isnan(perplexity) else f"{perplexity:.2f}"
    return (*(str(row[name]) for name in ("name", "state", "model", "method", "strategy")), actual, told, changed)
