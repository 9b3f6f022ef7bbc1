"""Every sentence of charts, reports and screens by its key, one file of `text/` per language.

Sentences that the command line says too (errors, names of steps, help of settings) come from the engine's own tables, so that
each is written once in English; the file of another language holds them under the same keys.
Words that change with a number stand in the sentence: `{layers:layer|layers}` (`pruning/words.py`).
"""

import functools
import json
from pathlib import Path

from pruning.errors import MESSAGES
from pruning.planning.matrices import CHECK_SENTENCES
from pruning.planning.plan import TARGET_BASES
from pruning.runs.status import DOING, STEPS
from pruning.settings import EXPECTED, SETTINGS
from pruning.words import FORMATTER

ENGLISH, CHINESE = LANGUAGES = ("en", "zh")
FOLDER = Path(__file__).parent / "text"


@functools.cache
def sentences(language: str) -> dict[str, str]:
    """Every sentence of a language by its key."""
    english = _engine_sentences() if language == ENGLISH else {}
    return english | json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


def english(key: str, **values) -> str:
    """The English sentence of a key, filled in."""
    return FORMATTER.format(sentences(ENGLISH)[key], **values)


def _engine_sentences() -> dict[str, str]:
    errors = {f"error.{code}": sentence for code, sentence in MESSAGES.items()}
    steps = {f"step.{step}": name for step, name in STEPS.items()}
    help_texts = {f"help.{name}": setting.help for name, setting in SETTINGS.items()}
    expected = {f"expected.{part}": words for part, words in EXPECTED.items()}
    targets = {f"target.{basis}": words for basis, words in TARGET_BASES.items()}
    doing = {f"doing.{step}": words for step, words in DOING.items()}
    return errors | steps | help_texts | expected | targets | doing | CHECK_SENTENCES
