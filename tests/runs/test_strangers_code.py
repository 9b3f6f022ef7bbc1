"""Code that a model, a tokenizer or an experiment brings runs only where this person allowed it, and is never passed on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from pruning.__main__ import main
from pruning.errors import PruningError
from pruning.experiment import COST_FILE, Experiment
from pruning.export.own_code import foreign_code
from pruning.export.reload_check import check_reload
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.model_source import fetch
from pruning.runs import steps
from pruning.runs.permissions import Permissions
from pruning.runs.requests import REQUEST_FILE
from pruning.settings import resolve
from tests import fresh_python
from tests.runs.quick_runs import new_experiment, quick_flags, quick_settings, save_tiny_model
from tests.tiny_models import random_ids
from tests.trap import set_trap

OPEN = ("--layer_start=0", "--layer_end=5", "--pruning_ratio=0.05")


@pytest.fixture
def mark(tmp_path) -> Path:
    """The file that code of the stranger's folder leaves behind when it runs."""
    return tmp_path / "sprung"


@pytest.fixture
def stranger(tmp_path, mark) -> Path:
    folder = save_tiny_model(tmp_path / "stranger")
    set_trap(folder, mark)
    (folder / "LICENSE.py").write_text((folder / "tokenization_trap.py").read_text())
    return folder


@pytest.fixture
def cut_by_stranger(stranger, text, tmp_path) -> Experiment:
    """An experiment on the stranger's model, cut and saved without any consent, whose files then claim one."""
    experiment = new_experiment(tmp_path / "log", "run", quick_settings(stranger, text, save_model=True, finetune_steps=1))
    steps.run("global", experiment)
    description = experiment.description()
    description["settings"]["trust_remote_code"] = True
    experiment.path("description.txt").write_text(json.dumps(description))
    return experiment


def loads_trusting(folder: Path) -> str:
    """What a user's own process says that loads an export as the README tells."""
    program = """
        import sys
        from transformers import AutoModelForCausalLM, AutoTokenizer
        for auto_class in (AutoTokenizer, AutoModelForCausalLM):
            auto_class.from_pretrained(sys.argv[1], trust_remote_code=True)
    """
    done = fresh_python.run(program, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("consent", [(), ("--trust_remote_code",)])
@pytest.mark.parametrize("command", [("uniform",), ("global", *OPEN[:2])])
def test_code_of_a_model_runs_by_consent_and_is_not_passed_on(stranger, mark, text, tmp_path, command, consent):
    flags = [*quick_flags(stranger, text, tmp_path / "log"), OPEN[2], "--save_model"]
    assert main([*command, *flags, *consent]) == 0
    assert mark.exists() == bool(consent)
    mark.unlink(missing_ok=True)
    model = tmp_path / "log" / "run" / "model"
    assert foreign_code(model) is None and "trap" not in (model / "tokenizer_config.json").read_text()
    assert {file.name for file in model.glob("*.py")} <= {"configuration_pruned.py", "modeling_pruned.py"}
    loads_trusting(model)
    assert not mark.exists()
    description = json.loads((tmp_path / "log" / "run" / "description.txt").read_text())
    assert "trust_remote_code" not in description["settings"]  # a consent is kept in no file


def test_streaming_passes_no_code_on_either(cut_by_stranger, stranger, mark, text, tmp_path):
    plan = f"--plan={cut_by_stranger.path('plan.json')}"
    flags = [f"--base_model={stranger}", f"--output_root={tmp_path / 'streamed'}", "--experiment_name=run", plan, "--stream"]
    assert main(["apply", *flags, "--remove_empty_layers"]) == 0
    model = tmp_path / "streamed" / "run" / "model"
    assert foreign_code(model) is None
    loads_trusting(model)
    assert not mark.exists()


def test_what_files_of_an_experiment_say_is_no_consent(cut_by_stranger, mark):
    """Each file that settings are read from; each job reads the model before the cut."""
    experiment = cut_by_stranger
    assert experiment.settings.trust_remote_code is False
    settings = replace(experiment.settings, trust_remote_code=True, reconstruct=True, finetune=True).as_dict()
    description = json.loads(experiment.path("description.txt").read_text())
    experiment.path("description.txt").write_text(json.dumps(description | {"settings": settings}))
    experiment.path(COST_FILE).write_text(json.dumps({"format_version": 1, "settings": settings, "windows": 7}))
    for job in ("recover", "cost", "prune"):
        request = {"format_version": 1, "kind": job, "arguments": {"settings": settings}}
        experiment.path(REQUEST_FILE).write_text(json.dumps(request))
        steps.run(job, experiment)
        assert not mark.exists(), job


def test_the_consent_of_this_person_reaches_the_worker(cut_by_stranger, mark):
    steps.run("prune", cut_by_stranger, permissions=Permissions(trust_remote_code=True))
    assert mark.exists()


@pytest.mark.parametrize("flags", [("--resume",), ("--config=CONFIG", "--experiment_name=other")])
def test_a_run_that_goes_on_or_takes_settings_from_a_file_takes_no_consent(cut_by_stranger, mark, capsys, flags):
    experiment = cut_by_stranger
    experiment.path("pruning_analysis.csv").unlink()  # something is left to do
    flags = [flag.replace("CONFIG", str(experiment.path("description.txt"))) for flag in flags]
    where = [f"--output_root={experiment.folder.parent}"]
    name = [] if "--experiment_name=other" in flags else ["--experiment_name=run"]
    assert main(["global", *where, *name, *flags]) == 0
    assert not mark.exists()
    assert ("does not count" in capsys.readouterr().err) == (not name)


def test_a_tokenizer_that_is_nothing_but_code_is_refused_in_one_sentence(stranger, mark):
    """No class of transformers could stand in for it."""
    path = stranger / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "Trap"}))
    (stranger / "tokenizer.json").unlink()
    with pytest.raises(PruningError) as refused:
        load(open_checkpoint(str(stranger)), resolve({}))
    assert refused.value.code == "tokenizer_code" and "--trust_remote_code" in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("with_code", [False, True])
