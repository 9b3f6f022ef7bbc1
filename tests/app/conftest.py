"""Runs the app's script without a browser, on a folder of experiments of its own."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pruning.experiment import Experiment
from pruning.runs import steps
from pruning.settings import resolve

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"num_samples": 4, "seq_len": 16, "eval_windows": 4, "eval_seq_len": 16}


@pytest.fixture(scope="session")
def measured_root(tmp_path_factory):
    """A folder with one experiment, `first`, whose importance was measured on the demo model."""
    root = tmp_path_factory.mktemp("experiments")
    experiment = Experiment.create(root, "first")
    experiment.write_settings(resolve(QUICK | {"base_model": "demo", "output_root": str(root), "experiment_name": "first"}))
    steps.run("measure", experiment)
    return root


@pytest.fixture
def app(tmp_path, monkeypatch):
    """The app with no experiment yet."""
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path / "experiments"))
    return AppTest.from_file(ROOT / "ui" / "main.py", default_timeout=60)


@pytest.fixture
def app_with_table(measured_root, monkeypatch):
    """The app with the experiment `first` open."""
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(measured_root))
    at = AppTest.from_file(ROOT / "ui" / "main.py", default_timeout=60)
    at.query_params["experiment"] = "first"
    return at


def on_page(at: AppTest, page: str) -> AppTest:
    """The app on this page, redrawn."""
    at.run()
    assert not at.exception
    return at.switch_page(str(ROOT / "pages" / f"{page}.py")).run() if page != "model" else at
