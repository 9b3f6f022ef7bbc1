"""A tiny model folder, a text, and an experiment measured on both, made once for each test file that asks for them."""

from pathlib import Path

import pytest

from pruning.experiment import Experiment
from pruning.runs import steps
from tests.runs.quick_runs import new_experiment, quick_settings, save_tiny_model, write_text


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "values.txt")


@pytest.fixture(scope="module")
def measured(tmp_path_factory, model_folder, text) -> Experiment:
    root = tmp_path_factory.mktemp("log")
    experiment = new_experiment(root, "measured", quick_settings(model_folder, text, layer_importance_samples=2))
    steps.run("measure", experiment)
    return experiment
