"""Text to train on: windows of a corpus, or instructions with their answers, packed.

    corpus         windows, every token is predicted
    instructions   prompt answer EOS prompt answer EOS ...  ->  windows; only tokens of answers are predicted

Instructions are a hub dataset, or a file of JSON (a list) or JSON lines, with the columns instruction, output and, if there is
one, input (as in yahma/alpaca-cleaned). The prompt is that of the tokenizer's chat template, else a plain one. Knows nothing
about training.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..errors import PruningError
from .calibration import CALIBRATION, draw_samples, hub_rows, load_corpus
from .corpus_names import FILE, HUB, HUB_CORPORA, kind_of_corpus, text_file

NOT_PREDICTED = -100
_PLAIN = "### Instruction:\n{request}\n\n### Response:\n"


@dataclass(frozen=True)
class TrainingText:
    """`input_ids` and `labels`, int64 [windows, seq_len]; a label of NOT_PREDICTED is not learned. `key` names the text.

    `unanswered` instructions were left out: they would teach to say nothing.
    """

    key: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    unanswered: int = 0

    @property
    def sha256(self) -> str:
        """Of all tokens, and of which of them are learned."""
        return hashlib.sha256(self.input_ids.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    @property
    def seq_len(self) -> int:
        return self.input_ids.shape[1]

    def without_last(self, count: int) -> "TrainingText":
        """The same text without its last `count` windows."""
        return replace(self, input_ids=self.input_ids[:-count], labels=self.labels[:-count])

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.input_ids[at], "labels": self.labels[at]}


def load_training_text(
    name: str, tokenizer: PreTrainedTokenizerBase, count: int, seq_len: int, seed: int, text_column: str = "text"
) -> TrainingText:
    """`count` windows of a corpus's calibration part, or `count` instructions of a set that have an answer, drawn by `seed`.

    Raises PruningError for a text that is empty or too short, and for a broken line by its number.
    """
    rows = _instructions(name)
    if rows is None:
        corpus = load_corpus(name, CALIBRATION, text_column)
        windows = draw_samples(corpus, tokenizer, count, seq_len, seed)
        return TrainingText(corpus.key, windows, _without_first(windows.clone()))
    answered = [at for at, row in enumerate(rows) if (row["output"] or "").strip()]
    if not answered:
        raise PruningError("instructions_unanswered" if len(rows) else "corpus_empty", corpus=name)
    drawn = np.random.default_rng(seed).permutation(answered)[:count].tolist()
    packed = _packed(Path(name).name, [_tokens(rows[i], tokenizer) for i in drawn], seq_len, tokenizer)
    return replace(packed, unanswered=len(rows) - len(answered))


def _instructions(name: str) -> Sequence[dict] | None:
    """All rows of an instruction set; None for plain text."""
    kind = kind_of_corpus(name)
    if kind == FILE and text_file(name).suffix.lower() in (".json", ".jsonl"):
        return _of_file(text_file(name))
    if kind == HUB and name not in HUB_CORPORA:
        rows, columns = hub_rows(name, CALIBRATION)
        return rows if {"instruction", "output"} <= set(columns) else None
    return None


def _of_file(path: Path) -> list[dict] | None:
    code, rows = _rows(path)
    if rows and not any("instruction" in row for _, row in rows[:1] if isinstance(row, dict)):
        return None
    found: list[dict] = []
    for place, row in rows:
        for column in ("instruction", "output"):
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                raise PruningError(code, path=path, line=place, reason=f"no text under {column!r}")
        found.append(row)
    return found


def _rows(path: Path) -> tuple[str, list[tuple[int, object]]]:
    """The error that names a row, and (line, row) of JSON lines, or (entry counted from 1, row) of a JSON list."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # Windows begins files with a mark
    try:
        if text.lstrip().startswith("["):
            return "corpus_entry", list(enumerate(json.loads(text), start=1))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise PruningError("corpus_line", path=path, line=line, reason=f"not valid JSON ({error})") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [(number, json.loads(line))] if line.strip() else []
        except ValueError as error:
            raise PruningError("corpus_line", path=path, line=number, reason=f"not valid JSON ({error})") from error
    return "corpus_line", rows


def _tokens(row: dict, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of one instruction's prompt, and of its answer with EOS."""
    request = "\n\n".join(filter(None, (row["instruction"].strip(), str(row.get("input") or "").strip())))
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": request}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        prompt = tokenizer(_PLAIN.format(request=request), verbose=False)["input_ids"]
    answer = tokenizer(row["output"], add_special_tokens=False, verbose=False)["input_ids"]
    return prompt, answer + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])


def _packed(key: str, examples: list[tuple[list[int], list[int]]], seq_len: int, tokenizer) -> TrainingText:
    """Examples one after the other, in windows; the last is filled up, one in which nothing is predicted is left out."""
    ids = [token for prompt, answer in examples for token in (*prompt, *answer)]
    labels = [label for prompt, answer in examples for label in (*[NOT_PREDICTED] * len(prompt), *answer)]
    filling = -len(ids) % seq_len
    ids += [tokenizer.eos_token_id or 0] * filling
    labels += [NOT_PREDICTED] * filling
    windows = torch.tensor(ids, dtype=torch.int64).view(-1, seq_len)
    targets = _without_first(torch.tensor(labels, dtype=torch.int64).view(-1, seq_len))
    learned = (targets != NOT_PREDICTED).any(dim=1)
    if not learned.any():
        raise PruningError("corpus_empty", corpus=key)
    return TrainingText(key, windows[learned], targets[learned])


def _without_first(labels: torch.Tensor) -> torch.Tensor:
    labels[:, 0] = NOT_PREDICTED  # there is nothing before the first token of a window
    return labels
