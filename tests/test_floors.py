"""Imports go down the floors only, and the planning floor stays light (decisions.md, Layout)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Highest first. A module may import from its own floor and those below.
FLOORS = [
    ("app",),
    ("pages",),
    ("ui",),
    ("pruning.commands", "pruning.__main__", "analysis.commands", "analysis.__main__"),
    ("pruning.runs",),
    ("analysis",),
    ("pruning.model", "pruning.export"),
    ("pruning.experiment",),
    ("pruning.planning",),
    ("pruning.settings",),
    ("pruning.files",),
    ("pruning.process",),
    ("pruning.errors", "pruning.forms"),
]
SHOWS_THE_SCREEN = ("app", "pages", "ui")
PACKAGES = ("pages", "ui", "analysis", "pruning")


def modules() -> dict[str, Path]:
    files = [ROOT / "app.py", *(f for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py")))]
    return {name_of(file): file for file in files if file.is_file()}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int | None:
    """Index in FLOORS; None for modules outside the house, and for the bare package `pruning`."""
    for index, prefixes in enumerate(FLOORS):
        if any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes):
            return index
    return None


def imports_of(module: str, file: Path) -> list[str]:
    """Absolute names of all that a module imports, wherever in it; `from a import b` gives `a.b`."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{source}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_the_floors(module):
    file = modules()[module]
    own = floor_of(module)
    for name in imports_of(module, file):
        floor = floor_of(name)
        assert floor is None or own is None or floor >= own, f"{module} imports {name} from a floor above"
        assert module.startswith(SHOWS_THE_SCREEN) or name.split(".")[0] != "streamlit", f"{module} imports streamlit"


def test_every_module_has_a_floor():
    without = [module for module in modules() if floor_of(module) is None and module not in ("pruning",)]
    assert not without


@pytest.mark.parametrize(
    "package",
    [
        "pruning.planning",
        "pruning.settings",
        "pruning.experiment",
        "analysis.charts",
        "analysis.diff",
        "analysis.experiments",
        "analysis.report",
    ],
)
def test_light_modules_bring_in_neither_torch_nor_transformers_nor_streamlit(package):
    found = [module for module in modules() if module == package or module.startswith(package + ".")]
    code = f"import sys, {', '.join(found)}; print(*sorted({{'torch', 'transformers', 'streamlit'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
    assert len(found) >= (5 if package == "pruning.planning" else 1)
