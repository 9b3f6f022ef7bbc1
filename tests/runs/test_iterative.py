"""Cutting in rounds is cutting, measuring what is left, and cutting again; the plan names groups of the original model."""

from dataclasses import replace

import numpy as np
import pytest

from pruning.__main__ import main
from pruning.errors import PruningError
from pruning.methods import IMPORTANCE_METHODS
from pruning.model.calibration import CALIBRATION, draw_samples, load_corpus
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.importance import measure_groups
from pruning.model.masking import masked
from pruning.model.surgery import cut
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.plan import PruningPlan
from pruning.planning.planner import plan_from_settings
from pruning.planning.rounds import plan_in_rounds
from pruning.planning.shape import ATTENTION, MLP, ModelShape
from pruning.runs import steps
from pruning.settings import Settings, resolve
from pruning.strategies import STRATEGIES
from tests.planning.examples import random_table, small_shape
from tests.runs.quick_runs import new_experiment, quick_settings
from tests.tiny_models import FAMILIES, plan_without, random_ids, tiny_model

REMOVED = {(0, ATTENTION): {1}, (1, ATTENTION): range(4), (1, MLP): range(0, 24, 2), (2, MLP): range(24), (4, MLP): {3}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", IMPORTANCE_METHODS)
def test_groups_matter_as_much_in_the_masked_model_as_in_the_cut_one(family, method):
    model = tiny_model(family)
    plan = plan_without(model, REMOVED)
    samples = random_ids(6, 12)
    with masked(model, plan):
        found = measure_groups(method, model, plan.shape, samples, 2)
    expected = measure_groups(method, cut(model, plan), plan.shape_after, samples, 2)
    np.testing.assert_allclose(found[plan.kept], expected, rtol=2e-3, atol=1e-9)


def run(root, name: str, command: str, settings: Settings):
    experiment = new_experiment(root, name, replace(settings, **{"strategy": command} if command in STRATEGIES else {}))
    steps.run(command, experiment)
    return experiment


def cut_again_and_again(settings: Settings, rounds: int) -> PruningPlan:
    """The same by really cutting after each round; what stays is followed back to the original model by its positions."""
    loaded = load(open_checkpoint(settings.base_model), settings)
    corpus = load_corpus(settings.corpus, CALIBRATION)
    samples = draw_samples(corpus, loaded.tokenizer, settings.num_samples, settings.seq_len, settings.seed)
    model, shape = loaded.model, loaded.header.shape
    original, parameters, left = shape, shape.parameters, np.arange(GroupIndex(shape).size)
    for number in range(1, rounds + 1):
        target = parameters * settings.pruning_ratio * number / rounds
        table = GroupTable(shape, measure_groups("taylor", model, shape, samples, 2), {})
        ratio = (target - (parameters - shape.parameters)) / shape.parameters
        plan = plan_from_settings(table, replace(settings, pruning_ratio=ratio)).plan
        left, model = left[plan.kept], cut(model, plan)
        shape = ModelShape.from_config(model.config.to_dict())
    kept = np.zeros(GroupIndex(original).size, dtype=bool)
    kept[left] = True
    return PruningPlan(original, kept, fingerprint=loaded.header.fingerprint)


def test_the_plan_composes_what_really_cutting_again_and_again_leaves(tmp_path, model_folder, text):
    settings = quick_settings(
        model_folder, text, pruning_ratio=0.04, iterative_steps=3, remove_empty_layers=False, protected_layers="none"
    )
    experiment = run(tmp_path, "rounds", "global", settings)
    plan = experiment.read_plan()
    assert plan.digest == cut_again_and_again(settings, 3).digest
    once = run(tmp_path, "once", "global", replace(settings, iterative_steps=1)).read_plan()
    assert once.digest != plan.digest
    assert plan.settings["iterative_steps"] == 3
    assert plan.settings["pruning_ratio"] == 0.04
    assert abs(plan.actual_ratio - once.actual_ratio) < 0.003
    log = next(experiment.folder.glob("*/training.log")).read_text()
    assert "round 1 of 3" in log and "round 3 of 3" in log


@pytest.mark.parametrize("distribution", ["2:8", "0:10"])
@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.45])  # the bounds hold all layers up, some up and down, and most down
def test_each_round_of_rates_takes_an_equal_share_to_a_group_of_each_layer(ratio, distribution):
    shape = small_shape(num_hidden_layers=12, intermediate_size=400, num_key_value_heads=4, num_attention_heads=8)
    settings = resolve({"pruning_ratio": ratio, "pruning_distribution": distribution, "iterative_steps": 4}, "layer")
    assert (settings.layer_min_pruning_rate, settings.layer_max_pruning_rate) == (0.15, 0.5)
    layers = LayerImportance("removal", np.linspace(0.2, 3.0, 12), None, {})
    table, removed = random_table(shape), [0]

    def measure_again(plan: PruningPlan, _: str) -> np.ndarray:
        removed.append(plan.removed_parameters.sum())
        return table.importance

    planned, _ = plan_in_rounds(table, settings, layers, measure_again, lambda _: None)
    removed.append(planned.plan.removed_parameters.sum())
    once = plan_from_settings(table, replace(settings, iterative_steps=1), layers).plan
    assert planned.plan.kept_counts.tolist() == once.kept_counts.tolist()
    assert planned.plan.settings["layer_min_pruning_rate"] == 0.15
    layer = shape.layers[0]
    group = layer.mlp_channel_cost if distribution == "0:10" else max(layer.mlp_channel_cost, layer.attention_group_cost / 2)
    np.testing.assert_allclose(np.diff(removed), removed[-1] / 4, atol=2 * 12 * group)
    assert 2 * 12 * group < 0.5 * removed[-1] / 4  # less than a share: the bound says something


