"""Every sentence of the app by key, in the language of the session: `t("plan.title")`. Texts live in `ui/text/<language>.json`.

Sentences that the command line says too (errors, names of steps, help of settings) come from the engine's own catalogue,
so that each stands in one place in English; the file of another language holds them under the same keys.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

from analysis.diff import CHECK_SENTENCES
from pruning.errors import MESSAGES, PruningError
from pruning.planning.plan import TARGET_BASES
from pruning.planning.shape import GROUP_TYPES
from pruning.runs.status import DOING, STEPS
from pruning.settings import EXPECTED, SETTINGS
from ui.language import ENGLISH, current

_FOLDER = Path(__file__).parent / "text"


def t(key: str, **values) -> str:
    """The sentence of a key with its values filled in; raises KeyError for a key that has no sentence."""
    return sentences(current())[key].format(**values)


def t_of_now() -> Callable[..., str]:
    """`t` in the language of this moment, for what is made later or elsewhere, where the session is not known."""
    known = sentences(current())
    return lambda key, **values: known[key].format(**values)


def plain(text: str) -> str:
    """Text that somebody typed or a file holds, so that Markdown shows it as it is: no links, no pictures, no markup."""
    return re.sub(r"([\\\[\]<>*$!|~#:])", r"\\\1", text)


def error_text(error: PruningError) -> str:
    """The sentence for an error, in the language of the app."""
    return t(f"error.{error.code}", **_plain_values(error.values))


def job_error_text(error: dict) -> str:
    """The sentence for an error that a job left in `job.json`: its values were made text there."""
    try:
        return t(f"error.{error['code']}", **_plain_values(error["values"]))
    except (KeyError, ValueError):  # a number format in the sentence, a text in the file
        return plain(error["message"])


def _plain_values(values: dict) -> dict:
    shown = {name: value if isinstance(value, int | float) else plain(str(value)) for name, value in values.items()}
    said = {name: t(key) for name, value in values.items() if (key := _phrases().get((name, str(value))))}
    return shown | said | _expected(values)


def _expected(values: dict) -> dict:
    """What a setting must be, where an error says that in English."""
    setting = SETTINGS.get(values.get("name"))
    said = setting is not None and values.get("expected") == setting.expected
    return {"expected": setting.expected_by(t)} if said else {}


@functools.cache
def _phrases() -> dict[tuple[str, str], str]:
    """The English words that the engine puts into its errors, each with the name of its value, and their keys."""
    kinds = {(name, kind): f"chart.kind.{kind}" for name in ("kind", "group_type") for kind in GROUP_TYPES}
    targets = {("basis", words): f"target.{basis}" for basis, words in TARGET_BASES.items()}
    return kinds | targets | {("doing", words): f"doing.{step}" for step, words in DOING.items()}


@functools.cache
def _engine_sentences() -> dict[str, str]:
    errors = {f"error.{code}": sentence for code, sentence in MESSAGES.items()}
    steps = {f"step.{step}": name for step, name in STEPS.items()}
    help_texts = {f"help.{name}": setting.help for name, setting in SETTINGS.items()}
    expected = {f"expected.{part}": words for part, words in EXPECTED.items()}
    targets = {f"target.{basis}": words for basis, words in TARGET_BASES.items()}
    doing = {f"doing.{step}": words for step, words in DOING.items()}
    return errors | steps | help_texts | expected | targets | doing | CHECK_SENTENCES


@functools.cache
def sentences(language: str) -> dict[str, str]:
    """Every sentence of a language by its key."""
    english = _engine_sentences() if language == ENGLISH else {}
    return english | json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
