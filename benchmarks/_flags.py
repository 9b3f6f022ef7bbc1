"""Flags that name several things at once: `--methods taylor,l2`."""

import argparse
from collections.abc import Callable, Iterable


def add_names(parser: argparse.ArgumentParser, flag: str, choices: Iterable[str]) -> None:
    """Adds a flag that takes some of `choices`, joined by commas; default all."""
    choices = list(choices)
    parser.add_argument(flag, type=_names_of(choices), default=choices, help=f"default {','.join(choices)}")


def _names_of(choices: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(choices)}")
        return names

    return parse
