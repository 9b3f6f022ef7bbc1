"""Every sentence has a key, every key a sentence that is used."""

import ast
import json
import re
import string
from pathlib import Path

import pytest

from analysis.catalogue import CHINESE, ENGLISH, sentences
from pruning.errors import PruningError
from pruning.settings import SETTINGS
from pruning.words import FORMATTER
from ui.translation import Markdown, duration, error_text, job_error_text, plain, t

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


# counts ---------------------------------------------------------------------------------------------------------------

NOUNS = {
    **{f"{noun}s": noun for noun in ("layer", "group", "channel", "head", "window", "token", "sample", "row", "byte", "file")},
    **{f"{noun}s": noun for noun in ("point", "step", "seed", "round", "experiment", "setting", "neighbour")},
    **{"matrices": "matrix", "entries": "entry"},
}
KIND_OF = "(?:(?:attention|MLP|query|KV|calibration|predicted|whole|half-written) )?"
NEVER_ONE = {"seq_len", "tokens_per_step", "limit"}  # tokens of a window, of a step, and what a model sees at most
NEVER_ONE_IN = {"error.gguf_vocabulary", "chart.matrix.title"}


def choices(sentence: str) -> list[tuple[str, str]]:
    """The values by which a sentence chooses, each with its words: `{layers:layer|layers}`."""
    parsed = string.Formatter().parse(sentence)
    return [(name, spec) for _, name, spec, _ in parsed if spec and "|" in spec]


COUNTING = [key for key, sentence in sentences(ENGLISH).items() if choices(sentence)]


def filled(key: str, language: str, count: int) -> str:
    """A sentence whose counts are all `count`, and whose other values are 7."""
    chosen_by = {name for name, _ in choices(sentences(ENGLISH)[key])}
    sentence = sentences(language)[key]
    names = {name for _, name, _, _ in string.Formatter().parse(sentence) if name}
    return FORMATTER.format(sentence, **{name: count if name in chosen_by else 7 for name in names})


@pytest.mark.parametrize("key", COUNTING)
def test_a_sentence_agrees_with_its_counts(key):
    assert not re.search(rf"(?<![\w.,])1\** {KIND_OF}({'|'.join(NOUNS)})\b", filled(key, ENGLISH, 1))
    for count in (0, 2):
        assert not re.search(rf"(?<![\w.,]){count}\** {KIND_OF}({'|'.join(NOUNS.values())})\b", filled(key, ENGLISH, count))
    with_one, with_two = (filled(key, CHINESE, count) for count in (1, 2))
    assert re.sub(r"\b2\b", "1", with_two) == re.sub(r"\b2\b", "1", with_one)  # Chinese has one form for all counts


def test_words_are_chosen_between_two_that_differ_and_only_in_english():
    for key in COUNTING:
        for name, spec in choices(sentences(ENGLISH)[key]):
            words = spec.split("|")
            assert len(words) == len(set(words)) == 2 and all(words), (key, name)
    assert not [key for key, sentence in sentences(CHINESE).items() if choices(sentence)]


def test_no_count_stands_before_a_noun_that_does_not_change():
    bare = re.compile(rf"{{(\w+):?,?}}\** (?:of {{\w+:?,?}} )?{KIND_OF}({'|'.join(NOUNS)})\b")
    found = {(key, match[1]) for key, sentence in sentences(ENGLISH).items() for match in bare.finditer(sentence)}
    assert {(key, name) for key, name in found if name not in NEVER_ONE and key not in NEVER_ONE_IN} == set()


def test_places_where_one_is_common():
    assert t("plan.emptied", layers=1, gone=0) == ("1 layer loses its whole attention or MLP; 0 layers are deleted altogether.")
    assert t("plan.nearly_emptied.mlp", count=1, layers="3").startswith("Layer 3 keeps at most a tenth of its MLP channels.")
    assert t("plan.shortfall", asked=0.3, spared=1, layers=5, actual=0.2, rates="x").startswith(
        "30.0% was asked; 1 of 5 layers is protected"
    )
    assert "1 query head uses one KV head" in t("model.explanation", heads=4, kv_heads=4, ratio=1)
    assert t("prune.plan", ratio=0.1, target=0.1, basis="x", attention=1, mlp=2, layers=0).endswith(
        "1 attention group, 2 MLP channels, 0 whole layers."
    )
    assert t("export.leftovers", count=1).endswith("It is never offered, and the next export removes it.")


def test_the_count_of_an_error_that_a_job_left_is_chosen_by_too():
    left = json.loads(json.dumps(PruningError("uniform_needs_all_groups", missing=1).content))
    assert job_error_text(left).startswith("The table has no score for 1 group, so")


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
