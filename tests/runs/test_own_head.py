"""A config that says "tied" over files with an output head of their own: that head is kept, counted, and said once."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.model_files import open_files
from pruning.__main__ import main
from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.model_source import summarize
from pruning.settings import resolve
from tests.runs.quick_runs import quick_flags, save_tiny_model
from tests.tiny_models import random_ids

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
SAID = "config.json says that the output head is tied to the embeddings, but the files hold a head of its own"


def said_to_be_tied(folder: Path, form: str, **options) -> Path:
    """A model with a head of its own whose config says otherwise; as it was published."""
    save_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    if form == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", **options)
        (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_the_head_is_kept_and_counted_everywhere(tmp_path, text, capsys, form):
    source = said_to_be_tied(tmp_path / "source", form)
    truth = save_tiny_model(tmp_path / "truth")  # the same weights under a config that is right
    expected = open_checkpoint(str(truth))
    for shape in (summarize(str(source)).shape, open_files(str(source), tmp_path).shape, open_checkpoint(str(source)).shape):
        assert shape == expected.shape
    assert open_files(str(source), tmp_path).parameters == expected.shape.parameters
    settings = resolve({"base_model": "", "device": "cpu"})
    models = [load(open_checkpoint(str(folder)), settings).model for folder in (source, truth)]
    logits = [model(random_ids(1, 9)).logits for model in models]
    assert torch.equal(*logits)

    flags = quick_flags(source, text, tmp_path / "log", pruning_ratio=0.03, importance_method="l1")
    assert main(["global", *flags, "--dry_run"]) == 0
    assert f"{expected.shape.parameters:,} parameters" in capsys.readouterr().out
    assert main(["global", *flags, "--save_model", "--save_format=bin"]) == 0  # the exports are checked
    assert capsys.readouterr().out.count(SAID) == 1
    experiment = Experiment.open(tmp_path / "log", "run")
    assert experiment.shape() == expected.shape
    assert experiment.metrics()["parameters"]["before"] == expected.shape.parameters
    written = load_file(experiment.model_folder / "model.safetensors")
    assert torch.equal(written[HEAD], load_file(truth / "model.safetensors")[HEAD])
    assert json.loads((experiment.model_folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert sum(weight.numel() for weight in written.values()) == experiment.metrics()["parameters"]["after"]

    if form == "safetensors":
        streamed = [f"--output_root={tmp_path / 'log'}", "--experiment_name=streamed", f"--base_model={source}"]
        assert main(["apply", "--stream", f"--plan={experiment.path('plan.json')}", *streamed]) == 0
        again = (tmp_path / "log" / "streamed" / "model" / "model.safetensors").read_bytes()
        assert again == (experiment.model_folder / "model.safetensors").read_bytes()


def test_a_head_that_only_loading_can_see_is_refused_when_loaded(tmp_path):
    source = said_to_be_tied(tmp_path / "source", "bin", _use_new_zipfile_serialization=False)
    with pytest.raises(PruningError, match=r'the weights hold another head. Write "tie_word_embeddings": false into it'):
        load(open_checkpoint(str(source)), resolve({"base_model": "", "device": "cpu"}))
