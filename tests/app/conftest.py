"""Runs the app's script without a browser, on a folder of experiments of its own."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from pruning.experiment import Experiment
from pruning.planning.allocation import allocate_global
from pruning.planning.protection import Protection
from pruning.runs import jobs, steps
from tests.runs.quick_runs import copy_of, forked_worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def measured_root(measured_demo, tmp_path_factory):
    """A folder with one experiment, `first`, whose importance was measured on the demo model."""
    root = tmp_path_factory.mktemp("experiments")
    copy_of(measured_demo, root, "first")
    return root


@pytest.fixture(scope="session", autouse=True)
def _one_look_for_components():
    """Streamlit's tests look through all installed packages in each run: a quarter of the time of a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", functools.cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(autouse=True)
def _forked_worker(monkeypatch):
    monkeypatch.setattr(jobs, "loky_worker", forked_worker)


@pytest.fixture
def app(tmp_path, monkeypatch):
    """The app with no experiment yet."""
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path / "experiments"))
    return AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)


@pytest.fixture
def app_with_table(measured_root, monkeypatch):
    """The app with the experiment `first` open."""
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(measured_root))
    at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    at.query_params["experiment"] = "first"
    return at


@pytest.fixture(scope="session")
def cut_root(measured_root, tmp_path_factory) -> Path:
    """A folder with the experiment `first`, cut by a plan that takes 10 % from all layers but the default ones."""
    root = tmp_path_factory.mktemp("cut") / "experiments"
    shutil.copytree(measured_root, root)
    experiment = Experiment.open(root, "first")
    table = experiment.read_table()
    settings = {"pruning_ratio": 0.1, "ratio_basis": "model"}
    plan = allocate_global(table, settings["pruning_ratio"], Protection.resolve(32), settings=settings)
    experiment.write_plan(plan, table)
    judged = {"test_before_prune": True, "test_after_prune": True, "save_model": True, "output_root": str(root)}
    experiment.write_settings(replace(experiment.settings, **(plan.settings | judged)))
    steps.run("prune", experiment)
    return root


@pytest.fixture
def app_of(monkeypatch):
    """The app with the experiment `first` of a folder open."""

    def make(root: Path) -> AppTest:
        monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(root))
        at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
        at.query_params["experiment"] = "first"
        return at

    return make


def on_page(at: AppTest, page: str) -> AppTest:
    """The app on this page, redrawn."""
    at.run()
    assert not at.exception
    return at.switch_page(str(ROOT / "pages" / f"{page}.py")).run() if page != "model" else at


def figures(at: AppTest) -> dict[str, go.Figure]:
    """The charts on the page by their key, as they are sent to the browser."""
    sent = [json.loads(element.proto.json) for element in at.get("bidi_component")]
    found = {data["name"]: plotly.io.from_json(data["figure"]) for data in sent if "figure" in data}
    for name, figure in found.items():  # drawn without Plotly's checks: what is sent must be what they make of it
        [as_sent] = [data["figure"] for data in sent if data.get("name") == name]
        assert _without_empty(json.loads(as_sent)) == _without_empty(json.loads(figure.to_json())), name
    return found


def _without_empty(value):
    """Plotly leaves out lists with nothing in them."""
    if isinstance(value, dict):
        return {key: _without_empty(one) for key, one in value.items() if one != []}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value
