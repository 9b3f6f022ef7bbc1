"""Perplexity of models on one or more texts. In Python: analysis.perplexity.PPLMetric."""

import argparse
import sys

from pruning.errors import PruningError
from pruning.runs.environment import prepare_this_process
from pruning.settings import SETTINGS, resolve
from pruning.words import counted

from ..model_files import folder_to_load
from .arguments import MODEL, add_json, add_output_root
from .output import as_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{MODEL[0].upper()}{MODEL[1:]}, or a Hugging Face id.")
    add_text_flags(parser)
    add_device_flags(parser)
    parser.add_argument(
        "--batch_size", metavar="WINDOWS", default="16", help="Windows at once; the result is the same. Default: 16."
    )
    add_output_root(parser)
    add_json(parser)


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """--datasets, --seq_len, --stride, --windows."""
    section = parser.add_argument_group("text")
    section.add_argument(
        "--datasets",
        metavar="NAMES",
        default="python-stdlib",
        help="Joined by commas: python-stdlib (needs no download), wikitext2, c4, dataset ids, or text files. "
        "Default: python-stdlib.",
    )
    section.add_argument("--seq_len", metavar="TOKENS", default="128", help="Length of a window. Default: 128.")
    section.add_argument(
        "--stride", metavar="TOKENS", help="From one window to the next; only new tokens count. Default: seq_len, side by side."
    )
    section.add_argument(
        "--windows", metavar="WINDOWS", default="256", help="Windows of each text, spread evenly; 0 takes all. Default: 256."
    )


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("computing")
    for name in ("device", "dtype"):
        setting = SETTINGS[name]
        metavar = "|".join(setting.choices) or "DEVICE"
        section.add_argument(setting.flag, metavar=metavar, default=setting.default, help=f"{setting.help} Default: auto.")


def datasets_of(args: argparse.Namespace) -> list[str]:
    names = [name for name in map(str.strip, args.datasets.split(",")) if name]
    if not names:
        raise PruningError("analysis_arguments", message="--datasets names no text: give for example python-stdlib")
    return names


def whole_number(name: str, value: str | None, least: int) -> int | None:
    """The number that was typed; None stays None. Raises PruningError naming the flag."""
    if value is None:
        return None
    if not str(value).isdecimal() or int(value) < least:
        raise PruningError("setting_range", name=name, value=value, expected=f"a whole number, at least {least}")
    return int(value)


def run(args: argparse.Namespace) -> int:
    """Prints a dictionary per model, and what it refers to; returns the exit code."""
    seq_len, stride = whole_number("seq_len", args.seq_len, 2), whole_number("stride", args.stride, 1)
    windows, batch_size = whole_number("windows", args.windows, 0), whole_number("batch_size", args.batch_size, 1)
    datasets = datasets_of(args)
    folders = {model: folder_to_load(model, args.output_root) for model in args.models}
    settings = {name: SETTINGS[name].parse(getattr(args, name)) for name in ("device", "dtype")}

    prepare_this_process()
    from pruning.model.checkpoint import load, open_checkpoint  # torch takes seconds; bad arguments are answered before

    from ..perplexity import PPLMetric

    found: dict[str, dict] = {}
    for model, folder in folders.items():
        loaded = load(open_checkpoint(folder), resolve({"base_model": folder} | settings))
        device = str(loaded.model.device)
        metric = PPLMetric(
            loaded.model, loaded.tokenizer, datasets, seq_len, device, stride, windows, batch_size, _progress(model)
        )
        found[model] = {"perplexity": dict(metric), "basis": metric.basis}
        if not args.json:
            print(f"{model}: {metric}")
    if args.json:
        print(as_json(found))
        return 0
    for key, basis in next(iter(found.values()))["basis"].items():
        print(f"{key}: {basis_sentence(basis)}")
    return 0


def basis_sentence(basis: dict) -> str:
    stride = f", stride {basis['stride']}" if "stride" in basis else ""
    windows, predicted = counted(basis["windows"], "window"), counted(basis["predicted_tokens"], "predicted token")
    return f"seq {basis['seq_len']}{stride}, {windows}, {predicted}, text {basis['corpus_sha256'][:12]}"


def _progress(model: str):
    """A line that counts windows, on a terminal only."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{model}: {done:,} / {total:,} windows", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
