"""Perplexity is exp of the mean loss of all predicted tokens, whatever the batches, and says what it was measured on."""

import math
import platform

import pytest
import torch

from analysis.perplexity import PPLMetric
from pruning.errors import PruningError
from pruning.model.calibration import HELD_OUT, load_corpus, token_stream
from pruning.model.checkpoint import LoadedModel, load, open_checkpoint
from pruning.model.held_out import HeldOutText, perplexity
from pruning.settings import resolve
from tests.tiny_models import FAMILIES, random_ids, tiny_model

CARD_PERPLEXITY, CARD_WINDOWS, CARD_PYTHON = 21.34, 2200, (3, 11)


def reference(model, windows) -> float:
    total = 0.0
    for window in windows:
        with torch.no_grad():
            probabilities = model(window[None]).logits[0].double().log_softmax(-1)
        for position in range(len(window) - 1):
            total -= probabilities[position, window[position + 1]].item()
    return math.exp(total / (len(windows) * (windows.shape[1] - 1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_perplexity_equals_an_independent_calculation(family):
    model, windows = tiny_model(family), random_ids(9, 20)
    assert perplexity(model, windows) == pytest.approx(reference(model, windows), rel=1e-6)


def test_perplexity_does_not_depend_on_the_batch_size():
    model, windows = tiny_model("llama"), random_ids(9, 20)
    alone = perplexity(model, windows, batch_size=1)
    for batch_size in (2, 4, 9, 100):
        assert perplexity(model, windows, batch_size=batch_size) == pytest.approx(alone, rel=1e-6)


def test_progress_counts_windows_up_to_the_last():
    told = []
    perplexity(tiny_model("llama"), random_ids(9, 20), batch_size=4, on_progress=lambda *at: told.append(at))
    assert told == [(4, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e30])
def test_a_broken_model_has_infinite_perplexity(weight):
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = weight
    assert perplexity(model, random_ids(3, 8)) == math.inf


# strides and the mapping ----------------------------------------------------------------------------------------------


@pytest.fixture
def notes(tmp_path):
    """A short text."""
    (tmp_path / "notes.txt").write_text("".join(f"value_{i} = {i * i}\n" for i in range(60)))
    return tmp_path / "notes.txt"


def independent(model, tokens: torch.Tensor, seq_len: int, stride: int) -> float:
    """Every token once, given the tokens of its window before it; the first token of the text has none."""
    total, counted, scored_up_to = 0.0, 0, 0
    for start in range(0, len(tokens) - seq_len + 1, stride):
        with torch.no_grad():
            logits = model(tokens[start : start + seq_len][None]).logits[0].double()
        for position in range(1, seq_len):
            if start + position >= scored_up_to:
                total -= logits[position - 1].log_softmax(-1)[tokens[start + position]].item()
                counted += 1
        scored_up_to = start + seq_len
    return math.exp(total / counted)


@pytest.mark.parametrize("stride", [16, 15, 8, 5, 1])
def test_with_a_stride_only_new_tokens_count(demo, notes, stride):
    tokens = token_stream([notes.read_text()], demo.tokenizer)[:120]
    notes.write_text(demo.tokenizer.decode(tokens[1:]))  # a text of few tokens; EOS comes before it
    tokens = token_stream([notes.read_text()], demo.tokenizer)
    metric = PPLMetric(demo.model, demo.tokenizer, [str(notes)], seq_len=16, stride=stride, device="cpu")
    assert metric["notes.txt"] == pytest.approx(independent(demo.model, tokens, 16, stride), rel=1e-6)
    starts = len(range(0, len(tokens) - 15, stride))
    new_tokens = starts * 15 if stride == 16 else 15 + (starts - 1) * stride
    assert metric.basis["notes.txt"]["predicted_tokens"] == new_tokens


@pytest.mark.parametrize("stride", [None, 5])
def test_perplexity_of_a_text_does_not_depend_on_the_batch_size(demo, notes, stride):
    values = [
        PPLMetric(demo.model, demo.tokenizer, [str(notes)], 16, "cpu", stride=stride, batch_size=size)["notes.txt"]
        for size in (1, 3, 64)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_it_is_a_mapping_that_prints_as_a_dictionary(demo, notes):
    metric = PPLMetric(demo.model, demo.tokenizer, datasets=["python-stdlib", str(notes)], windows=2, device="cpu")
    assert list(metric) == ["python-stdlib (held-out)", "notes.txt"] and len(metric) == 2
    assert eval(str(metric)) == dict(metric) == dict(metric.items())
    assert metric["notes.txt"] == metric.get("notes.txt") > 1
    assert metric.basis["notes.txt"]["seq_len"] == 128  # the default
    with pytest.raises(KeyError):
        metric["wikitext2"]


def test_wikitext_is_named_with_its_configuration(demo, monkeypatch):
    lines = {"text": [f"value_{i} = {i}" for i in range(300)], "column_names": ["text"]}

    class Rows(list):
        column_names = ("text",)

        def take(self, count):
            return self[:count]

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Rows({"text": text} for text in lines["text"]))
    metric = PPLMetric(demo.model, demo.tokenizer, windows=2, device="cpu")
    assert list(metric) == ["wikitext2 (wikitext-2-raw-v1)"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stride": 200}, "`stride` is 200; it must be a whole number from 1 to seq_len (128)"),
        ({"seq_len": 300}, "`seq_len` is 300; this model sees at most 256 tokens at once"),
        ({"device": "cuda:9"}, "The device 'cuda:9' is not available here"),
        ({"datasets": ["gone.txt"]}, "The text file gone.txt is not there."),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(demo, options, sentence):
    with pytest.raises(PruningError) as error:
        PPLMetric(demo.model, demo.tokenizer, **({"datasets": ["python-stdlib"], "device": "cpu"} | options))
    assert sentence in str(error.value)


# the demo model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load(open_checkpoint("demo"), resolve({"base_model": "demo"}))


def test_held_out_text_says_what_it_is(demo):
    text = HeldOutText.load(demo.tokenizer, "python-stdlib", 128, 4)
    assert text.basis == {
        "dataset": "python-stdlib (held-out)",
        "corpus_sha256": load_corpus("python-stdlib", HELD_OUT).sha256,
        "python": platform.python_version(),
        "seq_len": 128,
        "windows": 4,
        "predicted_tokens": 4 * 127,
    }


def test_a_file_is_labelled_with_its_name(demo, tmp_path):
    (tmp_path / "notes.txt").write_text("x = 1\n" * 200)
    assert HeldOutText.load(demo.tokenizer, str(tmp_path / "notes.txt"), 16, 0).basis["dataset"] == "notes.txt"


@pytest.mark.skipif(platform.python_version_tuple()[:2] != ("3", "11"), reason="the card's figures are for Python 3.11")
def test_the_demo_model_is_as_good_as_its_card_says(demo):
    """The card's 21.34 is for all 2,200 windows (two minutes); every tenth of them comes within its sampling error."""
    text = HeldOutText.load(demo.tokenizer, "python-stdlib", 128, 0)
    assert len(text.windows) == pytest.approx(CARD_WINDOWS, abs=20)
    sample = text.windows[::10]
    sampling_error = 1.0 / math.sqrt(len(sample))  # window losses of code spread by less than 1
    assert perplexity(demo.model, sample) == pytest.approx(CARD_PERPLEXITY, rel=2 * sampling_error)
