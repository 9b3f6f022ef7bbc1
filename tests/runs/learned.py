"""A tiny model with every experiment that the chapters of the Learn page ask for."""

from pathlib import Path

from transformers import AutoTokenizer

from pruning.experiment import Experiment
from pruning.export.hugging_face import save_model
from pruning.model.model_source import DEMO_FOLDER
from pruning.runs import steps
from pruning.runs.sensitivity import results
from pruning.runs.sensitivity.results import BOTH, GRID, INSIDE, LAYERS, MATRIX, PROTECTION, SPLIT, STRATEGIES, TRAINED
from tests.requests import ask_to_learn
from tests.runs.quick_runs import VOCABULARY, new_experiment, quick_settings, write_text
from tests.tiny_models import tiny_model

# What the chapters ask for as they open, and what they offer besides.
ASKED = ((MATRIX, {}), (INSIDE, {}), (PROTECTION, {}), (TRAINED, {}), (GRID, {}), (STRATEGIES, {}), (SPLIT, {}), (LAYERS, {}))
ASKED += ((LAYERS, {"share": 0.25, "kinds": [BOTH]}),)


def learn_all(root: Path, name: str, model_folder: Path, sizes: dict) -> Experiment:
    """Saves a model of these sizes in `model_folder`, measures it as experiment `name` under `root`, and finds out all."""
    model = tiny_model(vocab_size=VOCABULARY, tied=True, max_position_embeddings=48, **sizes)
    save_model(model, AutoTokenizer.from_pretrained(DEMO_FOLDER), model_folder)
    text = write_text(model_folder.with_suffix(".txt"))
    experiment = new_experiment(
        root, name, quick_settings(model_folder, text, layer_importance_samples=2, gradient_batch_size=16)
    )
    steps.run("measure", experiment)
    for kind, options in ASKED:
        ask_to_learn(experiment, results.question(experiment, experiment.read_table(), kind, **options))
        steps.run("learn", experiment)
    return experiment
