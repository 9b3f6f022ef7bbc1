"""Plans tried without cutting: the masked perplexity is that of the cut model, and nothing is evaluated twice."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pruning.errors import Cancelled
from pruning.experiment import Experiment
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.surgery import cut
from pruning.planning.group_table import GroupTable
from pruning.planning.planner import plan_from_settings
from pruning.runs import steps, try_plans
from pruning.runs.context import load_held_out
from pruning.runs.status import read_status, request_cancel
from pruning.runs.trials import (
    JUDGED_BY,
    WHOLE,
    Trial,
    Waiting,
    find_by_digest,
    find_by_settings,
    find_plan,
    plan_settings,
    read_trials,
    sweep,
)
from pruning.settings import Settings, merged
from tests.requests import ask_to_try


@pytest.fixture
def experiment(measured) -> Experiment:
    """A measured one without trials."""
    return measured.branch()


@pytest.fixture
def evaluations(monkeypatch) -> list:
    """Grows by one with each perplexity that is computed."""
    done = []
    compute = try_plans.perplexity

    def counted(*arguments, **options):
        done.append(1)
        return compute(*arguments, **options)

    monkeypatch.setattr(try_plans, "perplexity", counted)
    return done


def judged_by(experiment: Experiment) -> dict:
    return experiment.settings.of(JUDGED_BY)


def attempt(experiment: Experiment, *wanted: dict) -> list[Trial]:
    """Tries plans given by settings; gives all trials there are."""
    ask_to_try(experiment, [Waiting(given) for given in wanted], judged_by(experiment))
    steps.run("try", experiment)
    return read_trials(experiment)


def points(experiment: Experiment, *ratios: float, **changes) -> list[dict]:
    fixed = plan_settings(experiment.settings) | {"remove_empty_layers": False} | changes
    return [fixed | {"pruning_ratio": ratio} for ratio in ratios]


@torch.no_grad()
def perplexity_by_hand(model, windows) -> float:
    """Window by window, token by token."""
    log_likelihoods = []
    for window in windows:
        log_probabilities = F.log_softmax(model(window[None]).logits[0, :-1].double(), dim=-1)
        log_likelihoods += log_probabilities.gather(1, window[1:, None]).flatten().tolist()
    return math.exp(-sum(log_likelihoods) / len(log_likelihoods))


def test_a_preview_is_the_perplexity_of_the_model_that_would_be_cut(experiment):
    (wanted,) = points(experiment, 0.03)
    whole, trial = attempt(experiment, wanted)
    settings = experiment.settings
    loaded = load(open_checkpoint(settings.base_model), settings)
    windows = load_held_out(settings, loaded).windows
    assert whole.perplexity == pytest.approx(perplexity_by_hand(loaded.model, windows), rel=1e-5)
    plan = plan_from_settings(experiment.read_table(), replace(settings, **wanted)).plan
    pruned = cut(loaded.model, plan)
    assert trial.perplexity == pytest.approx(perplexity_by_hand(pruned, windows), rel=1e-4)
    assert abs(trial.perplexity / whole.perplexity - 1) > 1e-3  # the plan removes something that matters
    assert (trial.parameters, trial.digest, whole.digest) == (pruned.num_parameters(), plan.digest, WHOLE)
    assert trial.actual_ratio == pytest.approx(1 - pruned.num_parameters() / loaded.model.num_parameters())
    assert (trial.basis["windows"], trial.basis["dataset"]) == (len(windows), whole.basis["dataset"])
    assert read_status(experiment).state == "done"
    assert not experiment.has("plan.json") and not experiment.has("pruning_analysis.csv")  # nothing was cut


def test_what_was_tried_is_found_and_not_evaluated_again(experiment, evaluations):
    wanted = points(experiment, 0.02, 0.03)
    trials = attempt(experiment, *wanted)
    assert len(evaluations) == len(trials) == 3
    again = attempt(experiment, *wanted)
    assert len(evaluations) == 3
    assert {t.digest: t.perplexity for t in again} == {t.digest: t.perplexity for t in trials}
    table = experiment.read_table()
    for given, trial in zip(wanted, trials[1:], strict=True):
        plan = plan_from_settings(table, merged(Settings(), given)).plan
        found = find_plan(again, plan, judged_by(experiment))
        assert (found.settings, found.perplexity) == (given, trial.perplexity)
        assert find_by_settings(again, table, given, judged_by(experiment)).digest == plan.digest
    assert find_by_settings(again, table, wanted[0], judged_by(experiment) | {"eval_windows": 3}) is None
    other = GroupTable(table.shape, table.importance[::-1].copy(), table.source)
    assert find_by_settings(again, other, wanted[0], judged_by(experiment)) is None  # there the same settings may cut others


def test_two_settings_that_give_one_plan_are_evaluated_once(experiment, evaluations):
    (wanted,) = points(experiment, 0.03)
    same = wanted | {"layer_max_pruning_rate": 0.9}  # of no matter to `global`
    trials = attempt(experiment, wanted, same)
    assert len(evaluations) == 2
    assert trials[1].perplexity == trials[2].perplexity and trials[2].settings == same


def test_another_text_is_another_judgement(experiment, evaluations):
    (wanted,) = points(experiment, 0.03)
    attempt(experiment, wanted)
    ask_to_try(experiment, [Waiting(wanted)], judged_by(experiment) | {"eval_windows": 3})
    steps.run("try", experiment)
    trials = read_trials(experiment)
    assert len(evaluations) == len(trials) == 4
    assert [t.basis["windows"] for t in trials] == [6, 6, 3, 3]


def test_points_that_cannot_be_reached_carry_the_reason(experiment, evaluations):
    trials = attempt(experiment, *points(experiment, 0.03, 0.9))
    assert len(evaluations) == 2
    assert trials[-1].perplexity is None and "0.9 of all parameters cannot be removed" in trials[-1].reason
    assert trials[1].reason is None
    # An impossible point is no plan: it must not stand for another one.
    attempt(experiment, *points(experiment, 0.95))
    table, [given] = experiment.read_table(), points(experiment, 0.95)
    assert "0.95 of all" in find_by_settings(read_trials(experiment), table, given, judged_by(experiment)).reason


def test_a_sweep_that_is_cancelled_keeps_its_points_and_goes_on_where_it_was(experiment, evaluations, monkeypatch):
    wanted = points(experiment, 0.01, 0.02, 0.03, 0.04)
    say = try_plans._say

    def cancel_after_two(report, trial):
        say(report, trial)
        if len(evaluations) == 3:
            request_cancel(experiment)

    with monkeypatch.context() as patched:
        patched.setattr(try_plans, "_say", cancel_after_two)
        with pytest.raises(Cancelled):
            attempt(experiment, *wanted)
    kept = read_trials(experiment)
    assert read_status(experiment).state == "cancelled"
    assert [t.settings.get("pruning_ratio") for t in kept] == [None, 0.01, 0.02]
    finished = len(evaluations)
    trials = attempt(experiment, *wanted)
    assert len(evaluations) - finished == 2
    assert sorted(t.settings["pruning_ratio"] for t in trials[1:]) == [0.01, 0.02, 0.03, 0.04]


def test_a_plan_from_a_file_is_tried_too(experiment):
    [given] = points(experiment, 0.03)
    plan = plan_from_settings(experiment.read_table(), merged(Settings(), given)).plan
    ask_to_try(experiment, [Waiting({"name": "mine"}, plan.to_json())], judged_by(experiment))
    steps.run("try", experiment)
    found = find_by_digest(read_trials(experiment), plan.digest, judged_by(experiment))
    assert (found.name, found.parameters) == ("mine", plan.shape_after.parameters)


def test_sweeps_cover_their_axes(experiment):
    settings = experiment.settings
    assert [p["pruning_distribution"] for p in sweep(settings, "split")] == [
        *("0:10", "1:9", "2:8", "3:7", "4:6", "5:5", "6:4", "7:3", "8:2", "9:1", "10:0")
    ]
    assert {p["pruning_ratio"] for p in sweep(settings, "split")} == {settings.pruning_ratio}
    assert [round(p["pruning_ratio"], 2) for p in sweep(settings, "ratio")] == [
        *(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    ]
    grid = sweep(settings, "grid")
    assert len({(p["pruning_ratio"], p["pruning_distribution"]) for p in grid}) == 110
    layer = sweep(replace(settings, strategy="layer"), "ratio")[0]
    assert (layer["layer_min_pruning_rate"], layer["layer_max_pruning_rate"]) == (0, 0.9)


def test_a_small_sweep_runs_whole(experiment):
    settings = replace(experiment.settings, pruning_ratio=0.02, remove_empty_layers=False)
    trials = attempt(experiment, *sweep(settings, "split"))
    assert len(trials) == 1 + 11
    reached = [t for t in trials[1:] if not t.reason]
    assert len(reached) >= 5 and all(t.perplexity > 0 and t.actual_ratio <= 0.02 for t in reached)
    assert all(t.reason for t in trials[1:] if t not in reached)
    assert replace(trials[1], tried=0) == replace(read_trials(experiment)[1], tried=0)