def test_python_files_are_fetched_from_the_hub_by_consent_only(monkeypatch, tmp_path, with_code):
    """The hub's own filter is asked which files of a repository our patterns take."""
    there = ["config.json", "model.safetensors", "tokenizer.json"]
    there += ["tokenizer_own.py", "modeling_own.py", "LICENSE.py", "x/a.py"]
    taken: set[str] = set()

    def snapshot_download(repo_id, allow_patterns, ignore_patterns, token):
        taken.update(filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        (tmp_path / "model.safetensors").touch()
        (tmp_path / "config.json").write_text("{}")
        return tmp_path

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    fetch("owner/name", with_code=with_code)
    code = {"tokenizer_own.py", "modeling_own.py", "LICENSE.py"} if with_code else set()
    assert taken == {"config.json", "model.safetensors", "tokenizer.json"} | code


def test_a_config_that_names_a_kernel_of_the_hub_is_refused(stranger):
    for value in ("evil/kernel", {"": "evil/kernel"}):
        config = json.loads((stranger / "config.json").read_text()) | {"_attn_implementation": value}
        (stranger / "config.json").write_text(json.dumps(config))
        with pytest.raises(PruningError, match="code of the hub"):
            open_checkpoint(str(stranger))


def test_streaming_with_consent_needs_no_second_one(cut_by_stranger, stranger, mark, text, tmp_path):
    """A tokenizer that only code can make, of a model small enough that the result is loaded again."""
    path = stranger / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "Trap"}))
    flags = [f"--base_model={stranger}", f"--output_root={tmp_path / 'streamed'}", "--experiment_name=run", "--stream"]
    plan = f"--plan={cut_by_stranger.path('plan.json')}"
    assert main(["apply", *flags, plan, "--remove_empty_layers", "--trust_remote_code"]) == 0
    assert mark.exists() and foreign_code(tmp_path / "streamed" / "run" / "model") is None


@pytest.mark.parametrize("put", ["code", "auto_map", "link"])
def test_what_somebody_put_into_a_saved_model_is_not_packed(cut_by_stranger, tmp_path, put):
    folder, secret = cut_by_stranger.model_folder, tmp_path / "secret"
    secret.write_text("secret")
    if put == "code":
        (folder / "more.py").write_text("x = 1")
    elif put == "auto_map":
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "more.T"]}}))
    else:
        (folder / "NOTICE").symlink_to(secret)
    with pytest.raises(PruningError) as refused:
        steps.run("pack", cut_by_stranger)
    assert refused.value.code == "export_foreign" and not cut_by_stranger.has("model.zip")


def test_our_own_code_in_a_folder_of_an_earlier_version_is_brought_up_to_date(cut_by_stranger):
    file = cut_by_stranger.model_folder / "modeling_pruned.py"
    ours = file.read_bytes()
    file.write_bytes(ours + b"# as an earlier version wrote it\n")
    steps.run("pack", cut_by_stranger)
    assert file.read_bytes() == ours and foreign_code(cut_by_stranger.model_folder) is None


def test_a_licence_that_is_a_link_to_something_else_is_not_passed_on(stranger, text, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (stranger / "LICENSE").symlink_to(tmp_path / "secret")
    (stranger / "NOTICE").write_text("of the model")
    assert main(["uniform", *quick_flags(stranger, text, tmp_path / "log"), OPEN[2], "--save_model"]) == 0
    model = tmp_path / "log" / "run" / "model"
    assert not (model / "LICENSE").exists() and (model / "NOTICE").read_text() == "of the model"


@pytest.mark.parametrize("tampered", ["modeling_pruned.py", "more.py", "tokenizer_config.json"])
def test_the_check_runs_no_file_that_is_not_ours_byte_for_byte(cut_by_stranger, mark, tampered):
    folder = cut_by_stranger.model_folder
    assert (folder / "modeling_pruned.py").exists()
    file = folder / tampered
    if file.suffix == ".json":
        auto_map = {"AutoTokenizer": [None, "modeling_pruned.PrunedLlamaModel"]}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": auto_map}))
    else:
        file.write_text(f"open({str(mark)!r}, 'w').close()\n" + (file.read_text() if file.exists() else ""))
    loaded = load(open_checkpoint(str(folder)), resolve({}))
    with pytest.raises(PruningError, match="code that is not of this project"):
        check_reload(folder, loaded.model, loaded.tokenizer, random_ids(2, 8))
    assert not mark.exists()
