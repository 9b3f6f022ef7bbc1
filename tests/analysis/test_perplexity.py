"""Perplexity is exp of the mean loss of all predicted tokens, whatever the batches, and says what it was measured on."""

import math
import platform

import pytest
import torch

from analysis.perplexity import HeldOutText, perplexity
from pruning.model.calibration import HELD_OUT, load_corpus
from pruning.model.checkpoint import LoadedModel, load, open_checkpoint
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
