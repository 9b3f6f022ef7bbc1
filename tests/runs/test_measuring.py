"""What was measured once is taken over by the next experiment; what was not measured the same way is measured."""

import json

import pytest

from pruning.errors import PruningError
from pruning.experiment import LAYERS_FILE, TABLE_FILE, Experiment
from pruning.runs import measure as measure_step
from pruning.runs import steps
from pruning.runs.context import _warm
from pruning.runs.status import read_status
from tests.runs.quick_runs import new_experiment, quick_settings

SIDECAR = f"{TABLE_FILE}.json"


def measured(experiment: Experiment) -> str:
    """Measures, and gives what the run said."""
    steps.run("measure", experiment)
    return experiment.path(read_status(experiment).log).read_text()


@pytest.fixture(scope="module")
def measure(tmp_path_factory, model_folder, text):
    """Measures in a folder of experiments where `first` was measured: the experiment, and what its run said."""
    root = tmp_path_factory.mktemp("log")

    def measure(name: str, **changes) -> tuple[Experiment, str]:
        settings = quick_settings(model_folder, text, **{"layer_importance_samples": 2} | changes)
        experiment = new_experiment(root, name, settings)
        return experiment, measured(experiment)

    measure.first, log = measure("first")
    assert "groups by taylor" in log and "layers by removal" in log
    return measure


def test_the_same_measurement_is_taken_over_without_loading_the_weights(measure, monkeypatch):
    monkeypatch.setattr(measure_step, "warm_model", lambda *_: pytest.fail("the weights were loaded"))
    again, log = measure("again", pruning_ratio=0.02, freeze_top_n_layers=1)  # of the plan: no matter for measuring
    for name in (TABLE_FILE, SIDECAR, LAYERS_FILE):
        assert again.path(name).read_bytes() == measure.first.path(name).read_bytes()
    assert "skipped (measured the same way in first)" in log
    assert "skipped (layers were measured the same way in first)" in log
    assert read_status(again).state == "done"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"importance_method": "wanda"},
        {"num_samples": 5},
        {"seq_len": 15},
        {"layer_start": 1, "layer_end": 3},
        {"importance_method": "taylor_2nd"},
    ],
)
def test_another_method_text_or_range_is_measured(measure, changes):
    name = "-".join(f"{key}-{value}" for key, value in changes.items())
    other, log = measure(name, **changes)
    assert f"groups by {changes.get('importance_method', 'taylor')}" in log
    assert other.path(TABLE_FILE).read_bytes() != measure.first.path(TABLE_FILE).read_bytes()


def test_another_text_is_measured(measure, tmp_path):
    other_text = tmp_path / "values.txt"  # the same name, other words
    other_text.write_text("\n".join(f"name_{i} = {i * i}" for i in range(400)))
    assert "groups by taylor" in measure("other-text", corpus=str(other_text))[1]


def test_the_batch_size_matters_only_to_the_method_that_depends_on_it(measure):
    assert "groups by" not in measure("taylor-3", gradient_batch_size=3)[1]
    measure("second-2", importance_method="taylor_2nd", gradient_batch_size=2)
    assert "groups by taylor_2nd" in measure("second-4", importance_method="taylor_2nd", gradient_batch_size=4)[1]


def test_only_what_differs_is_measured(measure):
    other, log = measure("other-layers", layer_importance_method="block_influence")
    assert "skipped (measured the same way in" in log and "layers by block_influence" in log and "groups by" not in log
    assert other.path(TABLE_FILE).read_bytes() == measure.first.path(TABLE_FILE).read_bytes()
    assert other.read_layer_importance().method == "block_influence"


def test_weights_alone_need_no_text(measure):
    experiment, log = measure("l2", importance_method="l2", corpus="gone.txt", layer_importance_samples=0)
    assert "scored by l2" in log and not experiment.has(LAYERS_FILE)
    assert json.loads(experiment.path(SIDECAR).read_text())["calibration"] == {}


def test_a_damaged_table_beside_it_is_not_taken_over(measure):
    measure("damaged", seed=77)[0].path(SIDECAR).write_text("{")
    assert "groups by taylor" in measure("after-damage", seed=77)[1]


def test_importance_of_layers_from_a_file_is_reused(measure):
    config = measure.first.path(LAYERS_FILE)
    experiment, log = measure("reused", seed=5, layer_importance_config=str(config))
    assert "layers by" not in log and f"importance of layers from {config}" in log
    assert experiment.read_layer_importance().importance.tolist() == (measure.first.read_layer_importance().importance.tolist())


def test_importance_of_layers_from_a_file_is_there_too_when_groups_are_taken_over(measure, tmp_path):
    content = json.loads(measure.first.path(LAYERS_FILE).read_text())
    for entry in content["layers"]:
        entry["importance"] = float(entry["layer_idx"])
    (tmp_path / "mine.json").write_text(json.dumps(content))
    experiment, log = measure("both", layer_importance_config=str(tmp_path / "mine.json"))
    assert "skipped (measured the same way in" in log
    assert experiment.read_layer_importance().importance.tolist() == [0, 1, 2, 3, 4]


def test_importance_of_layers_of_another_model_is_refused(measure, tmp_path):
    content = json.loads(measure.first.path(LAYERS_FILE).read_text()) | {"fingerprint": "f" * 64}
    (tmp_path / "layers.json").write_text(json.dumps(content))
    with pytest.raises(PruningError, match=r"layers\.json was made for another model"):
        measure("refused", seed=6, layer_importance_config=str(tmp_path / "layers.json"))


def test_a_limited_range_scores_its_layers_only(measure):
    experiment, _ = measure("range", layer_start=1, layer_end=3, seed=8)
    assert set(experiment.read_table().frame()["layer_idx"]) == {1, 2}
    assert len(experiment.read_layer_importance().importance) == 5


def test_the_model_is_kept_for_the_next_job(measure):
    measure("warm-1", seed=21)
    (kept,) = _warm.values()
    measure("warm-2", seed=22)
    assert list(_warm.values()) == [kept]
