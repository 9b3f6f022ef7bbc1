"""Every sentence has a key, every key a sentence that is used."""

import ast
import json
import re
from pathlib import Path

import pytest

from pruning.settings import SETTINGS
from ui.translation import t

ROOT = Path(__file__).resolve().parents[2]
TEXTS = json.loads((ROOT / "ui" / "text" / "en.json").read_text(encoding="utf-8"))
WORD = r"[\w\-]+"
SOURCES = [ROOT / "app.py", *ROOT.glob("ui/*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("analysis/**/*.py")]


def key_patterns() -> list[re.Pattern]:
    """Every key asked for in the code, as a pattern: a name inside an f-string stands for any one word."""
    patterns = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                patterns.append(re.escape(node.value))
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(p.value) if isinstance(p, ast.Constant) else WORD for p in node.values]
                if any(isinstance(p, ast.Constant) and "." in p.value for p in node.values):
                    patterns.append("".join(parts))
    return [re.compile(pattern) for pattern in patterns]


def test_every_key_is_used():
    patterns = key_patterns()
    unused = [key for key in TEXTS if not any(pattern.fullmatch(key) for pattern in patterns)]
    assert not unused


def has_sentence(key: str) -> bool:
    try:
        t(key)
    except KeyError as missing:
        return missing.args[0] != key  # a value that the sentence wants is missing, the sentence is there
    return True


@pytest.mark.parametrize("source", [s for s in SOURCES if s.parent.name in ("ui", "pages")], ids=lambda s: s.name)
def test_every_fixed_key_asked_for_has_a_sentence(source):
    asked = [
        node.args[0].value
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "t" and isinstance(node.args[0], ast.Constant)
    ]
    assert [key for key in asked if not has_sentence(key)] == []


@pytest.mark.parametrize("page", ["model", "importance", "plan", "prune", "recover", "compare", "export", "learn"])
def test_every_page_says_what_it_is_for_and_what_it_means(page):
    for part in ("title", "purpose", "explanation"):
        assert TEXTS[f"{page}.{part}"].strip()


def test_every_unit_of_a_setting_has_a_word():
    assert {s.unit for s in SETTINGS.values() if s.unit and f"unit.{s.unit}" not in TEXTS} == set()


def test_no_sentence_of_the_app_stands_in_the_code():
    """Labels of widgets come from `t`: no widget call has a literal text with a space in it as its first argument."""
    found = []
    for source in [s for s in SOURCES if s.parent.name in ("ui", "pages")]:
        calls = [node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        of_streamlit = [c for c in calls if isinstance(c.func, ast.Attribute) and getattr(c.func.value, "id", "") == "st"]
        firsts = [call.args[0] for call in of_streamlit if call.args]
        found += [f.value for f in firsts if isinstance(f, ast.Constant) and isinstance(f.value, str) and " " in f.value]
    assert not found
