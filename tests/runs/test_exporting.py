"""Exports of a saved model, by command and by job: made, checked, offered; refused and stopped without a trace."""

import json
import shutil
import signal
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pruning import files
from pruning.__main__ import main
from pruning.errors import Cancelled, PruningError
from pruning.experiment import Experiment
from pruning.export import reload_check
from pruning.export.formats import FORMATS
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.plan import PruningPlan
from pruning.runs import export as export_step
from pruning.runs import steps
from pruning.runs.export_request import ExportRequest
from pruning.runs.requests import Request, read_request, write_request
from pruning.words import readable_size
from tests import fresh_python
from tests.runs.quick_runs import files_of, save_tiny_model

ROOT = Path(__file__).parents[2]


def compared_here(*args):
    return reload_check.compare(*map(str, args))


@pytest.fixture
def same_process(monkeypatch):
    """Compares in this process, which is faster; the classes are those of the folder's code."""
    monkeypatch.setattr(reload_check, "_in_fresh_process", compared_here)


@pytest.fixture(scope="module")
def cut_by_stream(tmp_path_factory):
    """A source folder, and an experiment whose model was cut by `apply --stream`."""
    root = tmp_path_factory.mktemp("streamed")
    source = save_tiny_model(root / "source")
    header = CheckpointHeader.read(source)
    plan = PruningPlan.keep_all(header.shape, fingerprint=header.fingerprint)
    kept = plan.kept.copy()
    kept[plan.groups.slice_of(1, "attention")][:2] = False
    kept[plan.groups.slice_of(2, "mlp")][5:9] = False
    plan_file = root / "plan.json"
    plan_file.write_text(json.dumps(replace(plan, kept=kept).to_json()))
    before, reload_check._in_fresh_process = reload_check._in_fresh_process, compared_here
    try:
        assert main(["apply", "--stream", *where(root, "streamed"), f"--base_model={source}", f"--plan={plan_file}"]) == 0
    finally:
        reload_check._in_fresh_process = before
    return root


def where(root: Path, name: str) -> list[str]:
    return [f"--output_root={root}", f"--experiment_name={name}"]


@pytest.fixture
def experiment(cut_by_stream, tmp_path) -> Experiment:
    """A copy of the cut experiment, so that tests do not meet."""
    shutil.copytree(cut_by_stream / "streamed", tmp_path / "log" / "streamed")
    return Experiment(tmp_path / "log" / "streamed")


def export(experiment: Experiment, *flags: str) -> int:
    return main(["export", *where(experiment.folder.parent, experiment.name), *flags])


def test_a_streamed_cut_is_described_checked_and_carded(cut_by_stream):
    experiment = Experiment.open(cut_by_stream, "streamed")
    assert experiment.is_saved and not experiment.leftovers()
    metrics = experiment.metrics()
    assert metrics["export_check"]["hf"]["max_abs_diff"] < 1e-4 and metrics["export_check"]["hf"]["top1"] == 1.0
    header = CheckpointHeader.read(experiment.model_folder)
    assert metrics["size_bytes"]["after"] == header.weight_bytes
    assert metrics["parameters"]["after"] == header.shape.parameters
    assert "perplexity" not in metrics


@pytest.mark.parametrize("bound", ["_EASILY", "_AT_MOST"])
def test_a_model_too_large_for_memory_is_checked_by_its_headers(cut_by_stream, tmp_path, monkeypatch, capsys, bound):
    monkeypatch.setattr(f"pruning.runs.streamed.{bound}", 0)
    source, plan = cut_by_stream / "source", cut_by_stream / "plan.json"
    assert main(["apply", "--stream", *where(tmp_path, "large"), f"--base_model={source}", f"--plan={plan}"]) == 0
    experiment = Experiment.open(tmp_path, "large")
    check = experiment.metrics()["export_check"]["hf"]
    assert check["max_abs_diff"] is None and check["tensors"] == len(CheckpointHeader.read(experiment.model_folder).tensors)
    assert "not loaded: names, shapes and sizes agree" in experiment.path("model", "README.md").read_text()
    assert "names, shapes and sizes agree" in capsys.readouterr().out


