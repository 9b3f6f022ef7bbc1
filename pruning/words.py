"""Numbers in words: bytes, seconds, counts, and the sentences that hold them.

    "{layers:,} {layers:layer goes|layers go}"  --FORMATTER.format(_, layers=1)-->  "1 layer goes"

English, as the command line speaks; sentences and units of other languages are in `analysis/text/`.
"""

import string
from collections.abc import Callable

from humanize import naturalsize

_TIMES = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def readable_size(count: float) -> str:
    """A number of bytes as people read it, in powers of 1024: `12.5 MiB`, `14.96 GiB`."""
    return naturalsize(count, binary=True, format="%.2f" if abs(count) >= 2**30 else "%.1f")


def readable_duration(seconds: float, word: Callable[[str], str] = str) -> str:
    """The two largest units: `45 s`, `3 min 20 s`, `2 h 5 min`, `1 d 3 h`; tenths of a second below one.

    `word` gives a unit (`d`, `h`, `min` or `s`) in another language.
    """
    if seconds < 1:
        return f"{seconds:.1f} {word('s')}"
    whole = round(seconds)
    for unit, name, part, part_name in _TIMES:
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {word(name)}" + (f" {rest} {word(part_name)}" if rest else "")
    return f"{whole} {word('s')}"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """`1 layer`, `30 layers`; `nouns` is the plural where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


class SentenceFormatter(string.Formatter):
    """Fills sentences. `{layers:layer goes|layers go}` becomes what stands first for one layer, else what stands second."""

    def format_field(self, value, format_spec: str) -> str:
        one, chooses, other = format_spec.partition("|")
        if chooses:
            return one if value in (1, "1") else other
        return super().format_field(value, format_spec)


FORMATTER = SentenceFormatter()
