"""One ladder: imports go down the floors only and in no circle, no path leads up, and the planning floor stays light."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "pages", "ui", "analysis", "pruning")
# Highest first. A module may import from its own floor and those below.
FLOORS = [
    ("app",),
    ("pages",),
    ("ui",),
    ("analysis",),
    ("pruning.commands", "pruning.__main__"),
    ("pruning.runs",),
    ("pruning.plan_from_file", "pruning.experiment_table", "pruning"),
    ("pruning.export",),
    ("pruning.model",),
    ("pruning.experiment",),
    ("pruning.planning", "pruning.palette"),
    ("pruning.settings",),
    ("pruning.files",),
    ("pruning.methods", "pruning.strategies", "pruning.process", "pruning.forms", "pruning.errors", "pruning.words"),
]
SHOWS_THE_SCREEN = ("app", "pages", "ui")
# Pages open and sliders answer by these.
LIGHT = (
    *("pruning.planning", "pruning.settings", "pruning.experiment", "pruning.experiment_table", "pruning.plan_from_file"),
    *("analysis.charts", "analysis.report", "analysis.catalogue", "pruning.runs.training_history", "pruning.runs.damage"),
)


def modules() -> dict[str, Path]:
    files = [ROOT / "app.py", *(f for package in PACKAGES[1:] for f in sorted((ROOT / package).rglob("*.py")))]
    return {name_of(file): file for file in files if file.is_file()}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = modules()
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}


def floor_of(module: str) -> int:
    """Index in FLOORS of the longest name that fits."""
    fitting = [(len(p), i) for i, floor in enumerate(FLOORS) for p in floor if f"{module}.".startswith(f"{p}.")]
    return max(fitting)[1]


def imports_of(module: str) -> set[str]:
    """Absolute names of all that a module imports, wherever in it; `from a import b` gives `a.b`."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    names = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def modules_behind(module: str) -> set[str]:
    """The modules of the house that a module imports, or imports something from."""
    return {name if name in MODULES else name.rpartition(".")[0] for name in imports_of(module)} & MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_floors(module):
    for name in modules_behind(module):
        assert floor_of(name) >= floor_of(module), f"{module} imports {name} from a floor above"
    assert module.startswith(SHOWS_THE_SCREEN) or not any(name.split(".")[0] == "streamlit" for name in imports_of(module))


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: modules_behind(module) - {module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_no_path_leads_to_a_floor_above(module):
    """A file of a floor above that is read from below is an import by another door."""
    package = module.split(".")[0]
    above = PACKAGES[: PACKAGES.index(package)]
    for node in ast.walk(TREES[module]):
        parts = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("Path", "joinpath", "open"):
            parts = node.args
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                first = Path(part.value).parts[:1]
                assert not set(first) & {*above, "app.py"}, f"{module} reads {part.value} of a floor above"


def test_light_modules_bring_in_neither_torch_nor_transformers_nor_streamlit():
    """All in one process: what any of them brought in would be there."""
    found = [module for module in MODULES if f"{module}.".startswith(tuple(f"{light}." for light in LIGHT))]
    assert all(any(f"{module}.".startswith(f"{light}.") for module in found) for light in LIGHT)
    code = f"import sys, {', '.join(found)}; print(*sorted({{'torch', 'transformers', 'streamlit'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
