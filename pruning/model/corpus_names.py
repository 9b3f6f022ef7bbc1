"""How a corpus is named: python-stdlib, wikitext2, c4, a text file, or a dataset id. Imports no torch."""

import re
from pathlib import Path

from ..errors import PruningError

PYTHON_STDLIB = "python-stdlib"
HUB_CORPORA = ("wikitext2", "c4")
STDLIB, FILE, HUB = "stdlib", "file", "hub"
_TEXT_SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
_DATASET_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def kind_of_corpus(name: str) -> str:
    """`stdlib`, `file` or `hub`; raises PruningError for what names no corpus, and for a text file that is not there."""
    if name == PYTHON_STDLIB:
        return STDLIB
    if name in HUB_CORPORA:
        return HUB
    if Path(name).suffix in _TEXT_SUFFIXES:
        path = text_file(name)
        if not path.is_file():
            raise PruningError("corpus_file_missing", path=path)
        return FILE
    if _DATASET_ID.fullmatch(name) and "--" not in name and ".." not in name:
        return HUB
    raise PruningError("corpus_unknown", corpus=name)


def text_file(name: str) -> Path:
    """The path of a text file, `~` filled in."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise PruningError("corpus_file_missing", path=name) from error


def are_same_file(one: str, other: str) -> bool:
    """Whether two corpora are one file, of which no part is held out."""
    return kind_of_corpus(one) == kind_of_corpus(other) == FILE and text_file(one).samefile(text_file(other))
