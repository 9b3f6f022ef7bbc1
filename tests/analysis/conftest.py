"""A tiny model, and an experiment that cut it layer-wise and saved it; and the commands, run in this process."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from analysis.__main__ import main
from pruning.experiment import Experiment
from pruning.runs import steps
from tests.runs.quick_runs import new_experiment, quick_settings, save_tiny_model, write_text


@dataclass(frozen=True)
class Cut:
    """A finished experiment and the folder of the model it cut."""

    source: Path
    root: Path
    experiment: Experiment


@pytest.fixture(scope="session")
def cut(tmp_path_factory) -> Cut:
    folder = tmp_path_factory.mktemp("analysed")
    source, text = save_tiny_model(folder / "tiny"), write_text(folder / "values.txt")
    settings = quick_settings(source, text, pruning_ratio=0.3, save_model=True, remove_empty_layers=False)
    changes = {"strategy": "layer", "pruning_distribution": "2:8", "layer_importance_samples": 4}
    experiment = new_experiment(folder / "log", "tiny-layer", replace(settings, **changes))
    steps.run("layer", experiment)
    return Cut(source, folder / "log", experiment)


@pytest.fixture
def analyse(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
