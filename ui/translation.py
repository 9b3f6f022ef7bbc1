"""Sentences of the app in the language of the session: `t("plan.title")`. The sentences themselves: analysis/catalogue.py."""

import functools
import re
from collections.abc import Callable, Iterator

from analysis.catalogue import sentences
from pruning.errors import PruningError
from pruning.planning.plan import TARGET_BASES
from pruning.planning.shape import GROUP_TYPES
from pruning.runs.status import DOING
from pruning.settings import SETTINGS
from pruning.words import FORMATTER, readable_duration
from ui.language import current


class Markdown(str):
    """Text that may be shown as Markdown: it holds no markup but that of this app's own sentences."""


def t(key: str, **values) -> Markdown:
    """The sentence of a key as Markdown; its values are shown as they are, whatever markup they hold.

    Only what `t` or `plain` gave is put in as it is. Raises KeyError for a key that has no sentence.
    """
    return Markdown("".join(_filled(sentences(current())[key], values)))


def words(key: str, **values) -> str:
    """The sentence of a key for a place that knows no Markdown: a chart, a cell or a head of a table, HTML, the terminal."""
    return FORMATTER.format(sentences(current())[key], **values)


def words_of_now() -> Callable[..., str]:
    """`words` in the language of this moment, for what is made later or elsewhere, where the session is not known."""
    known = sentences(current())
    return lambda key, **values: FORMATTER.format(known[key], **values)


def duration(seconds: float) -> str:
    """Seconds in words: `3 min 20 s`, `3 分 20 秒`."""
    return readable_duration(seconds, lambda unit: words(f"time.{unit}"))


def _filled(sentence: str, values: dict) -> Iterator[str]:
    in_code = False
    for literal, field, spec, conversion in FORMATTER.parse(sentence):
        yield literal
        in_code ^= literal.count("`") % 2 == 1
        if field is not None:
            value = FORMATTER.convert_field(FORMATTER.get_field(field, (), values)[0], conversion)
            if isinstance(value, Markdown) and not spec:
                yield value
            else:
                yield (_within_code if in_code else plain)(FORMATTER.format_field(value, spec))


_MARKUP = re.compile(r"[\\`*\[\]<>$!|~#&]|:(?=[A-Za-z:])|(?<![^\W_])_|_(?![^\W_])")
_BLOCK = re.compile(r"^(\d*)([-+=.)])([-+=]*)$")  # first word of a line: a list, or what makes a heading of the line above
# What Streamlit looks for in the text that is left once Markdown was read, where no backslash keeps it away: addresses, which
# become links, short names of emojis and icons, and signs for which it prints others.
_FOUND_LATER = re.compile(r"https?://|www\.|.@.|:[\w+/-]+:|^(<->|->|<-|--|>=|<=|~=)$", re.IGNORECASE)


def plain(text: str) -> Markdown:
    """Text that a person typed or a file holds, so that Markdown shows it as it is: no links, no pictures, no markup.

    Words that only code can hold back become code. White space becomes one space: a new line could begin anything.
    """
    if isinstance(text, Markdown):
        return text
    shown = [code(word) if _FOUND_LATER.search(word) else _MARKUP.sub(r"\\\g<0>", word) for word in text.split()]
    return Markdown(" ".join([_BLOCK.sub(r"\1\\\2\3", shown[0]), *shown[1:]]) if shown else "")


def code(text: str) -> Markdown:
    """Text that a person typed or a file holds, as code."""
    return Markdown(f"`{_within_code(text)}`")


def _within_code(text: str) -> str:
    """Between back quotes nothing is markup but they."""
    return " ".join(text.split()).replace("`", "ˋ")


def error_text(error: PruningError) -> Markdown:
    """The sentence for an error, in the language of the app."""
    return t(f"error.{error.code}", **_in_words(error.values))


def job_error_text(error: dict) -> Markdown:
    """The sentence for an error that a job left in `job.json`: its values were made text there."""
    try:
        return t(f"error.{error['code']}", **_in_words(error["values"]))
    except (KeyError, ValueError):  # a number format in the sentence, a text in the file
        return plain(error["message"])


def _in_words(values: dict) -> dict:
    """The values of an error, those that the engine says in English in the language of the app."""
    said = {name: t(key) for name, value in values.items() if (key := _phrases().get((name, str(value))))}
    setting = SETTINGS.get(values.get("name"))
    if setting is not None and values.get("expected") == setting.expected:
        said["expected"] = setting.expected_by(t)
    return values | said


@functools.cache
def _phrases() -> dict[tuple[str, str], str]:
    """The English words that the engine puts into its errors, each with the name of its value, and their keys."""
    kinds = {(name, kind): f"chart.kind.{kind}" for name in ("kind", "group_type") for kind in GROUP_TYPES}
    targets = {("basis", words): f"target.{basis}" for basis, words in TARGET_BASES.items()}
    return kinds | targets | {("doing", words): f"doing.{step}" for step, words in DOING.items()}