@pytest.mark.parametrize(("strategy", "changes"), [("layer", {"layer_min_pruning_rate": 0}), ("uniform", {})])
def test_other_strategies_reach_their_sizes_in_rounds_too(tmp_path, model_folder, text, strategy, changes):
    given = {"pruning_ratio": 0.06, "protected_layers": "", "pruning_distribution": "3:7", "layer_importance_samples": 2}
    settings = quick_settings(model_folder, text, **given | changes)
    in_rounds = run(tmp_path, "rounds", strategy, replace(settings, iterative_steps=4)).read_plan()
    once = run(tmp_path, "once", strategy, settings).read_plan()
    np.testing.assert_array_equal(in_rounds.kept_counts, once.kept_counts)


def test_a_cut_by_a_plan_goes_in_rounds_by_the_settings_of_that_plan(tmp_path, model_folder, text):
    settings = quick_settings(model_folder, text, pruning_ratio=0.04, protected_layers="none")
    in_rounds = run(tmp_path, "rounds", "global", replace(settings, iterative_steps=2)).read_plan()
    experiment = run(tmp_path, "planned", "global", settings)
    assert experiment.read_plan().digest != in_rounds.digest
    experiment.write_settings(replace(experiment.settings, iterative_steps=2))
    steps.run("prune", experiment)
    assert experiment.read_plan().digest == in_rounds.digest
    assert experiment.metrics()["parameters"]["after"] == in_rounds.shape_after.parameters


def test_a_plan_that_the_settings_do_not_give_is_cut_as_it_is_and_never_in_rounds(tmp_path, model_folder, text):
    settings = quick_settings(model_folder, text, pruning_ratio=0.04, protected_layers="none", iterative_steps=2)
    in_rounds = run(tmp_path, "rounds", "global", settings).read_plan()
    experiment = run(tmp_path, "planned", "global", replace(settings, iterative_steps=1))
    experiment.write_plan(in_rounds, experiment.read_table())  # as an uploaded plan.json is, its settings with it
    experiment.write_settings(replace(experiment.settings, **in_rounds.settings))
    before = experiment.path("pruning_analysis.csv").read_bytes()
    with pytest.raises(PruningError, match="`iterative_steps` is 2, but the plan of this experiment is not one that"):
        steps.run("prune", experiment)
    assert experiment.path("pruning_analysis.csv").read_bytes() == before  # nothing of the earlier cut is gone
    experiment.write_settings(replace(experiment.settings, iterative_steps=1))
    steps.run("prune", experiment)
    assert experiment.read_plan().digest == in_rounds.digest
    assert experiment.metrics()["parameters"]["after"] == in_rounds.shape_after.parameters


@pytest.mark.parametrize("file", ["plan", "groups", "table"])
def test_a_file_that_says_what_goes_is_not_cut_in_rounds(tmp_path, capsys, file):
    (tmp_path / "config.json").write_text('{"iterative_steps": 4}')
    for rounds in (["--iterative_steps=4"], [f"--config={tmp_path / 'config.json'}"]):
        assert main(["apply", "--base_model=demo", f"--{file}={tmp_path / 'x'}", f"--output_root={tmp_path}", *rounds]) == 2
        assert "--iterative_steps is no flag of `apply`" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_applying_the_plan_gives_the_same_cut(tmp_path, model_folder, text, strategy):
    given = {"pruning_ratio": 0.04} if strategy == "global" else {"pruning_ratio": 0.06, "pruning_distribution": "3:7"}
    settings = quick_settings(model_folder, text, iterative_steps=3, pruning_strategy="uniform", **given)
    experiment = run(tmp_path, "rounds", strategy, settings)
    plan = experiment.read_plan()  # of the model as it was, not of what the last round began with
    assert plan.shape == experiment.shape()
    assert plan.shape_after.parameters == experiment.metrics()["parameters"]["after"]
    for source, file in (("plan", "plan.json"), ("groups", "groups_to_prune.csv")):
        asked = replace(quick_settings(model_folder, text), **{source: str(experiment.path(file))})
        again = run(tmp_path, f"by-{source}", "apply", asked)
        assert again.read_plan().digest == plan.digest and again.read_plan().shape_after == plan.shape_after
        assert again.metrics()["perplexity"] == experiment.metrics()["perplexity"]


def test_one_round_is_one_shot(tmp_path, model_folder, text):
    assert resolve({}).iterative_steps == 1
    experiment = run(tmp_path, "one", "global", quick_settings(model_folder, text, iterative_steps=1))
    assert "iterative_steps" not in experiment.read_plan().settings
