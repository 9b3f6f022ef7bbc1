"""Calibration text: which files it comes from, windows of full length, and a sentence for text that cannot be used."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from pruning.errors import PruningError
from pruning.model import calibration
from pruning.model.calibration import (
    CALIBRATION,
    HELD_OUT,
    HELD_OUT_MODULES,
    Corpus,
    check_window,
    draw_samples,
    even_windows,
    load_corpus,
    stdlib_documents,
    token_stream,
)

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "assets" / "demo_model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


def numbers(count: int) -> Corpus:
    """Documents of which each is different everywhere."""
    return Corpus("numbers", "numbers", [" ".join(str(i * 1000 + j) for j in range(200)) for i in range(count)])


# the embedded corpus --------------------------------------------------------------------------------------------------


def test_the_held_out_modules_are_those_of_the_model_card():
    row = re.search(r"held-out modules, never trained on \| ([a-z ]+) \(", (DEMO / "README.md").read_text())
    assert sorted(row[1].split()) == sorted(HELD_OUT_MODULES)
    assert len(HELD_OUT_MODULES) == 20


def test_held_out_text_is_just_these_modules_and_calibration_text_none_of_them():
    assert [path for path, _ in stdlib_documents(HELD_OUT)] == sorted(f"{name}.py" for name in HELD_OUT_MODULES)
    paths = [path for path, _ in stdlib_documents(CALIBRATION)]
    assert not {Path(path).stem for path in paths} & set(HELD_OUT_MODULES)
    assert {"json/decoder.py", "dataclasses.py", "asyncio/tasks.py"} <= set(paths)
    assert not [path for path in paths if re.search(r"(^|/)(test|tests|idle_test|encodings|site-packages)/", path)]


def test_a_vendored_copy_of_a_held_out_module_is_in_neither_part(tmp_path, monkeypatch):
    for name in ("csv.py", "json/decoder.py", "vendored/csv.py", "site-packages/x.py", "test/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    monkeypatch.setattr(calibration.sysconfig, "get_path", lambda name: str(tmp_path))
    assert [path for path, _ in stdlib_documents(HELD_OUT)] == ["csv.py"]
    assert [path for path, _ in stdlib_documents(CALIBRATION)] == ["json/decoder.py"]


def test_the_corpus_is_the_same_each_time_and_its_parts_differ():
    first, again, held_out = (load_corpus("python-stdlib", part) for part in (CALIBRATION, CALIBRATION, HELD_OUT))
    assert first.sha256 == again.sha256 != held_out.sha256
    assert (first.key, held_out.key) == ("python-stdlib (calibration)", "python-stdlib (held-out)")


# windows --------------------------------------------------------------------------------------------------------------


def test_samples_are_whole_windows_of_the_text_each_at_most_once(tokenizer):
    samples = draw_samples(numbers(40), tokenizer, 12, 32, seed=0)
    assert samples.dtype == torch.int64 and samples.shape == (12, 32)
    assert len({tuple(row) for row in samples.tolist()}) == 12


def test_the_seed_decides(tokenizer):
    def draw(seed):
        return draw_samples(numbers(40), tokenizer, 6, 32, seed)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_a_text_with_fewer_windows_gives_all_it_has(tokenizer):
    corpus = numbers(1)
    tokens = len(token_stream(corpus.documents, tokenizer))
    samples = draw_samples(corpus, tokenizer, 10_000, 64, seed=0)
    assert samples.shape == (tokens // 64, 64)


def test_each_document_begins_with_the_token_that_ends_one(tokenizer):
    stream = token_stream(["a = 1", "b = 2"], tokenizer).tolist()
    starts = [i for i, token in enumerate(stream) if token == tokenizer.eos_token_id]
    assert starts == [0, len(stream) // 2]
    assert tokenizer.decode(stream, skip_special_tokens=True) == "a = 1b = 2"


def test_even_windows_take_the_first_and_the_last_and_are_always_the_same(tokenizer):
    corpus = numbers(6)
    all_windows = even_windows(corpus, tokenizer, 32, 0)
    some = even_windows(corpus, tokenizer, 32, 5)
    assert torch.equal(some[0], all_windows[0]) and torch.equal(some[-1], all_windows[-1]) and len(some) == 5
    assert torch.equal(all_windows.flatten(), token_stream(corpus.documents, tokenizer)[: all_windows.numel()])
    assert torch.equal(even_windows(corpus, tokenizer, 32, 10**6), all_windows)


def test_text_shorter_than_one_window_is_refused_with_its_length(tokenizer):
    corpus = Corpus("note.txt", "note.txt", ["x = 1"])
    tokens = len(token_stream(corpus.documents, tokenizer))
    for draw in (lambda: draw_samples(corpus, tokenizer, 1, 128, 0), lambda: even_windows(corpus, tokenizer, 128, 0)):
        with pytest.raises(PruningError, match=f"note.txt has {tokens} tokens, less than one window of 128"):
            draw()


def test_a_window_longer_than_the_model_sees_is_refused():
    check_window(256, 256)
    check_window(10**6, None)
    with pytest.raises(PruningError, match="`seq_len` is 257; this model sees at most 256 tokens"):
        check_window(257, 256)


# files ----------------------------------------------------------------------------------------------------------------


def write(path: Path, content) -> str:
    if isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    else:
        path.write_text(content, encoding="utf-8")
    return str(path)


def test_files_of_each_kind(tmp_path):
    text = load_corpus(write(tmp_path / "a.txt", "one\ntwo ü\n"), CALIBRATION)
    lines = load_corpus(write(tmp_path / "b.jsonl", '{"text": "one"}\n\n{"text": "two"}\n'), HELD_OUT)
    table = load_corpus(write(tmp_path / "c.parquet", pd.DataFrame({"body": ["one", None, "two"]})), HELD_OUT, "body")
    assert text.documents == ["one\ntwo ü\n"]
    assert lines.documents == table.documents == ["one", "two"]
    assert (text.key, lines.key, table.key) == ("a.txt", "b.jsonl", "c.parquet")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": \n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", '{"text": "one"}\n\n{"txt": "two"}\n', r"a\.jsonl, line 3: no text under 'text'"),
        ("a.jsonl", '["one"]\n', r"a\.jsonl, line 1: no text under 'text'"),
        ("a.parquet", pd.DataFrame({"body": ["one"], "id": [1]}), r"a\.parquet has no text column 'text'; it has: body, id"),
        ("a.parquet", "this is no parquet", r"a\.parquet cannot be read"),
        ("a.txt", "", r"a\.txt holds no text"),
        ("a.txt", " \n\n ", r"a\.txt holds no text"),
        ("a.jsonl", '{"text": ""}\n', r"a\.jsonl holds no text"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, sentence):
    with pytest.raises(PruningError, match=sentence):
        load_corpus(write(tmp_path / name, content), CALIBRATION)


def test_a_file_that_is_not_there_and_a_name_that_is_nothing(tmp_path):
    with pytest.raises(PruningError, match=r"gone\.txt is not there"):
        load_corpus(str(tmp_path / "gone.txt"), CALIBRATION)
    with pytest.raises(PruningError, match=r"no corpus 'wikipedia'\. Use python-stdlib, wikitext2, c4, a dataset id"):
        load_corpus("wikipedia", CALIBRATION)


@pytest.mark.parametrize("offline", ["0", "1"], ids=["no network", "told to stay offline"])
def test_a_hub_corpus_without_a_network_waits_for_none_and_ends_in_a_sentence_with_the_offline_choices(tmp_path, offline):
    program = """
        import time
        import datasets, pruning.model.calibration as calibration
        from pruning.errors import PruningError
        for name in ("wikitext2", "c4", "somebody/corpus"):
            slept = []
            time.sleep = slept.append  # between one try and the next
            try:
                calibration.load_corpus(name, "calibration")
            except PruningError as error:
                print(sum(slept), error)
    """
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "\n".join(line[8:] for line in program.splitlines())]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr[-1000:]
    for name, line in zip(("wikitext2", "c4", "somebody/corpus"), lines, strict=True):
        seconds, _, sentence = line.partition(" ")
        assert float(seconds) < 5
        assert sentence.startswith(f"The corpus '{name}' could not be fetched (")
        assert sentence.endswith("Without a network, use python-stdlib, a local .txt / .jsonl / .parquet file, or pasted text.")
