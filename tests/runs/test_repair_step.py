"""`--reconstruct` in a run: measured, written down, saved, and undone by a cancel."""

import json

import pytest
import torch

from pruning.errors import Cancelled
from pruning.experiment import REPAIR_FILE
from pruning.model.calibration import CALIBRATION, load_corpus
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.held_out import HeldOutText, perplexity
from pruning.runs import steps
from pruning.runs.progress import Progress
from pruning.runs.status import request_cancel
from pruning.settings import resolve
from tests.runs.quick_runs import new_experiment, quick_settings

ASKED = {"reconstruct": True, "reconstruct_tokens": 300, "pruning_ratio": 0.04, "protected_layers": "none"}


def test_a_repaired_model_is_the_one_that_is_saved_and_judged(tmp_path, model_folder, text):
    experiment = new_experiment(tmp_path, "repaired", quick_settings(model_folder, text, save_model=True, **ASKED))
    steps.run("global", experiment)
    values = experiment.metrics()["perplexity"]
    assert values.keys() == {"before", "after", "repaired"}
    saved = load(open_checkpoint(str(experiment.model_folder)), resolve({}))
    held_out = HeldOutText.load(saved.tokenizer, str(text), 16, 6)
    key = held_out.basis["dataset"]
    assert perplexity(saved.model, held_out.windows) == pytest.approx(values["repaired"][key], rel=1e-4)
    assert values["repaired"][key] != values["after"][key]
    written = json.loads(experiment.path(REPAIR_FILE).read_text())
    assert written["calibration"]["tokens"] == 304  # whole windows of 16
    assert written["calibration"]["corpus_sha256"] == load_corpus(str(text), CALIBRATION).sha256
    assert written["matrices"] and all(m["error_after"] < m["error_before"] for m in written["matrices"])
    assert "least squares" in (experiment.model_folder / "README.md").read_text()
    assert "repaired" in json.loads(experiment.path("samples.json").read_text())


def test_without_it_nothing_is_repaired(tmp_path, model_folder, text):
    experiment = new_experiment(tmp_path, "plain", quick_settings(model_folder, text))
    steps.run("global", experiment)
    assert not experiment.has(REPAIR_FILE)
    assert experiment.metrics()["perplexity"].keys() == {"before", "after"}


def test_a_cancel_during_the_repair_leaves_no_result(tmp_path, model_folder, text, monkeypatch):
    experiment = new_experiment(tmp_path, "cancelled", quick_settings(model_folder, text, **ASKED))
    say = Progress.say

    def cancel_at_the_first_matrix(report, line: str) -> None:
        if "output error" in line:
            request_cancel(report.experiment)
        say(report, line)

    monkeypatch.setattr(Progress, "say", cancel_at_the_first_matrix)
    with pytest.raises(Cancelled):
        steps.run("global", experiment)
    assert not experiment.is_cut and experiment.is_measured
    assert not experiment.has(REPAIR_FILE)
    assert torch.is_grad_enabled()
