"""Every sentence of the app by key: `t("plan.title")`. Texts live in `ui/text/<language>.json`.

Sentences that the command line says too (errors, names of steps, help of settings) come from the engine's own catalogue,
so that each stands in one place; a language file may hold a translation under the same key.
"""

import functools
import json
import re
from pathlib import Path

from pruning.errors import MESSAGES, PruningError
from pruning.runs.status import STEPS
from pruning.settings import SETTINGS

_FOLDER = Path(__file__).parent / "text"
DEFAULT_LANGUAGE = "en"


def t(key: str, **values) -> str:
    """The sentence of a key with its values filled in; raises KeyError for a key that has no sentence."""
    return _sentences()[key].format(**values)


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
    return {name: value if isinstance(value, int | float) else plain(str(value)) for name, value in values.items()}


@functools.cache
def _engine_sentences() -> dict[str, str]:
    errors = {f"error.{code}": sentence for code, sentence in MESSAGES.items()}
    steps = {f"step.{step}": name for step, name in STEPS.items()}
    help_texts = {f"help.{name}": setting.help for name, setting in SETTINGS.items()}
    return errors | steps | help_texts


@functools.cache
def _sentences() -> dict[str, str]:
    return _engine_sentences() | json.loads((_FOLDER / f"{DEFAULT_LANGUAGE}.json").read_text(encoding="utf-8"))
