"""Every importance method under every strategy: terminal and app write the same files, and these give the plan again."""

import json
from pathlib import Path

import pytest

from pruning.__main__ import main
from pruning.experiment import LAYERS_FILE, TABLE_FILE, Experiment
from pruning.planning.planner import plan_from_settings
from pruning.runs import cut, steps
from pruning.settings import SETTINGS, resolve
from pruning.strategies import STRATEGIES
from tests.runs.quick_runs import new_experiment, save_tiny_model
from tests.tiny_models import FAMILIES

METHODS = SETTINGS["importance_method"].choices
PLAN_FILES = ("plan.json", "groups_to_prune.csv", "groups_to_prune.csv.json")
FEW = {"num_samples": 4, "seq_len": 32, "layer_importance_samples": 2, "pruning_ratio": 0.25}
OF_STRATEGY = {"global": {}, "layer": {"pruning_distribution": "3:7"}, "uniform": {"mlp_multiple": 8}}


def run(command: str, root: Path, name: str, **settings) -> Experiment:
    """One command in this process; it must end well."""
    values = {"experiment_name": name, "output_root": root} | settings
    assert main([command, *(text for key, value in values.items() for text in (f"--{key}", str(value)))]) == 0
    return Experiment(root / name)


def as_the_app(strategy: str, root: Path, **settings) -> Experiment:
    """What the Importance page and the Plan page do."""
    experiment = new_experiment(root, f"{strategy}-{settings['importance_method']}", resolve(settings, strategy))
    steps.run("measure", experiment)
    table, layers = experiment.read_table(), experiment.read_layer_importance()
    planned = plan_from_settings(table, experiment.settings, layers)
    experiment.write_plan(planned.plan, table, planned.rates)
    return experiment


def assert_same(one: Experiment, other: Experiment, names) -> None:
    for name in names:
        assert one.path(name).read_bytes() == other.path(name).read_bytes(), name


@pytest.fixture(autouse=True)
def neither_text_nor_picture(monkeypatch):
    """What the models write and the plan as a picture are of no matter here, and take most of the time."""
    monkeypatch.setattr(cut, "continue_text", lambda *_: "")
    monkeypatch.setattr(cut, "save_plan_picture", lambda *_: None)


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders of experiments, so that neither takes over what the other measured; strategies share a measurement."""
    return tmp_path_factory.mktemp("terminal"), tmp_path_factory.mktemp("app")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", METHODS)
def test_terminal_and_app_write_the_same_files_for_the_demo_model(roots, text, method, strategy):
    settings = FEW | OF_STRATEGY[strategy] | {"base_model": "demo", "corpus": str(text), "importance_method": method}
    by_command = run(strategy, roots[0], f"{strategy}-{method}", **settings)
    by_pages = as_the_app(strategy, roots[1], **settings)
    assert_same(by_command, by_pages, (TABLE_FILE, f"{TABLE_FILE}.json", *PLAN_FILES))
    if strategy == "layer":
        assert_same(by_command, by_pages, (LAYERS_FILE,))
    metrics, plan = by_command.metrics(), by_command.read_plan()
    assert metrics["ratio"]["actual"] == pytest.approx(plan.actual_ratio)
    assert 0.1 < plan.actual_ratio <= 0.25
    assert plan.settings["strategy"] == strategy
    assert plan.shape_after.is_uniform == (strategy == "uniform")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_runs_on_every_family_and_its_files_give_the_plan_again(tmp_path, family):
    text = tmp_path / "values.txt"
    text.write_text("\n".join(f"value_{i} = {i} * {i % 7}" for i in range(400)))
    model = save_tiny_model(tmp_path / family, family)
    common = FEW | {"base_model": str(model), "corpus": str(text), "seq_len": 16, "pruning_ratio": 0.03}
    for strategy in STRATEGIES:
        method = {"global": "wanda", "layer": "fisher", "uniform": "taylor_2nd"}[strategy]
        of_layers = {"layer_min_pruning_rate": 0} if strategy == "layer" else {}
        given = common | {"importance_method": method} | of_layers
        done = run(strategy, tmp_path / "terminal", f"{strategy}-{method}", **given)
        plan = done.read_plan()
        assert_same(done, as_the_app(strategy, tmp_path / "app", **given), (TABLE_FILE, *PLAN_FILES))
        assert done.metrics()["parameters"]["after"] == plan.shape_after.parameters < plan.shape.parameters
        sources = {"groups": "groups_to_prune.csv", "plan": "plan.json"}
        sources |= {"table": TABLE_FILE} if strategy == "global" else {}
        for source, file in sources.items():
            ratio = {"pruning_ratio": 0.03} if source == "table" else {}
            asked = {"base_model": model, source: done.path(file), "seq_len": 16} | ratio
            again = run("apply", tmp_path / "applied", f"{strategy}-{source}", **asked)
            assert again.read_plan().digest == plan.digest
            assert again.metrics()["parameters"] == done.metrics()["parameters"]
            if source == "table":
                assert_same(again, done, (TABLE_FILE, "groups_to_prune.csv", "pruning_analysis.csv"))


def test_rates_of_layers_stand_beside_their_importance(tmp_path, text, model_folder):
    given = FEW | {"base_model": str(model_folder), "corpus": str(text), "seq_len": 16}
    experiment = run("layer", tmp_path, "rates", **given)
    layers = experiment.read_layer_importance()
    entries = layers.to_json()["layers"]
    written = json.loads(experiment.path(LAYERS_FILE).read_text())["layers"]
    assert [e["importance"] for e in written] == [e["importance"] for e in entries]
    applied = [e["rate_applied"] for e in written]
    assert applied[0] == applied[4] == 0 and min(applied[1:4]) >= 0.15 and max(applied) <= 0.5
    least_important = min(range(1, 4), key=lambda i: written[i]["importance"])
    assert applied[least_important] == max(applied)
    reused = run("layer", tmp_path, "reused", layer_importance_config=experiment.path(LAYERS_FILE), **given)
    assert reused.read_plan().digest == experiment.read_plan().digest
