"""The training script of the demo model, on a little text for a few steps."""

import json
import sys
from email.message import Message
from itertools import count
from pathlib import Path, PurePosixPath

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.demo_model import train
from pruning.export.older_readers import with_older_names
from pruning.model.calibration import CALIBRATION, HELD_OUT, HELD_OUT_MODULES, stdlib_documents

SHIPPED = Path(train.__file__).parent
PARAMETERS = 6_561_920
RUN = train.Run(torch.device("cpu"), tokens=5 * 256, batch_tokens=256)


@pytest.fixture(scope="module")
def texts():
    """Enough of the standard library for a vocabulary of 4096, one part of it standing in for the packages."""
    sources = [text for _, text in stdlib_documents(CALIBRATION)]
    return sources[:50], sources[50:70]


@pytest.fixture(scope="module")
def made(tmp_path_factory, texts):
    """(folder, losses) of a short run."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, train.make_model(folder, *texts, RUN)


def test_the_config_is_that_of_the_shipped_model(made):
    written, shipped = (json.loads((folder / "config.json").read_text()) for folder in (made[0], SHIPPED))
    assert written | {"transformers_version": None} == with_older_names(shipped) | {"transformers_version": None}


def test_the_saved_model_loads_with_every_parameter(made):
    model, info = AutoModelForCausalLM.from_pretrained(made[0], output_loading_info=True)
    assert model.num_parameters() == PARAMETERS
    assert model.dtype == torch.bfloat16
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.generation_config.eos_token_id == 0
    assert not (made[0] / train.CHECKPOINT).exists()


def test_the_loss_falls(made):
    _, losses = made
    assert losses[0] == pytest.approx(torch.log(torch.tensor(4096.0)).item(), abs=0.3)  # knows nothing at first
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("source", ["def f(x):\n\tif x:\n        return 'a'\n\n\n", "π = 'é 世界 🙂'\r\n", "  <|endoftext|> "])
def test_the_tokenizer_gives_back_what_it_was_given(made, source):
    tokenizer = AutoTokenizer.from_pretrained(made[0])
    assert tokenizer.decode(tokenizer(source)["input_ids"]) == source


def test_the_tokenizer_has_the_shipped_size_and_adds_nothing(made):
    tokenizer = AutoTokenizer.from_pretrained(made[0])
    assert len(tokenizer) == 4096
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert 0 not in tokenizer("import os")["input_ids"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, texts, made, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY_SECONDS", -1)  # after every step
    calls, draw = count(), train.TrainingText.draw

    def interrupted(*args):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(train.TrainingText, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.make_model(tmp_path, *texts, RUN)
    monkeypatch.setattr(train.TrainingText, "draw", draw)
    assert train.make_model(tmp_path, *texts, RUN) == pytest.approx(made[1][3:], rel=1e-3)


def test_no_held_out_module_is_trained_on():
    documents = dict([*stdlib_documents(CALIBRATION), *train.package_documents()])
    assert len(documents) > 1000
    assert not {PurePosixPath(name).stem for name in documents} & set(HELD_OUT_MODULES)
    assert not {text for _, text in stdlib_documents(HELD_OUT)} & set(documents.values())


def test_the_share_of_standard_library_windows():
    text = train.TrainingText(torch.zeros(1000, dtype=torch.int64), torch.ones(50_000, dtype=torch.int64))
    windows = text.draw(4000, 128, torch.Generator().manual_seed(0))
    assert windows.shape == (4000, 129)
    assert (windows[:, 0] == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)


def test_the_learning_rate_of_the_recipe():
    factor = train.learning_rate_factor
    assert factor(59, 0.016) == pytest.approx(0.5)  # 60 of 120 steps
    assert factor(119, 0.032) == factor(2000, 0.55) == 1
    assert factor(3700, 1.0) == pytest.approx(0.02)
    assert factor(3, 0.05) == 1  # a run of a few steps warms up in 4 % of its length


@pytest.mark.parametrize(
    ("header", "value", "permissive"),
    [
        ("License-Expression", "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("Classifier", "License :: OSI Approved :: Apache Software License", True),
        ("License", "MIT License\n\nPermission is hereby granted", True),
        ("License-Expression", "MPL-2.0 AND MIT", False),
        ("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)", False),
        ("Summary", "no licence stated, MIT or other", False),
    ],
)
def test_which_licences_are_permissive(header, value, permissive):
    metadata = Message()
    metadata[header] = value
    assert train.is_permissive(metadata) == permissive


@pytest.mark.parametrize(
    "arguments", [["--minutes", "1"], ["--tokens", "0"], ["--minutes", "1", "--tokens", "1"], ["--tokens", "9", "--resume"]]
)
def test_arguments_that_cannot_be_meant_are_refused(tmp_path, monkeypatch, arguments):
    (tmp_path / "something").touch()
    monkeypatch.setattr(sys, "argv", ["train", "--output", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as stopped:
        train.parse_arguments()
    assert stopped.value.code == 2
