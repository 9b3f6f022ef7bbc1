"""Measures speed, memory and quality: `python -m benchmarks planning`, `python -m benchmarks planning --help`.

One module per benchmark, with `add_arguments(parser)` and `run(args)`; its first docstring line is its help. Modules are
imported when they are asked for, so that a benchmark of numpy code does not load torch.
"""

import argparse
import importlib
import pkgutil
import sys

import benchmarks
from pruning.runs.environment import prepare_this_process


def main(arguments: list[str]) -> None:
    """Runs the benchmark named first in `arguments`, with the rest as its flags."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    chooser = argparse.ArgumentParser("python -m benchmarks", description="Measure speed, memory and quality.")
    chooser.add_argument("benchmark", choices=names)
    name = chooser.parse_args(arguments[:1]).benchmark
    prepare_this_process()
    module = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(f"python -m benchmarks {name}", description=module.__doc__.splitlines()[0])
    module.add_arguments(parser)
    module.run(parser.parse_args(arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