def test_every_format_is_made_checked_and_recorded(experiment, same_process, tmp_path, capsys):
    names = ("hf", "hf-float16", "gguf-f32", "gguf-q8_0", "bin", "plan")
    seconds_of_the_cut = experiment.metrics()["seconds"]
    assert export(experiment, f"--format={','.join(names)}", f"--to={tmp_path / 'out'}", "--max_shard_size=500KB") == 0
    for name in names:
        assert (tmp_path / "out" / FORMATS[name].file).stat().st_size == experiment.path(FORMATS[name].file).stat().st_size
    checks = experiment.metrics()["export_check"]
    assert checks.keys() == set(names)
    assert all(checks[name]["max_abs_diff"] < 1e-4 for name in ("hf", "hf-float16", "gguf-f32", "bin"))
    assert checks["plan"] == {"parameters": experiment.metrics()["parameters"]["after"]}
    half = CheckpointHeader.read(experiment.path("model-float16"))
    assert half.dtype == "F16" and len(half.weight_files) > 1
    assert not experiment.leftovers()
    card = experiment.path("model", "README.md").read_text()
    assert "| `gguf-q8_0` |" in card and "model-Q8_0.gguf" in card
    with zipfile.ZipFile(experiment.path("model.zip")) as packed:
        assert packed.read("model/README.md").decode() == card  # with the checks of all that was made beside it
    assert experiment.metrics()["seconds"] == seconds_of_the_cut and seconds_of_the_cut["save"] > 0
    assert "needed" in capsys.readouterr().out
    experiment.forget_result()
    assert not {name for name in files_of(experiment) if name.startswith(("model", "pytorch_model"))}


def one_sentence(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_no_room_is_one_sentence_and_leaves_nothing(experiment, monkeypatch, capsys):
    before = files_of(experiment) | {"request.json"}
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    assert export(experiment, "--format=gguf") == 2
    assert "There is not enough space" in one_sentence(capsys)
    assert {name for name in files_of(experiment) if "<time>" not in name} <= before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--format=onnx"], "There is no export format 'onnx'; use one of: hf,"),
        (["--max_shard_size=big"], "`max_shard_size` is 'big'; write a size such as 5GB"),
        (["--push=no-owner"], "needs a Hugging Face token"),
        (["--to=/proc/nowhere"], "/proc/nowhere could not be written"),
    ],
)
def test_what_cannot_be_is_one_sentence(experiment, capsys, monkeypatch, flags, sentence):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    before = files_of(experiment)
    assert export(experiment, *flags) == 2
    assert sentence in one_sentence(capsys)
    assert files_of(experiment) == before


def test_a_target_that_exists_and_a_name_with_a_slash_are_refused(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pytorch_model.bin").write_text("somebody's")
    assert export(experiment, "--format=bin", f"--to={tmp_path / 'out'}") == 2
    assert "is there already" in one_sentence(capsys)
    assert (tmp_path / "out" / "pytorch_model.bin").read_text() == "somebody's" and not experiment.has("pytorch_model.bin")
    assert export(experiment, "--push=a/b/c") == 2
    assert "'a/b/c' cannot name a repository" in one_sentence(capsys)
    assert export(experiment, "--push=a/b", "--format=gguf,hf-float16") == 2
    assert "hf-float16 is not uploaded" in one_sentence(capsys) and read_request(experiment).kind != "export"
    assert main(["export", *where(tmp_path, "a/b")]) == 2
    assert "a/b" in one_sentence(capsys)
    logs = "".join(path.read_text() for path in experiment.folder.rglob("*") if path.suffix in (".log", ".json", ".txt"))
    assert "hf_secret" not in logs


def test_the_card_of_an_upload_lists_the_files_of_this_upload(experiment, same_process, monkeypatch):
    uploads = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(export_step, "push", lambda *args: uploads.append(args))
    assert export(experiment, "--push=a/b", "--format=bin") == 0
    assert export(experiment, "--push=a/b", "--format=hf") == 0
    (with_bin, without) = ((card, [file.name for file in files]) for _, _, _, card, files, _ in uploads)
    assert "pytorch_model.bin" in with_bin[0] and with_bin[1] == ["pytorch_model.bin"]
    assert "pytorch_model.bin" not in without[0] and without[1] == []


def test_a_check_that_does_not_fit_into_memory_is_refused_before_anything_is_made(experiment, monkeypatch, capsys):
    parameters = CheckpointHeader.read(experiment.model_folder).shape.parameters
    monkeypatch.setattr(export_step.psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    for name in ("bin", "hf-float16"):
        assert export(experiment, f"--format={name}") == 2
        assert f"{readable_size(2 * 4 * parameters)} needed, 10 Bytes free" in one_sentence(capsys)
        assert not experiment.has(FORMATS[name].file) and not experiment.leftovers()
    assert export(experiment, "--format=hf") == 0  # needs no model


def test_a_missing_shard_of_the_source_is_named(cut_by_stream, tmp_path, capsys):
    from pruning.export.hugging_face import save_model
    from tests.tiny_models import tiny_model

    save_model(tiny_model("llama"), None, tmp_path / "source", max_shard_size="30KB")
    shard = sorted((tmp_path / "source").glob("model-*.safetensors"))[1]
    shard.unlink()
    plan = cut_by_stream / "plan.json"
    flags = [*where(tmp_path / "log", "x"), f"--base_model={tmp_path / 'source'}", f"--plan={plan}"]
    assert main(["apply", "--stream", *flags]) == 2
    assert shard.name in one_sentence(capsys) and not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--stream", "--test_after_prune"], "`stream` and `test_after_prune` cannot be used together"),
        (["--stream", "--save_format=bin"], "`stream` and `save_format` cannot be used together"),
        (["--save_format=gguf"], "asks for gguf-f16, which is made from the saved model. Add --save_model"),
        (["--save_model", "--save_format=onnx"], "There is no export format 'onnx'"),
    ],
)
def test_settings_that_could_only_fail_at_the_end_are_refused_at_the_start(cut_by_stream, tmp_path, capsys, flags, sentence):
    model, plan = cut_by_stream / "source", cut_by_stream / "plan.json"
    assert main(["apply", *flags, *where(tmp_path, "x"), f"--base_model={model}", f"--plan={plan}"]) == 2
    assert sentence in one_sentence(capsys) and not list(tmp_path.iterdir())


