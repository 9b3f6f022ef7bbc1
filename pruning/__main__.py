"""`python -m pruning importance | global | layer | uniform | apply | recover | export | list`: without a browser."""

import sys

from .commands import export, listing, recover, run
from .commands.arguments import EPILOG, Parser, add_flags
from .commands.exits import exit_code

_OTHERS = {
    "export": (export, "make other forms of a cut model: zip, GGUF, .bin, another number format; upload it"),
    "list": (listing, "experiments and their state"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    known = _parser().parse_args(arguments)
    if known.command in run.COMMANDS:
        return run.run(known.command, known)
    if known.command == recover.COMMAND:
        return recover.run(known)
    return _OTHERS[known.command][0].run(known)


def _parser() -> Parser:
    parser = Parser(prog="python -m pruning", description="Prune Llama-family models: whole attention groups and MLP channels.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for name, what in run.COMMANDS.items():
        command = _add(commands, name, what, usage=f"python -m pruning {name} --base_model MODEL [options]")
        add_flags(command, name)
    what = "win quality back: repair or train the cut model of an experiment, and put the result in its place"
    recover.add_arguments(_add(commands, recover.COMMAND, what))
    for name, (module, what) in _OTHERS.items():
        module.add_arguments(_add(commands, name, what))
    return parser


def _add(commands, name: str, what: str, usage: str | None = None) -> Parser:
    description = what[0].upper() + what[1:] + "."
    return commands.add_parser(name, help=what, usage=usage, description=description, epilog=EPILOG, allow_abbrev=False)


if __name__ == "__main__":
    sys.exit(main())
