"""Text to train on: which tokens are learned, how instructions are packed, which line is broken."""

import json
import re
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from pruning.errors import PruningError
from pruning.model import calibration
from pruning.model.calibration import CALIBRATION, draw_samples, load_corpus
from pruning.model.model_source import DEMO_FOLDER
from pruning.model.training_text import NOT_PREDICTED, load_training_text
from tests.runs.quick_runs import write_text

ROWS = [
    {"instruction": f"Add {i} and 1.", "input": "" if i % 2 else "Be brief.", "output": f"It is {i + 1}."} for i in range(7)
]
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_FOLDER)


def written(path: Path, rows: list[dict]) -> str:
    as_list = path.suffix == ".json"
    path.write_text(json.dumps(rows, indent=1) if as_list else "\n".join(json.dumps(row) for row in rows))
    return str(path)


def learned_text(text, tokenizer) -> str:
    return tokenizer.decode(text.labels[text.labels != NOT_PREDICTED])


def test_of_a_corpus_every_token_is_learned(tmp_path, tokenizer):
    name = str(write_text(tmp_path / "values.txt"))
    text = load_training_text(name, tokenizer, 5, 16, seed=3)
    assert torch.equal(text.input_ids, draw_samples(load_corpus(name, CALIBRATION), tokenizer, 5, 16, 3))
    assert torch.equal(text.labels[:, 1:], text.input_ids[:, 1:])
    assert (text.labels[:, 0] == NOT_PREDICTED).all()  # nothing stands before it


@pytest.mark.parametrize("file", ["alpaca.json", "alpaca.jsonl"])
@pytest.mark.parametrize("template", [None, CHAT])
def test_of_instructions_only_answers_are_learned(tmp_path, tokenizer, monkeypatch, file, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    text = load_training_text(written(tmp_path / file, ROWS), tokenizer, 7, 512, seed=0)
    learned = learned_text(text, tokenizer)
    assert sorted(learned.split(tokenizer.eos_token))[1:] == sorted(row["output"] for row in ROWS)
    whole = tokenizer.decode(text.input_ids[0])
    assert ("<user>Add 2 and 1.\n\nBe brief.<assistant>It is 3." in whole) == bool(template)
    assert ("### Instruction:\nAdd 1 and 1.\n\n### Response:\nIt is 2." in whole) == (not template)


def test_instructions_are_packed_into_windows_of_one_length(tmp_path, tokenizer):
    name = written(tmp_path / "alpaca.json", ROWS)
    text = load_training_text(name, tokenizer, 7, 32, seed=0)
    assert text.input_ids.shape == text.labels.shape and text.input_ids.shape[1] == 32
    assert ((text.labels == text.input_ids) | (text.labels == NOT_PREDICTED)).all()
    assert (text.labels != NOT_PREDICTED).any(dim=1).all()
    fewer = load_training_text(name, tokenizer, 2, 512, seed=0)
    assert learned_text(fewer, tokenizer).count(tokenizer.eos_token) == 2


def test_an_instruction_without_an_answer_is_left_out_and_counted(tmp_path, tokenizer):
    rows = [*ROWS, {"instruction": "Say nothing.", "output": " \n"}, {"instruction": "Nor here.", "output": ""}]
    text = load_training_text(written(tmp_path / "some.jsonl", rows), tokenizer, 100, 512, seed=0)
    assert text.unanswered == 2 and learned_text(text, tokenizer).count(tokenizer.eos_token) == len(ROWS)
    assert "nothing" not in tokenizer.decode(text.input_ids.flatten())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a", \n', "line 2: not valid JSON"),
        ('[{"instruction": "a", "output": "b"},\n {"instruction": "a",,}]', "line 2: not valid JSON"),
        ('{"instruction": "a", "output": "b"}\n\n{"instruction": "a"}\n', "line 3: no text under 'output'"),
        ('[{"instruction": "a", "output": "b"}, 3]', "entry 2 of its list: no text under 'instruction'"),
        ("[]", "holds no text"),
        ("", "holds no text"),
        ('{"instruction": "a", "output": ""}', "No instruction of"),
        ('\ufeff{"instruction": "a", "output": 3}', "line 1: no text under 'output'"),
    ],
)
def test_a_broken_or_empty_file_is_refused_by_line(tmp_path, tokenizer, content, says):
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(PruningError, match=says):
        load_training_text(str(path), tokenizer, 3, 64, seed=0)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_of_json_ends_at_a_newline_only(tmp_path, tokenizer, separator):
    path = tmp_path / "lines.jsonl"
    rows = [row | {"output": f"one{separator}two"} for row in ROWS]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    text = load_training_text(str(path), tokenizer, 7, 512, seed=0)
    assert learned_text(text, tokenizer).count(f"one{separator}two") == 7


def test_a_hub_dataset_of_instructions_is_one_too(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(calibration, "_refuse_when_offline", lambda *_: None)
    rows = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)  # the network ends here
    text = load_training_text("yahma/alpaca-cleaned", tokenizer, 7, 64, seed=0)
    same = load_training_text(written(tmp_path / "alpaca.json", ROWS), tokenizer, 7, 64, seed=0)
    assert torch.equal(text.input_ids, same.input_ids) and torch.equal(text.labels, same.labels)


def test_a_hub_dataset_is_drawn_from_as_a_whole_however_many_rows_it_has(tokenizer, monkeypatch):
    monkeypatch.setattr(calibration, "_refuse_when_offline", lambda *_: None)
    rows = datasets.Dataset.from_dict({"instruction": ["x"] * 30_000, "output": [str(i) for i in range(30_000)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    text = load_training_text("somebody/many", tokenizer, 30, 64, seed=0)
    answers = [int(number) for number in re.findall(r"\d+", learned_text(text, tokenizer))]
    assert max(answers) > 25_000
    plain = datasets.Dataset.from_dict({"text": [f"line {i}" for i in range(30_000)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: plain)
    assert len(calibration.load_corpus("somebody/lines", "calibration").documents) == 30_000


def test_of_c4_only_a_part_is_read_and_its_name_says_so(monkeypatch):
    monkeypatch.setattr(calibration, "_refuse_when_offline", lambda *_: None)
    rows = datasets.Dataset.from_dict({"text": [f"line {i}" for i in range(20_100)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    corpus = calibration.load_corpus("c4", "calibration")
    assert len(corpus.documents) == 20_000 and corpus.key == "c4 (train, first 20,000 documents)"


def test_json_lines_with_a_text_column_are_a_corpus(tmp_path, tokenizer):
    path = written(tmp_path / "text.jsonl", [{"text": "x = 1\n" * 50}])
    assert (load_training_text(path, tokenizer, 2, 16, seed=0).labels[:, 1:] != NOT_PREDICTED).all()
