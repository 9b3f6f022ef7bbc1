"""What the files of a repair and of a training say, as page and charts get it."""

import pytest

from pruning.errors import PruningError
from pruning.experiment import RECOVERY_FILE, RECOVERY_FOLDER, REPAIR_FILE, Experiment
from pruning.files import write_json
from pruning.planning.recovery_cost import recipe, recipe_for
from pruning.runs.training_history import read_history, read_unfinished, repaired_matrices, repaired_on
from pruning.settings import Settings

POINTS = [
    {"step": 0, "loss": None, "learning_rate": 0.0, "tokens_per_second": 0.0, "perplexity": 31.0},
    {"step": 1, "loss": 3.5, "learning_rate": 1e-4, "tokens_per_second": 900.0, "perplexity": None},
    {"step": 2, "loss": 3.25, "learning_rate": 5e-5, "tokens_per_second": 950.0, "perplexity": 25.0},
]
COURSE = {
    "format_version": 1,
    "state": "running",
    "settings": {"finetune_method": "lora", "seed": 0},
    "learning_rate": 1e-4,
    "text": "text",
    "windows": 40,
    "steps": 10,
    "tokens_per_step": 512,
    "validation": {"text": "text", "windows": 128, "seq_len": 64},
    "lines": {"before": None, "after": 31.0},
    "best_step": 2,
    "points": POINTS,
}
MATRIX = {"layer_idx": 3, "matrix": "o_proj", "error_before": 0.2, "error_after": 0.1, "damping": 0.01}


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    return Experiment.create(tmp_path, "one")


def test_nothing_was_done(experiment):
    assert read_history(experiment) is None and repaired_matrices(experiment) is None and read_unfinished(experiment) is None


def test_a_training_under_way(experiment):
    experiment.path(RECOVERY_FOLDER).mkdir()
    write_json(experiment.path(RECOVERY_FOLDER, RECOVERY_FILE), COURSE)
    history = read_unfinished(experiment)
    assert (history.state, history.steps, history.before, history.after) == ("running", 10, None, 31.0)
    assert history.best_perplexity == 25.0 and list(history.measured["step"]) == [0, 2]
    assert history.last["loss"] == 3.25 and history.last["tokens_per_second"] == 950
    assert history.is_same_as(Settings(finetune_method="lora", seed=0, corpus="any"))
    assert not history.is_same_as(Settings(finetune_method="full", seed=0)) and not history.began_repaired
    assert read_history(experiment) is None  # no model went through it yet


def test_before_its_first_point_there_is_no_course(experiment):
    write_json(experiment.path(RECOVERY_FILE), COURSE | {"points": [], "best_step": None})
    assert read_history(experiment) is None


@pytest.mark.parametrize("missing", ["points", "lines", "steps"])
def test_a_file_without_what_it_must_hold_is_named(experiment, missing):
    write_json(experiment.path(RECOVERY_FILE), {name: value for name, value in COURSE.items() if name != missing})
    with pytest.raises(PruningError, match=r"recovery\.json cannot be read"):
        read_history(experiment)


def test_a_repair(experiment):
    calibration = {"corpus": "text", "tokens": 512}
    write_json(experiment.path(REPAIR_FILE), {"format_version": 1, "calibration": calibration, "matrices": [MATRIX]})
    assert repaired_matrices(experiment).to_dict("records") == [MATRIX]
    assert repaired_on(experiment)["tokens"] == 512
    write_json(experiment.path(REPAIR_FILE), {"format_version": 1, "calibration": calibration, "matrices": [{}]})
    with pytest.raises(PruningError, match=r"repair\.json cannot be read"):
        repaired_matrices(experiment)


@pytest.mark.parametrize(
    ("ratio", "method", "samples", "rank"), [(0.1, "lora", 500, 8), (0.2, "lora", 1000, 16), (0.3, "lora", 1000, 16)]
)
def test_a_small_cut_is_advised_a_small_training(ratio, method, samples, rank):
    advised = recipe(recipe_for(ratio), is_demo=False)
    assert (advised["finetune_method"], advised["finetune_samples"], advised["lora_r"]) == (method, samples, rank)
    assert advised["lora_alpha"] == 2 * rank and advised["finetune_lr"] is None
    assert recipe(recipe_for(ratio), is_demo=True)["finetune_lr"] == 1e-3


def test_a_large_cut_is_advised_training_in_full():
    advised = recipe(recipe_for(0.4), is_demo=True)
    assert (advised["finetune_method"], advised["finetune_samples"], advised["finetune_lr"]) == ("full", 2000, None)
