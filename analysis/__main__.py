"""`python -m analysis size | diff | details | ...`: measures and describes results without a browser."""

import difflib
import importlib
import sys

from pruning.commands.arguments import EPILOG, Parser
from pruning.commands.exits import exit_code
from pruning.errors import PruningError

COMMANDS = {
    "size": "files and parameters of models; original against pruned",
    "diff": "every matrix before and after a cut, and checks that it is right",
    "details": "what a plan or a ratio would do, from a config alone",
    "flow": "the way from rates to the cut as one picture",
    "perplexity": "perplexity of models on one or more texts",
    "evaluate": "models side by side: size, perplexity, speed, memory, zero-shot tasks",
    "report": "one HTML page for an experiment, which needs no network",
    "all": "size, diff, picture and report of one experiment in one go",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise PruningError("unexpected_flag", message=f"There is no command {name!r}{hint}")
    module = importlib.import_module(f".commands.{name}", __package__)  # only this one: diff must not wait for torch
    what = " ".join(module.__doc__.split())
    parser = Parser(prog=f"python -m analysis {name}", description=what, epilog=EPILOG, allow_abbrev=False)
    module.add_arguments(parser)
    return module.run(parser.parse_args(rest))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        f"usage: python -m analysis COMMAND [options]\n\nMeasures and describes pruned models.\n\n{lines}\n\n"
        f"python -m analysis COMMAND --help lists the options of a command.\n{EPILOG}"
    )


if __name__ == "__main__":
    sys.exit(main())
