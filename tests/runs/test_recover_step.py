"""The job `recover` and `--finetune`: what stands in the folder while it trains, afterwards, and when it is stopped."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

from pruning import experiment as experiment_files
from pruning.errors import Cancelled, PruningError
from pruning.experiment import (
    ADAPTER_FOLDER,
    COST_FILE,
    CUT_MODEL_FOLDER,
    RECOVERY_FILE,
    RECOVERY_FOLDER,
    REPAIR_FILE,
    Experiment,
)
from pruning.export.hugging_face import save_model
from pruning.files import write_json
from pruning.model.calibration import CALIBRATION, draw_samples, load_corpus, windows_left_out
from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.held_out import HeldOutText, perplexity
from pruning.model.model_source import DEMO_FOLDER
from pruning.model.repair import repair
from pruning.model.surgery import cut
from pruning.runs import recover, results, steps, train
from pruning.runs.context import load_held_out
from pruning.runs.jobs import JobQueue
from pruning.runs.progress import Progress
from pruning.runs.status import CANCEL_FILE, read_status, request_cancel
from pruning.runs.train import training_data
from pruning.settings import LORA_TARGETS, resolve
from tests.requests import ask_by_settings
from tests.runs.quick_runs import (
    VOCABULARY,
    clumsy_worker,
    files_of,
    new_experiment,
    plan_fault,
    quick_settings,
    wait_for_end,
    wait_until,
)
from tests.tiny_models import random_ids, tiny_model

QUICK = {"finetune_samples": 20, "finetune_batch_size": 4, "finetune_steps": 8, "finetune_eval_steps": 2, "finetune_lr": 3e-3}
CUT = {"pruning_ratio": 0.04, "protected_layers": "none", "save_model": True}


@pytest.fixture(scope="module")
def cut_experiment(tmp_path_factory, model_folder, text) -> Experiment:
    """A cut that was saved; tests work on copies."""
    experiment = new_experiment(tmp_path_factory.mktemp("cut"), "cut", quick_settings(model_folder, text, **CUT, **QUICK))
    with pytest.MonkeyPatch.context() as patch:
        do_not_check(patch)
        steps.run("global", experiment)
    return experiment


def do_not_check(patch: pytest.MonkeyPatch) -> None:
    """Spares the fresh process that loads a saved model, where that is not what a test is about."""
    patch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})


@pytest.fixture
def unchecked(monkeypatch) -> None:
    do_not_check(monkeypatch)


@pytest.fixture
def experiment(cut_experiment, tmp_path) -> Experiment:
    experiment = Experiment(Path(shutil.copytree(cut_experiment.folder, tmp_path / "cut")))
    experiment.write_settings(replace(experiment.settings, finetune=True))
    return experiment


def recovery_of(experiment: Experiment) -> dict:
    return json.loads(experiment.path(RECOVERY_FILE).read_text())


def unfinished(experiment: Experiment) -> dict:
    """The training that runs, or was stopped."""
    return json.loads(experiment.path(RECOVERY_FOLDER, RECOVERY_FILE).read_text())


def loaded(folder: Path):
    return load(open_checkpoint(str(folder)), resolve({}))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(random_ids(2, 12)).logits


def at_step(monkeypatch, step: int, do, unit: str = "steps") -> None:
    """Has a run stumble when it reports this step of its training, or so many layers of its repair."""
    progress = Progress.advance

    def stumbling(report, done: int, total: int) -> None:
        if report.status.unit == unit and done == step:
            do(report.experiment)
        progress(report, done, total)

    monkeypatch.setattr(Progress, "advance", stumbling)


def test_the_recovered_model_takes_the_place_of_the_cut_one_which_is_kept(experiment, text):
    base = logits(loaded(experiment.model_folder).model)
    # What the check of a cut alone finds; it is true of no trained model.
    experiment.update_metrics(export_check={"hf": {"max_abs_diff": 0.0, "top1": 1.0, "original_diff": 3e-7}})
    steps.run("recover", experiment)
    metrics, recovery = experiment.metrics(), recovery_of(experiment)
    assert metrics["perplexity"].keys() == {"before", "after", "recovered"}
    assert metrics["export_check"]["hf"]["max_abs_diff"] < 1e-4  # in a fresh process, after the training
    assert "original_diff" not in metrics["export_check"]["hf"]
    assert recovery["state"] == "done" and [p["step"] for p in recovery["points"]] == list(range(9))
    recovered = loaded(experiment.model_folder)
    held_out = HeldOutText.load(recovered.tokenizer, str(text), 16, 6)
    (value,) = metrics["perplexity"]["recovered"].values()
    assert perplexity(recovered.model, held_out.windows) == pytest.approx(value, rel=1e-4)
    assert value <= next(iter(metrics["perplexity"]["after"].values()))
    torch.testing.assert_close(logits(loaded(experiment.path(CUT_MODEL_FOLDER)).model), base)
    adapted = PeftModel.from_pretrained(loaded(experiment.path(CUT_MODEL_FOLDER)).model, experiment.path(ADAPTER_FOLDER))
    torch.testing.assert_close(logits(adapted), logits(recovered.model), atol=1e-4, rtol=0)
    assert experiment.is_saved and not experiment.has(RECOVERY_FOLDER)
    card = (experiment.model_folder / "README.md").read_text()
    assert "lora, 8 steps of 64 tokens" in card and "| recovered |" in card
    assert json.loads(experiment.path("samples.json").read_text()).keys() >= {"before", "after", "recovered"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_judged_is_what_the_files_hold(tmp_path, text, method):
    tiny = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=48).bfloat16()
    save_model(tiny, AutoTokenizer.from_pretrained(DEMO_FOLDER), tmp_path / "half")
    asked = CUT | QUICK | {"finetune": True, "finetune_method": method}
    experiment = new_experiment(tmp_path, "run", quick_settings(tmp_path / "half", text, **asked))
    steps.run("global", experiment)
    assert open_checkpoint(str(experiment.model_folder)).dtype == "BF16"
    saved = loaded(experiment.model_folder)
    held_out = HeldOutText.load(saved.tokenizer, str(text), 16, 6)
    (value,) = experiment.metrics()["perplexity"]["recovered"].values()
    assert perplexity(saved.model, held_out.windows) == pytest.approx(value, rel=1e-6)


# a second recovery ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_experiment(cut_experiment, tmp_path_factory) -> Experiment:
    """A cut that was saved and trained; tests work on copies."""
    folder = shutil.copytree(cut_experiment.folder, tmp_path_factory.mktemp("trained") / "cut")
    experiment = Experiment(Path(folder))
    experiment.write_settings(replace(experiment.settings, finetune=True))
    with pytest.MonkeyPatch.context() as patch:
        do_not_check(patch)
        steps.run("recover", experiment)
    return experiment


@pytest.fixture
def trained(trained_experiment, tmp_path) -> Experiment:
    """Trained once; a second training is asked for, by other settings."""
    experiment = Experiment(Path(shutil.copytree(trained_experiment.folder, tmp_path / "trained")))
    experiment.write_settings(replace(experiment.settings, finetune_method="full", finetune_lr=1e-3))
    return experiment


def result_of(experiment: Experiment) -> dict[str, bytes]:
    """All that tells of the model, and the model."""
    names = ("model", ADAPTER_FOLDER, CUT_MODEL_FOLDER, REPAIR_FILE, RECOVERY_FILE, "samples.json")
    files = [file for name in names for file in (experiment.path(name), *experiment.path(name).rglob("*")) if file.is_file()]
    metrics = {name: figures for name, figures in experiment.metrics().items() if name != "seconds"}
    held = {str(file.relative_to(experiment.folder)): file.read_bytes() for file in files}
    return held | {"metrics": json.dumps(metrics).encode()}


def fails(*_, **__) -> None:
    raise PruningError("export_mismatch", difference=1.0)


def is_killed(*_, **__) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "happens"),
    [("training", fails), ("training", is_killed), ("evaluation", fails), ("check", fails), ("check", is_killed)],
)
@pytest.mark.parametrize("repairs", [False, True])
def test_a_second_recovery_that_fails_leaves_the_first_as_it_was(trained, monkeypatch, place, happens, repairs):
    asked = {"finetune_corpus": trained.settings.corpus, "reconstruct": repairs, "reconstruct_tokens": 200}
    trained.write_settings(replace(trained.settings, **asked))
    before = result_of(trained)
    do_not_check(monkeypatch)
    if place == "training":
        at_step(monkeypatch, 3, happens)
    elif place == "evaluation":
        monkeypatch.setattr(recover, "continue_text", happens)
    else:
        monkeypatch.setattr(results, "check_reload", happens)
    with pytest.raises((PruningError, KeyboardInterrupt)):
        steps.run("recover", trained)
    assert result_of(trained) == before and trained.is_saved
    trained.remove_leftovers()
    assert result_of(trained) == before


@pytest.mark.usefixtures("unchecked")
def test_a_second_recovery_begins_with_the_cut_model_and_takes_the_place_of_the_first_with_all_that_tells_of_it(trained):
    first, before = result_of(trained), recovery_of(trained)
    assert trained.has(ADAPTER_FOLDER)
    trained.path("model-F16.gguf").touch()  # an export of the first
    trained.write_settings(replace(trained.settings, distill_weight=0.5))
    steps.run("recover", trained)
    second = result_of(trained)
    assert recovery_of(trained)["points"][0]["perplexity"] == pytest.approx(before["points"][0]["perplexity"])
    assert "distilled" in (trained.model_folder / "README.md").read_text()
    assert second["model/model.safetensors"] != first["model/model.safetensors"]
    assert second["cut_model/model.safetensors"] == first["cut_model/model.safetensors"]
    assert recovery_of(trained)["settings"]["finetune_method"] == "full" == trained.metrics()["recovery"]["method"]
    assert not trained.has(ADAPTER_FOLDER) and not trained.has("model-F16.gguf") and not trained.has(RECOVERY_FOLDER)
    assert not [entry for entry in trained.folder.iterdir() if entry.name.startswith(".")]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("at", range(2))
def test_killed_while_the_new_result_is_put_in_place_the_next_job_comes_to_the_end_of_it(trained, monkeypatch, at):
    put, done = experiment_files._put, []

    def die_at_one(source: Path, target: Path) -> None:
        if len(done) == at:
            raise KeyboardInterrupt
        done.append(target)
        put(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiment_files, "_put", die_at_one)
        steps.run("recover", trained)
    trained.remove_leftovers()
    assert recovery_of(trained)["settings"]["finetune_method"] == "full" == trained.metrics()["recovery"]["method"]
    assert trained.is_saved and not trained.has(ADAPTER_FOLDER) and not trained.leftovers()
    (value,) = trained.metrics()["perplexity"]["recovered"].values()
    saved = loaded(trained.model_folder)
    held_out = HeldOutText.load(saved.tokenizer, trained.settings.eval_corpus, 16, 6)
    assert perplexity(saved.model, held_out.windows) == pytest.approx(value, rel=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_a_training_that_began_without_the_repair_is_not_gone_on_with_after_it(experiment, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 5, is_killed)
        with pytest.raises(KeyboardInterrupt):
            steps.run("recover", experiment)
    before = unfinished(experiment)
    experiment.write_settings(replace(experiment.settings, reconstruct=True, reconstruct_tokens=200))
    with pytest.raises(PruningError, match="after step 5 of 8 would be given up: this one differs in the repair"):
        steps.run("recover", experiment)
    experiment.write_settings(replace(experiment.settings, overwrite=True))
    steps.run("recover", experiment)
    after = recovery_of(experiment)
    assert (before["began_repaired"], after["began_repaired"]) == (False, True)
    assert after["points"][0]["perplexity"] != before["points"][0]["perplexity"]


@pytest.mark.usefixtures("unchecked")
def test_a_second_training_that_is_cancelled_when_it_is_no_better_leaves_the_first(trained, monkeypatch):
    before = result_of(trained)
    with monkeypatch.context() as patch:
        at_step(patch, 1, request_cancel)
        patch.setattr(train, "perplexity", lambda *_: 1e6)  # of every state: none is better than the first, step 0
        with pytest.raises(Cancelled):
            steps.run("recover", trained)
    assert result_of(trained) == before and unfinished(trained)["state"] == "stopped"


@pytest.mark.usefixtures("unchecked")
def test_a_repair_alone_does_not_take_the_place_of_a_trained_model_unasked(trained):
    before, asked = result_of(trained), {"finetune": False, "reconstruct": True, "reconstruct_tokens": 200}
    trained.write_settings(replace(trained.settings, **asked))
    with pytest.raises(PruningError, match="holds a trained model, and a repair alone would replace it"):
        steps.run("recover", trained)
    assert result_of(trained) == before
    trained.write_settings(replace(trained.settings, overwrite=True))
    steps.run("recover", trained)
    assert trained.has(REPAIR_FILE) and not trained.has(RECOVERY_FILE)


@pytest.mark.usefixtures("unchecked")
def test_a_second_repair_begins_with_the_cut_model_and_not_with_the_first(experiment, tmp_path):
    straight = Experiment(Path(shutil.copytree(experiment.folder, tmp_path / "straight")))
    more = {"finetune": False, "reconstruct": True, "reconstruct_tokens": 320}
    straight.write_settings(replace(straight.settings, **more))
    steps.run("recover", straight)
    for tokens in (32, 320):
        experiment.write_settings(replace(experiment.settings, **(more | {"reconstruct_tokens": tokens})))
        steps.run("recover", experiment)
    first, second = (each.path("model", "model.safetensors").read_bytes() for each in (straight, experiment))
    assert first == second
    repaired = json.loads(experiment.path(REPAIR_FILE).read_text())
    assert repaired["matrices"] == json.loads(straight.path(REPAIR_FILE).read_text())["matrices"]
    steps.run("recover", experiment)  # the same again: nothing is left to do
    assert json.loads(experiment.path(REPAIR_FILE).read_text()) == repaired


@pytest.mark.usefixtures("unchecked")
def test_a_stopped_training_is_given_up_only_when_that_is_said(experiment, monkeypatch, tmp_path, text):
    learned = tmp_path / "learned.txt"
    learned.write_text(text.read_text())
    experiment.write_settings(replace(experiment.settings, finetune_corpus=str(learned)))
    with monkeypatch.context() as patch:
        at_step(patch, 5, is_killed)
        with pytest.raises(KeyboardInterrupt):
            steps.run("recover", experiment)
    kept = experiment.path(RECOVERY_FOLDER, RECOVERY_FILE).read_bytes()
    settings = experiment.settings
    ask_by_settings(experiment, "recover", replace(settings, finetune_lr=1e-3, lora_r=2))
    with pytest.raises(PruningError, match="this one differs in finetune_lr, lora_r"):
        steps.run("recover", experiment)
    learned.write_text("other text\n" * 2000)
    with pytest.raises(PruningError, match="this one differs in the training text"):
        steps.run("recover", experiment, resume=True)
    assert experiment.path(RECOVERY_FOLDER, RECOVERY_FILE).read_bytes() == kept and experiment.settings == settings
    ask_by_settings(experiment, "recover", replace(settings, lora_r=2, overwrite=True))
    steps.run("recover", experiment)
    assert recovery_of(experiment)["settings"]["lora_r"] == 2 and not experiment.settings.overwrite


# stopped --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_cancelled_it_saves_the_best_so_far_and_begins_anew_with_other_settings(experiment, monkeypatch):
    at_step(monkeypatch, 5, request_cancel)
    with pytest.raises(Cancelled):
        steps.run("recover", experiment)
    assert read_status(experiment).state == "cancelled" and not experiment.has(CANCEL_FILE)
    recovery = recovery_of(experiment)
    assert recovery["state"] == "cancelled" and len(recovery["points"]) == 6
    assert experiment.is_saved and experiment.metrics()["recovery"]["best_step"] == recovery["best_step"] > 0
    assert "recovered" in experiment.metrics()["perplexity"]
    # With other settings it begins anew.
    experiment.write_settings(replace(experiment.settings, finetune_lr=1e-3, finetune_steps=4))
    steps.run("recover", experiment)
    assert recovery_of(experiment)["points"][1]["tokens_per_second"] != recovery["points"][1]["tokens_per_second"]


@pytest.mark.usefixtures("unchecked")
def test_a_cancel_is_heard_during_an_evaluation(experiment, monkeypatch):
    measured = train.perplexity

    def cancel_the_third(model, windows, batch_size, on_progress):
        if unfinished(experiment)["points"][-1]["step"] == 2:
            request_cancel(experiment)
        return measured(model, windows, batch_size, on_progress)

    at_step(monkeypatch, 2, lambda _: monkeypatch.setattr(train, "perplexity", cancel_the_third))
    with pytest.raises(Cancelled):
        steps.run("recover", experiment)
    assert recovery_of(experiment)["state"] == "cancelled" and experiment.is_saved
    assert [p["step"] for p in recovery_of(experiment)["points"]] == [0, 1, 2, 3]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("resume", [False, True])
def test_killed_it_goes_on_from_the_last_checkpoint_and_keeps_what_was_measured_of_the_unpruned_model(
    experiment, monkeypatch, resume
):
    metrics = experiment.metrics()
    metrics["perplexity"].pop("before")
    write_json(experiment.path("metrics.json"), metrics)
    with monkeypatch.context() as patch:
        at_step(patch, 5, is_killed)
        with pytest.raises(KeyboardInterrupt):
            steps.run("recover", experiment)
    assert unfinished(experiment)["state"] == "stopped"  # "cancelled" says that the best was saved
    before = unfinished(experiment)["points"][:5]
    steps.run("recover", experiment, resume=resume)
    assert experiment.metrics()["perplexity"].keys() == {"before", "after", "recovered"}
    assert json.loads(experiment.path("samples.json").read_text()).keys() >= {"before", "after", "recovered"}
    recovery = recovery_of(experiment)
    assert recovery["state"] == "done"
    assert recovery["points"][:5] == before  # steps 0 to 4 were not done again
    assert [p["step"] for p in recovery["points"]] == list(range(9))


def test_a_training_that_diverges_leaves_the_cut_model_as_it_is(experiment):
    base = logits(loaded(experiment.model_folder).model)
    experiment.write_settings(replace(experiment.settings, finetune_method="full", finetune_lr=10, finetune_warmup=0))
    with pytest.raises(PruningError, match="finetune_lr"):
        steps.run("recover", experiment)
    assert unfinished(experiment)["state"] == "failed" and not experiment.has(RECOVERY_FILE)
    assert experiment.is_saved and "recovered" not in experiment.metrics()["perplexity"]
    torch.testing.assert_close(logits(loaded(experiment.model_folder).model), base)


@pytest.mark.parametrize("asked", [{"finetune": True}, {"finetune": False, "reconstruct": True, "reconstruct_tokens": 200}])
def test_a_check_that_fails_leaves_the_cut_model_and_nothing_is_said_of_the_other(experiment, monkeypatch, asked):
    base = logits(loaded(experiment.model_folder).model)
    experiment.write_settings(replace(experiment.settings, **asked))
    monkeypatch.setattr(results, "check_reload", fails)
    with pytest.raises(PruningError, match="logits"):
        steps.run("recover", experiment)
    metrics = experiment.metrics()
    assert not {"repair", "recovery"} & metrics.keys() and metrics["perplexity"].keys() == {"before", "after"}
    assert not {"repaired", "recovered"} & json.loads(experiment.path("samples.json").read_text()).keys()
    torch.testing.assert_close(logits(loaded(experiment.model_folder).model), base)
    assert experiment.is_saved


def test_without_a_saved_cut_there_is_nothing_to_recover(tmp_path, model_folder, text):
    experiment = new_experiment(tmp_path, "none", quick_settings(model_folder, text, finetune=True))
    with pytest.raises(PruningError, match="a cut with a saved model"):
        steps.run("recover", experiment)


def test_neither_repair_nor_training_is_nothing_to_do(experiment):
    experiment.write_settings(replace(experiment.settings, finetune=False))
    with pytest.raises(PruningError, match="There is nothing to do"):
        steps.run("recover", experiment)


@pytest.mark.usefixtures("unchecked")
def test_repair_alone_puts_the_repaired_model_in_the_place_of_the_cut_one(experiment):
    base, plan = logits(loaded(experiment.model_folder).model), experiment.read_plan()
    asked = {"finetune": False, "reconstruct": True, "reconstruct_tokens": 200}
    experiment.write_settings(replace(experiment.settings, **asked))
    steps.run("recover", experiment)
    repaired = loaded(experiment.model_folder)
    assert not torch.allclose(logits(repaired.model), base, atol=1e-4)
    torch.testing.assert_close(logits(loaded(experiment.path(CUT_MODEL_FOLDER)).model), logits(repaired.model))
    assert experiment.metrics()["perplexity"].keys() == {"before", "after", "repaired"}
    assert "least squares" in (experiment.model_folder / "README.md").read_text()
    source = load(open_checkpoint(experiment.settings.base_model), resolve({})).model
    again = cut(source, plan)
    samples = draw_samples(load_corpus(experiment.settings.corpus, CALIBRATION), repaired.tokenizer, 13, 16, 0)
    repair(source, again, plan, samples)
    torch.testing.assert_close(logits(again), logits(repaired.model), atol=1e-4, rtol=0)
    experiment.write_settings(replace(experiment.settings, finetune=True))
    steps.run("recover", experiment)  # is not repaired twice, and begins with the repaired model
    assert recovery_of(experiment)["lines"]["after"] == recovery_of(experiment)["points"][0]["perplexity"]
    torch.testing.assert_close(logits(loaded(experiment.path(CUT_MODEL_FOLDER)).model), logits(repaired.model))


def test_a_cancel_during_the_repair_leaves_the_cut_model(experiment, monkeypatch):
    base = logits(loaded(experiment.model_folder).model)
    experiment.write_settings(replace(experiment.settings, reconstruct=True, reconstruct_tokens=200))
    at_step(monkeypatch, 2, request_cancel, unit="layers")
    with pytest.raises(Cancelled):
        steps.run("recover", experiment)
    assert not experiment.has(REPAIR_FILE) and not experiment.has(RECOVERY_FILE) and experiment.is_saved
    torch.testing.assert_close(logits(loaded(experiment.model_folder).model), base)


def test_memory_that_runs_out_leaves_the_cut_model_and_gives_advice(experiment, monkeypatch):
    def out_of_memory(*_, **__) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    base = logits(loaded(experiment.model_folder).model)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", out_of_memory)  # where the hardware would say so
        with pytest.raises(PruningError, match="gradient_checkpointing"):
            steps.run("recover", experiment)
    assert read_status(experiment).error["code"] == "training_memory" and unfinished(experiment)["state"] == "failed"
    assert experiment.is_saved and "recovered" not in experiment.metrics()["perplexity"]
    torch.testing.assert_close(logits(loaded(experiment.model_folder).model), base)


def test_the_cost_is_measured_and_nothing_else_changes(experiment):
    before = files_of(experiment)
    experiment.write_settings(replace(experiment.settings, finetune_steps=0, distill_weight=0.5))
    steps.run("cost", experiment)
    cost = json.loads(experiment.path(COST_FILE).read_text())
    assert files_of(experiment) <= before | {COST_FILE, "job.json"}
    model = loaded(experiment.model_folder).model
    assert cost["parameters"] == model.num_parameters()
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=list(LORA_TARGETS)))
    assert cost["trained_parameters"] == adapted.get_nb_trainable_parameters()[0]
    assert (cost["steps"], cost["tokens"]) == (5, 5 * 4 * 16)
    assert cost["memory_bytes"] == sum(cost[f"{part}_bytes"] for part in ("weight", "training", "activation", "teacher"))
    assert cost["seconds"] == pytest.approx(5 * cost["seconds_per_step"] + 4 * cost["seconds_per_evaluation"])


def test_a_measurement_is_of_what_it_was_asked_for_by_and_leaves_the_settings_of_the_run(experiment):
    before = experiment.path("description.txt").read_text()
    ask_by_settings(experiment, "cost", replace(experiment.settings, finetune_steps=0, finetune_samples=8))
    steps.run("cost", experiment)
    cost = json.loads(experiment.path(COST_FILE).read_text())
    assert (cost["windows"], cost["steps"]) == (8, 2) and cost["settings"]["finetune_samples"] == 8
    assert cost["device"] == "cpu" and cost["free_bytes"] > 2**20 and cost["repair_seconds"] is None
    assert experiment.path("description.txt").read_text() == before


def test_the_time_of_a_repair_alone_is_measured_too(experiment):
    ask_by_settings(experiment, "cost", replace(experiment.settings, finetune=False, reconstruct=True, reconstruct_tokens=2000))
    before = files_of(experiment)
    steps.run("cost", experiment)
    cost = json.loads(experiment.path(COST_FILE).read_text())
    assert cost["repair_seconds"] > 0 and "steps" not in cost
    assert {name for name in files_of(experiment) - before if not name.startswith("<time>")} <= {COST_FILE, "job.json"}


def test_the_state_is_chosen_on_other_windows_than_those_reported(trained_experiment, text):
    experiment = trained_experiment
    recovery, tokenizer = recovery_of(experiment), loaded(experiment.model_folder).tokenizer
    reported = HeldOutText.load(tokenizer, str(text), 16, 6)
    validation = windows_left_out(reported.corpus, tokenizer, 16, 6, 128)
    digest = hashlib.sha256(validation.numpy().tobytes()).hexdigest()
    basis = {"text": "values.txt", "windows": len(validation), "seq_len": 16, "sha256": digest}
    assert recovery["validation"] == basis
    assert not set(map(tuple, validation.tolist())) & set(map(tuple, reported.windows.tolist()))
    of_cut = perplexity(loaded(experiment.path(CUT_MODEL_FOLDER)).model, validation)
    of_source = perplexity(load(open_checkpoint(experiment.settings.base_model), resolve({})).model, validation)
    assert recovery["lines"] == pytest.approx({"before": of_source, "after": of_cut}, rel=1e-5)


def test_the_adapter_does_not_tell_where_the_model_lies(trained_experiment, tmp_path_factory):
    adapter = trained_experiment.path(ADAPTER_FOLDER)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == CUT_MODEL_FOLDER
    files = {file.name: file.read_bytes() for file in adapter.iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    home = str(tmp_path_factory.getbasetemp()).encode()
    assert not [name for name, content in files.items() if home in content]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("is_shared", [True, False])
def test_text_that_is_learned_and_judged_by_is_said_to_be(experiment, text, tmp_path, is_shared):
    learned = text if is_shared else shutil.copy(text, tmp_path / "other.txt")
    experiment.write_settings(replace(experiment.settings, finetune_corpus=str(learned), finetune_steps=1))
    steps.run("recover", experiment)
    logs = "".join(log.read_text() for log in experiment.folder.glob("*/training.log"))
    assert ("is the text to learn from and also `eval_corpus`" in logs) == is_shared
    assert bool(experiment.metrics()["warning"]["recovered"]) == is_shared


def test_where_all_windows_are_reported_some_of_the_training_text_are_set_aside(experiment):
    model = loaded(experiment.model_folder)
    settings = replace(experiment.settings, eval_windows=0)
    whole = training_data(experiment.settings, model, load_held_out(experiment.settings, model)).text
    data = training_data(settings, model, load_held_out(settings, model))
    assert (len(data.text), len(data.validation)) == (18, 2) and "set aside" in data.validation_key
    torch.testing.assert_close(torch.cat([data.text.input_ids, data.validation]), whole.input_ids)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("save", [False, True])
def test_one_run_cuts_repairs_and_trains(tmp_path, model_folder, text, save):
    asked = CUT | QUICK | {"finetune": True, "reconstruct": True, "reconstruct_tokens": 200, "save_model": save}
    experiment = new_experiment(tmp_path, "all", quick_settings(model_folder, text, **asked))
    steps.run("global", experiment)
    assert experiment.metrics()["perplexity"].keys() == {"before", "after", "repaired", "recovered"}
    assert experiment.is_cut and experiment.is_saved == save
    assert experiment.has(CUT_MODEL_FOLDER) == save and experiment.has(ADAPTER_FOLDER)
    samples = json.loads(experiment.path("samples.json").read_text())
    assert samples.keys() >= {"before", "after", "repaired", "recovered"}


def test_a_broken_line_is_said_before_the_cut(tmp_path, model_folder, text):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    asked = CUT | QUICK | {"finetune": True, "finetune_corpus": str(broken)}
    experiment = new_experiment(tmp_path, "broken", quick_settings(model_folder, text, **asked))
    with pytest.raises(PruningError, match="line 2"):
        steps.run("global", experiment)
    assert not experiment.is_cut


# in a worker ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def queue():
    queue = JobQueue(clumsy_worker, cancel_patience=2.0)  # less than it takes to check a saved model
    yield queue
    queue.shutdown()


def test_a_worker_that_has_heard_the_cancel_is_given_the_time_to_save(queue, experiment):
    experiment.write_settings(replace(experiment.settings, finetune_steps=10**5, finetune_eval_steps=20))
    queue.submit("recover", experiment)
    wait_until(lambda: experiment.has(RECOVERY_FOLDER, RECOVERY_FILE) and len(unfinished(experiment)["points"]) > 20)
    queue.cancel(experiment)
    assert wait_for_end(experiment).state == "cancelled"
    assert experiment.is_saved and "recovered" in experiment.metrics()["perplexity"]
    assert experiment.metrics()["recovery"]["best_step"] > 0


def test_a_worker_that_is_killed_leaves_the_cut_model_and_what_it_takes_to_go_on(queue, experiment):
    base = logits(loaded(experiment.model_folder).model)
    for place in ("say step 4 of 8", "say loading it again"):
        plan_fault(experiment, place, "kill")
        queue.submit("recover", experiment)
        assert wait_for_end(experiment).error["code"] == "worker_died"
        assert experiment.is_saved
        torch.testing.assert_close(logits(loaded(experiment.model_folder).model), base)
    queue.submit("recover", experiment)
    assert wait_for_end(experiment).state == "done"
    assert recovery_of(experiment)["state"] == "done" and "recovered" in experiment.metrics()["perplexity"]
    assert not torch.allclose(logits(loaded(experiment.model_folder).model), base, atol=1e-3)


def test_a_worker_that_is_killed_while_it_repairs_leaves_nothing_half(queue, tmp_path, model_folder, text):
    asked = CUT | {"reconstruct": True, "reconstruct_tokens": 200, "save_model": False}
    experiment = new_experiment(tmp_path, "repair", quick_settings(model_folder, text, **asked))
    for place in ("progress recovery", "say layer"):
        plan_fault(experiment, place, "kill")
        queue.submit("global", experiment)
        assert wait_for_end(experiment).error["code"] == "worker_died"
        assert not experiment.is_cut and not experiment.has(REPAIR_FILE)
    queue.submit("global", experiment)
    assert wait_for_end(experiment).state == "done" and experiment.has(REPAIR_FILE)
