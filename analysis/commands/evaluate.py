"""Models side by side: parameters, size, perplexity, speed of reading and writing, peak memory, zero-shot tasks.

Each model is measured in a process of its own.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pruning.commands.arguments import refuse_missing_folder
from pruning.errors import PruningError
from pruning.experiment import write_whole
from pruning.files import write_csv
from pruning.settings import SETTINGS
from pruning.words import counted, readable_size

from ..evaluation import Evaluation, evaluate_all
from ..model_files import experiment_named, folder_to_load
from ..zero_shot import require_lm_eval
from .arguments import MODEL, add_output_root
from .output import as_json, count, text_table
from .perplexity import add_device_flags, add_text_flags, basis_sentence, datasets_of, whole_number

_STANDARD_OUTPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{MODEL[0].upper()}{MODEL[1:]}, or a Hugging Face id.")
    add_text_flags(parser)
    section = parser.add_argument_group("speed")
    section.add_argument("--batch_sizes", metavar="SIZES", default="1,8", help="Joined by commas. Default: 1,8.")
    for name, default, what in (
        ("prompt_tokens", Evaluation.prompt_tokens, "Tokens read at once."),
        ("new_tokens", Evaluation.new_tokens, "Tokens written one by one."),
        ("repeats", Evaluation.repeats, "Rounds after one to warm up; their median counts."),
    ):
        section.add_argument(f"--{name}", metavar="N", default=str(default), help=f"{what} Default: {default}.")
    tasks = parser.add_argument_group("zero-shot tasks", "Need lm-eval: pip install -r requirements-eval.txt")
    tasks.add_argument(
        "--tasks", metavar="TASKS", default="", help="Joined by commas: names of lm-eval, .yaml files, folders of them."
    )
    tasks.add_argument("--task_limit", metavar="N", help="Examples of each task. Default: all.")
    add_device_flags(parser)
    parser.add_argument("--no_perplexity", action="store_true", help="Leave perplexity out.")
    parser.add_argument("--no_speed", action="store_true", help="Leave speed and memory out.")
    parser.add_argument("--csv", metavar="FILE", help="Write the table as CSV.")
    parser.add_argument("--json", metavar="FILE", help="Write everything as JSON; - prints it instead of the table.")
    add_output_root(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes the files; returns the exit code."""
    wanted = _wanted(args)
    if wanted.tasks:
        require_lm_eval()  # before the first model is measured
    for file in (args.csv, args.json):
        if file and file != _STANDARD_OUTPUT:
            refuse_missing_folder(Path(file).expanduser())
    folders = {model: folder_to_load(model, args.output_root) for model in args.models}
    results = []
    try:
        for result in evaluate_all(folders, wanted):
            print(f"measured {result['model']}", file=sys.stderr)
            results.append(result)
            _record_speed(result, args.output_root)
    finally:  # if a later model cannot be measured, the results of the earlier ones are kept
        if results:
            _give_out(results, args)
    return 0


def _record_speed(result: dict, output_root: str) -> None:
    """Writes the speed of an experiment's model into its metrics, with what it was measured on."""
    try:
        experiment = experiment_named(result["model"], output_root)
    except PruningError:  # a Hugging Face id
        return
    if experiment is not None and result["latency"]:
        basis = {"device": result["device"], "dtype": result["dtype"]}
        experiment.update_metrics(latency={"after": [latency | basis for latency in result["latency"]]})


def _give_out(results: list[dict], args: argparse.Namespace) -> None:
    table = comparison(results)
    if args.csv:
        write_csv(Path(args.csv).expanduser(), table)
    if args.json == _STANDARD_OUTPUT:
        print(as_json(results))
        return
    if args.json:
        write_whole(Path(args.json).expanduser(), as_json(results) + "\n")
    _show(table, results)


def comparison(results: list[dict]) -> pd.DataFrame:
    """One row per model: parameters, bytes, perplexity per dataset, tokens per second per batch size, tasks."""
    rows = []
    for result in results:
        row = {name: result[name] for name in ("model", "parameters", "weight_bytes")}
        row |= {f"perplexity {key}": value for key, value in result.get("perplexity", {}).items()}
        for latency in result["latency"]:
            for phase in ("prefill", "decode"):
                row[f"{phase} tokens/s, batch {latency['batch_size']}"] = latency[f"{phase}_tokens_per_second"]
        row |= {"peak_bytes": result["peak_bytes"]} if "peak_bytes" in result else {}
        rows.append(row | result.get("tasks", {}))
    return pd.DataFrame(rows)


def _show(table: pd.DataFrame, results: list[dict]) -> None:
    shown = table.rename(columns={"weight_bytes": "weights", "peak_bytes": "peak memory"})
    of_their_own = ("model", "parameters", "weights", "peak memory")
    forms: dict[str, Callable] = {name: "{:,.4f}".format for name in shown.columns if name not in of_their_own}
    forms |= {name: "{:,.2f}".format for name in forms if name.startswith("perplexity ")}
    forms |= {name: "{:,.1f}".format for name in forms if " tokens/s" in name}
    forms |= {"parameters": count, "weights": readable_size, "peak memory": lambda value: readable_size(int(value))}
    # One column per model: there are more measures than models.
    texts = {name: ["-" if pd.isna(v) else forms[name](v) for v in shown[name]] for name in shown.columns[1:]}
    columns = {"": list(texts)} | {model: [texts[name][i] for name in texts] for i, model in enumerate(shown["model"])}
    print(text_table(pd.DataFrame(columns)))
    first = results[0]
    print(f"\n{first['device']}, {first['dtype']}")
    for key, basis in first.get("basis", {}).items():
        print(f"{key}: {basis_sentence(basis)}")
    for latency in first["latency"][:1]:
        rounds = f"median of {latency['repeats']} after one to warm up"
        print(f"speed: {counted(latency['prompt_tokens'], 'token')} read, {latency['new_tokens']} written, {rounds}")
    if "peak_bytes" in first:
        print("peak memory: loading the model and generating, beyond what the process held before")


def _wanted(args: argparse.Namespace) -> Evaluation:
    sizes = [whole_number("batch_sizes", size.strip(), 1) for size in args.batch_sizes.split(",")]
    wanted = Evaluation(
        datasets=() if args.no_perplexity else tuple(datasets_of(args)),
        seq_len=whole_number("seq_len", args.seq_len, 2),
        stride=whole_number("stride", args.stride, 1),
        windows=whole_number("windows", args.windows, 0),
        batch_sizes=() if args.no_speed else tuple(sizes),
        prompt_tokens=whole_number("prompt_tokens", args.prompt_tokens, 1),
        new_tokens=whole_number("new_tokens", args.new_tokens, 1),
        repeats=whole_number("repeats", args.repeats, 1),
        tasks=tuple(task for task in map(str.strip, args.tasks.split(",")) if task),
        task_limit=whole_number("task_limit", args.task_limit, 1),
        device=SETTINGS["device"].parse(args.device),
        dtype=SETTINGS["dtype"].parse(args.dtype),
    )
    if wanted.stride and wanted.stride > wanted.seq_len:
        expected = f"a whole number from 1 to seq_len ({wanted.seq_len})"
        raise PruningError("setting_range", name="stride", value=wanted.stride, expected=expected)
    return wanted
