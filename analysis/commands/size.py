"""Files and parameters of models from their headers, original against pruned; without models, of every experiment."""

import argparse

from pruning.errors import PruningError
from pruning.experiment import list_experiments
from pruning.words import counted, readable_size

from ..model_files import ModelFiles, open_files
from ..size import experiment_sizes, size_change, size_table
from .arguments import MODEL, add_json, add_output_root, add_sources
from .output import as_json, count, percent, text_table

_BYTES = {name: readable_size for name in ("weight_bytes", "tokenizer_bytes", "other_bytes")}
_COLUMNS = {"weight_bytes": "weights", "tokenizer_bytes": "tokenizer", "other_bytes": "config and other"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{MODEL[0].upper()}{MODEL[1:]}.")
    add_sources(parser)
    add_output_root(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the sizes; returns the exit code."""
    if bool(args.original_model) != bool(args.pruned_model):
        given, missing = ("original_model", "pruned_model") if args.original_model else ("pruned_model", "original_model")
        raise PruningError("analysis_pair", given=f"--{given}", missing=f"--{missing}")
    if not args.models and not args.original_model:
        return _every_experiment(args)
    pair = [open_files(model, args.output_root) for model in (args.original_model, args.pruned_model) if model]
    models = [*pair, *(open_files(model, args.output_root) for model in args.models)]
    change = size_change(*pair) if pair else None
    if args.json:
        content = {"models": [row | {"files": _files(m)} for row, m in zip(_rows(models), models, strict=True)]}
        print(as_json(content | ({} if change is None else {"change": change})))
        return 0
    print(text_table(size_table(models).rename(columns=_COLUMNS), {_COLUMNS[n]: f for n, f in _BYTES.items()}))
    for model in models:
        if len(_files(model)) > 1:
            print(f"\n{model.name}: {counted(len(_files(model)), 'weight file')}")
            print("\n".join(f"  {name}  {readable_size(size)}" for name, size in _files(model).items()))
    if change is not None:
        print(f"\n{size_sentence(change)}")
    return 0


def size_sentence(change) -> str:
    """Original against pruned in two lines."""
    parameters, weights = change.to_dict("records")
    return (
        f"parameters  {parameters['original']:,} -> {parameters['pruned']:,}  "
        f"({-parameters['removed']:+,}, {0 - parameters['removed_share']:+.2%})\n"
        f"weights     {readable_size(weights['original'])} -> {readable_size(weights['pruned'])}  "
        f"({'+' * (weights['removed'] <= 0)}{readable_size(-weights['removed'])}, {0 - weights['removed_share']:+.2%})"
    )


def _every_experiment(args: argparse.Namespace) -> int:
    table = experiment_sizes(list_experiments(args.output_root))
    if args.json:
        print(as_json({"experiments": table}))
    elif table.empty:
        print(f"There are no experiments under {args.output_root}.")
    else:
        shown = {"parameters_before": count, "parameters_after": count, "removed_share": percent}
        shown |= {"weight_bytes_before": readable_size, "weight_bytes_after": readable_size}
        names = {n: n.replace("weight_bytes", "weights").replace("removed_share", "removed").replace("_", " ") for n in shown}
        print(text_table(table.drop(columns="fault").rename(columns=names), {names[n]: form for n, form in shown.items()}))
        for fault in table["fault"].dropna():
            print(f"\nDamaged: {fault}")
    return 0


def _rows(models: list[ModelFiles]) -> list[dict]:
    return size_table(models).to_dict("records")


def _files(model: ModelFiles) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in model.header.weight_files}
