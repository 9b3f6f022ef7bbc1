"""Text for measuring: token samples from a named corpus, a file, or text the person gave.

    documents  ->  token stream, EOS before each document  ->  non-overlapping windows  ->  int64 [samples, seq_len]

Calibration and held-out text never mix: `python-stdlib` keeps the modules of HELD_OUT_MODULES for evaluation only.
"""

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..errors import PruningError, first_line
from .corpus_names import FILE, STDLIB, kind_of_corpus, text_file

CALIBRATION, HELD_OUT = "calibration", "held_out"
# Never trained on by the demo model (assets/demo_model/README.md); any file of these names, vendored copies too.
HELD_OUT_MODULES = (
    *("argparse", "calendar", "configparser", "csv", "difflib", "fractions", "heapq", "ipaddress", "mailbox", "optparse"),
    *("pickletools", "random", "shlex", "smtplib", "statistics", "tarfile", "textwrap", "trace", "uuid", "webbrowser"),
)
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "encodings", "__pycache__"}
_HUB_DATASETS = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", {CALIBRATION: "train", HELD_OUT: "test"}),
    "c4": ("allenai/c4", None, {CALIBRATION: "train", HELD_OUT: "validation"}),
}
_STREAMED = ("c4",)
_C4_FILES = {"train": "en/c4-train.00000-of-01024.json.gz", "validation": "en/c4-validation.00000-of-00008.json.gz"}
_MAX_DOCUMENTS = 20_000  # of c4, which is too large to be downloaded as a whole; its key says so
_POOL_FACTOR = 8  # windows are drawn from a pool this many times as large as asked for


@dataclass(frozen=True)
class Corpus:
    """Named text. `key` is how perplexities on it are labelled."""

    name: str
    key: str
    documents: list[str]

    @cached_property
    def sha256(self) -> str:
        """Hash of the documents in their order: equal hashes mean equal text."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(hashlib.sha256(document.encode()).digest())
        return digest.hexdigest()


def load_corpus(name: str, split: str, text_column: str = "text") -> Corpus:
    """The calibration or held-out part of a corpus: python-stdlib, wikitext2, c4, a file, or a dataset id.

    A file has one part, used for both. Raises PruningError with the choices that work offline.
    """
    kind = kind_of_corpus(name)
    if kind == STDLIB:
        documents, key = [text for _, text in stdlib_documents(split)], f"{name} ({split.replace('_', '-')})"
    elif kind == FILE:
        path = text_file(name)
        documents, key = _file_documents(path, text_column), path.name
    else:
        documents, key = _hub_documents(name, split, text_column)
    documents = [d for d in documents if d.strip()]
    if not documents:
        raise PruningError("corpus_empty", corpus=name)
    return Corpus(name, key, documents)


def stdlib_documents(split: str) -> list[tuple[str, str]]:
    """(path, source) of the running interpreter's standard library, by path: `calibration` or `held_out` modules."""
    root = Path(sysconfig.get_path("stdlib"))
    documents = []
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root)
        if _SKIPPED_FOLDERS & set(inner.parts[:-1]) or path.name.startswith("_sysconfigdata"):
            continue
        if (path.stem in HELD_OUT_MODULES) == (split == HELD_OUT) and (split != HELD_OUT or len(inner.parts) == 1):
            documents.append((inner.as_posix(), path.read_text(encoding="utf-8", errors="replace")))
    return documents


def draw_samples(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, num_samples: int, seq_len: int, seed: int) -> torch.Tensor:
    """Random non-overlapping windows, int64 [samples, seq_len]; fewer than asked when the text has fewer.

    Raises PruningError when the text has not even one window.
    """
    random = np.random.default_rng(seed)
    shuffled = [corpus.documents[i] for i in random.permutation(len(corpus.documents))]
    stream = token_stream(shuffled, tokenizer, at_least=num_samples * seq_len * _POOL_FACTOR)
    pool = windows(stream, seq_len, corpus.name)
    return pool[torch.from_numpy(random.permutation(len(pool))[:num_samples])]


def even_windows(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, seq_len: int, count: int) -> torch.Tensor:
    """Fixed windows spread evenly over the whole text (`count` 0: all of them), int64 [windows, seq_len]."""
    pool = windows(token_stream(corpus.documents, tokenizer), seq_len, corpus.name)
    return pool[_spread(len(pool), count)]


def windows_left_out(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, seq_len: int, count: int, most: int) -> torch.Tensor:
    """Of the windows that `even_windows` leaves out at most `most`, spread evenly too, int64 [windows, seq_len].

    There may be none: `count` is 0, or the text is short.
    """
    pool = windows(token_stream(corpus.documents, tokenizer), seq_len, corpus.name)
    left_out = np.setdiff1d(np.arange(len(pool)), _spread(len(pool), count))
    return pool[left_out[_spread(len(left_out), most)]]


