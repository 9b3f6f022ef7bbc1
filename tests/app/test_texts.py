"""Every sentence has a key, every key a sentence that is used."""

import ast
import json
import re
from pathlib import Path

import pytest

from analysis.catalogue import CHINESE
from pruning.errors import PruningError
from pruning.settings import SETTINGS
from ui.translation import Markdown, duration, error_text, plain, t

ROOT = Path(__file__).resolve().parents[2]
TEXTS = json.loads((ROOT / "analysis" / "text" / "en.json").read_text(encoding="utf-8"))
WORD = r"[\w\-]+"
SOURCES = [ROOT / "app.py", *ROOT.glob("ui/**/*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("analysis/**/*.py")]
SCREENS = [source for source in SOURCES if source.relative_to(ROOT).parts[0] in ("ui", "pages")]


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


@pytest.mark.parametrize("source", SCREENS, ids=lambda s: s.name)
def test_every_fixed_key_asked_for_has_a_sentence(source):
    asked = [
        node.args[0].value
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) in ("t", "words")
        and isinstance(node.args[0], ast.Constant)
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
    for source in SCREENS:
        calls = [node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        of_streamlit = [c for c in calls if isinstance(c.func, ast.Attribute) and getattr(c.func.value, "id", "") == "st"]
        firsts = [call.args[0] for call in of_streamlit if call.args]
        found += [f.value for f in firsts if isinstance(f, ast.Constant) and isinstance(f.value, str) and " " in f.value]
    assert not found


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [(0.5, "0.5 s", "0.5 秒"), (45, "45 s", "45 秒"), (200, "3 min 20 s", "3 分 20 秒"), (97_200, "1 d 3 h", "1 天 3 小时")],
)
def test_a_duration_is_in_the_language_of_the_session(monkeypatch, seconds, english, chinese):
    assert duration(seconds) == english
    monkeypatch.setattr("ui.translation.current", lambda: CHINESE)
    assert duration(seconds) == chinese


# values in sentences (in a real browser: tests/browser/test_strange_texts.py) ---------------------------------------------


def test_a_value_brings_no_markup_into_a_sentence():
    assert t("sidebar.model", model="![x](y)") == r"Model: \!\[x\](y)"
    assert t("export.folder", folder="a`b *c*") == "The folder is `aˋb *c*`."  # within code nothing else is markup
    assert t("sidebar.model", model="http://a.b c") == "Model: `http://a.b` c"  # which would become a link in spite of all
    assert t("sidebar.model", model="meta-llama/Llama_3.1:8") == "Model: meta-llama/Llama_3.1:8"
    assert error_text(PruningError("hub_gated", model="[a](b)")).startswith(r"'\[a\](b)' is gated")


def test_what_was_made_of_sentences_is_put_in_as_it_is():
    sentence = t("export.folder", folder="x")
    assert t("sidebar.model", model=sentence) == f"Model: {sentence}"
    assert plain(sentence) is sentence and isinstance(plain("x"), Markdown)