def test_a_dry_run_of_streaming_names_the_memory_it_takes(cut_by_stream, tmp_path, capsys):
    model, plan = cut_by_stream / "source", cut_by_stream / "plan.json"
    flags = [*where(tmp_path, "x"), f"--base_model={model}", f"--plan={plan}"]
    assert main(["apply", "--stream", "--dry_run", *flags]) == 0
    assert "476.8 MiB for cutting from file to file" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "check"), [("bin", "check_file"), ("hf-float16", "check_reload")])
def test_a_cancelled_export_leaves_nothing(experiment, same_process, monkeypatch, name, check):
    write_request(experiment, Request("export", ExportRequest((name,)).arguments))
    before = {path.name for path in experiment.folder.iterdir()}

    def stop(*args):
        raise Cancelled

    monkeypatch.setattr(export_step, check, stop)
    with pytest.raises(Cancelled):
        steps.run("export", experiment)
    assert not {path.name for path in experiment.folder.iterdir() if "model" in path.name} - before
    assert not experiment.leftovers()


def test_a_folder_that_fails_its_check_leaves_the_older_one(experiment, monkeypatch):
    write_request(experiment, Request("export", ExportRequest(("hf-float16",)).arguments))
    experiment.path("model-float16").mkdir()
    experiment.path("model-float16", "README.md").touch()
    monkeypatch.setattr(reload_check, "_in_fresh_process", lambda *args: {"max_abs_diff": 0.5, "top1": 0.9})
    with pytest.raises(PruningError, match="not offered for download"):
        steps.run("export", experiment)
    assert [path.name for path in experiment.path("model-float16").iterdir()] == ["README.md"]
    assert not experiment.has("model-float16.zip") and not experiment.leftovers()


def test_a_file_that_fails_its_check_is_not_offered(experiment, monkeypatch):
    write_request(experiment, Request("export", ExportRequest(("bin",)).arguments))
    answer = {"max_abs_diff": 0.5, "top1": 0.9, "exact": True}
    monkeypatch.setattr(reload_check, "_in_fresh_process", lambda *args: dict(answer))
    with pytest.raises(PruningError, match="not offered for download"):
        steps.run("export", experiment)
    assert not experiment.has("pytorch_model.bin") and "bin" not in experiment.metrics()["export_check"]


@pytest.mark.parametrize(("gap", "offered"), [(2e-4, False), (float("nan"), False), (5e-5, True)])
def test_a_file_that_llama_cpp_reads_differently_is_not_offered(experiment, monkeypatch, gap, offered):
    write_request(experiment, Request("export", ExportRequest(("gguf-f32",)).arguments))
    answer = {"max_abs_diff": 0.0, "top1": 1.0, "exact": True, "llama_cpp": {"tokens": 32, "equal": 1, "gap": gap}}
    monkeypatch.setattr(reload_check, "_in_fresh_process", lambda *args: answer)
    with nullcontext() if offered else pytest.raises(PruningError, match="for 1 of 32 tokens only"):
        steps.run("export", experiment)
    assert experiment.has("model-F32.gguf") == offered


KILLED = """
import os, signal, sys
from pruning.runs import export
from pruning.__main__ import main
export.check_file = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_what_a_killed_export_left_is_removed_by_the_next(experiment, same_process, capsys):
    flags = ["export", *where(experiment.folder.parent, experiment.name), "--format=bin"]
    done = fresh_python.run(KILLED, *flags, PYTHONPATH=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.partition("-")[0] for path in experiment.leftovers()] == [".pytorch_model.bin.part"]
    assert not experiment.has("pytorch_model.bin")
    assert export(experiment, "--format=bin") == 0
    assert "which a stopped run left half-written" in capsys.readouterr().out
    assert experiment.has("pytorch_model.bin") and not experiment.leftovers()


def test_the_plan_alone_needs_no_cut(experiment):
    shutil.rmtree(experiment.model_folder)
    assert export(experiment, "--format", "plan") == 0
    assert export(experiment, "--format", "bin") == 2