def _spread(size: int, count: int) -> np.ndarray:
    """`count` positions spread evenly over `size` ones; all of them for 0, or if there are not more."""
    if count == 0 or count >= size:
        return np.arange(size)
    return np.linspace(0, size - 1, count).round().astype(np.int64)


def token_stream(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, at_least: int | None = None) -> torch.Tensor:
    """Tokens of the documents, EOS before each, int64 [tokens]; reads on until there are `at_least` so many."""
    pieces: list[int] = []
    for document in documents:
        if tokenizer.eos_token_id is not None:
            pieces.append(tokenizer.eos_token_id)
        pieces.extend(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
        if at_least is not None and len(pieces) >= at_least:
            break
    return torch.tensor(pieces, dtype=torch.int64)


def windows(stream: torch.Tensor, seq_len: int, corpus: str) -> torch.Tensor:
    """Non-overlapping windows of a token stream, the last part dropped, int64 [windows, seq_len]."""
    if len(stream) < seq_len:
        raise PruningError("corpus_short", corpus=corpus, tokens=len(stream), seq_len=seq_len)
    count = len(stream) // seq_len
    return stream[: count * seq_len].view(count, seq_len)


def check_window(seq_len: int, max_position_embeddings: int | None, name: str = "seq_len") -> None:
    """Raises PruningError, naming the setting, when the model cannot see a window of this length at once."""
    if max_position_embeddings and seq_len > max_position_embeddings:
        raise PruningError("seq_len_too_long", name=name, seq_len=seq_len, limit=max_position_embeddings)


def _file_documents(path: Path, text_column: str) -> list[str]:
    if path.suffix == ".txt":
        return [path.read_text(encoding="utf-8", errors="replace")]
    if path.suffix == ".parquet":
        return _parquet_documents(path, text_column)
    with path.open(encoding="utf-8", errors="replace") as file:
        return [_jsonl_text(path, number, line, text_column) for number, line in enumerate(file, start=1) if line.strip()]


def _jsonl_text(path: Path, number: int, line: str, text_column: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PruningError("corpus_line", path=path, line=number, reason=f"not valid JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get(text_column), str):
        raise PruningError("corpus_line", path=path, line=number, reason=f"no text under {text_column!r}")
    return row[text_column]


def _parquet_documents(path: Path, text_column: str) -> list[str]:
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_schema(path).names
        if text_column not in columns:
            raise PruningError("corpus_column", corpus=path.name, column=text_column, columns=", ".join(columns))
        return [str(t) for t in pyarrow.parquet.read_table(path, columns=[text_column])[text_column].to_pylist() if t]
    except (OSError, ValueError) as error:
        raise PruningError("file_broken", path=path, reason=error) from error


def _hub_documents(name: str, split: str, text_column: str) -> tuple[list[str], str]:
    _, config, splits = _hub_dataset(name)
    column = "text" if name in _HUB_DATASETS else text_column
    rows, columns = hub_rows(name, split)
    if column not in (columns or [column]):
        raise PruningError("corpus_column", corpus=name, column=column, columns=", ".join(columns))
    texts = [row[column] for row in rows if isinstance(row[column], str)]
    # wikitext has one line per row; its articles only make sense joined
    documents = ["\n\n".join(texts)] if name == "wikitext2" else texts
    part = f", first {_MAX_DOCUMENTS:,} documents" if name in _STREAMED else ""
    return documents, f"{name} ({config or splits[split]}{part})"


def hub_rows(name: str, split: str) -> tuple[Sequence[dict], list[str]]:
    """All rows of the calibration or held-out part of a hub dataset (of c4 the first), and names of its columns."""
    import datasets  # a second or more; the offline corpora do not need it

    dataset_id, config, splits = _hub_dataset(name)
    part = splits[split]
    files = {"data_files": {part: _C4_FILES[part]}} if name == "c4" else {}
    _refuse_when_offline(name, dataset_id)
    try:
        rows = datasets.load_dataset(dataset_id, config, split=part, streaming=name in _STREAMED, **files)
        return list(rows.take(_MAX_DOCUMENTS)) if name in _STREAMED else rows, rows.column_names or []
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise PruningError("corpus_unreachable", corpus=name, reason=first_line(error)) from error


def _hub_dataset(name: str) -> tuple[str, str | None, dict[str, str]]:
    """Id, config and parts of a hub dataset."""
    return _HUB_DATASETS.get(name, (name, None, {CALIBRATION: "train", HELD_OUT: "test"}))


def _refuse_when_offline(name: str, dataset_id: str) -> None:
    """Asks the hub once: without a network `datasets` would try for half a minute before it gives up."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().dataset_info(dataset_id, timeout=20)
    except huggingface_hub.errors.OfflineModeIsEnabled:
        return  # told to stay offline: what is in the cache is used
    except (huggingface_hub.errors.HTTPError, OSError) as error:
        raise PruningError("corpus_unreachable", corpus=name, reason=first_line(error)) from error
