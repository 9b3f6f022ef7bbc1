"""`recover` and `--finetune` on the command line: what they do, what they cost, when they go on, what they refuse."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pruning.__main__ import main
from pruning.experiment import ADAPTER_FOLDER, CUT_MODEL_FOLDER, REPAIR_FILE, Experiment
from pruning.model.checkpoint import load, open_checkpoint
from pruning.runs import results
from pruning.runs.progress import Progress
from pruning.settings import resolve
from tests.processes import in_a_process_of_its_own, in_two_processes
from tests.runs.quick_runs import files_of, plan_fault, quick_flags
from tests.tiny_models import random_ids

QUICK = ("--finetune_samples=20", "--finetune_batch_size=4", "--finetune_steps=4", "--finetune_eval_steps=2")
QUICK += ("--finetune_lr=3e-3",)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Spares the fresh process that loads a saved model: tests of the step itself hold it."""
    monkeypatch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})


def cut_arguments(source, root: Path, *more: str) -> list[str]:
    changes = {"layer_importance_samples": 0, "pruning_ratio": 0.04, "protected_layers": "none", "reconstruct_tokens": 200}
    return ["global", *quick_flags(*source, root, **changes), "--save_model", *more]


@pytest.fixture(scope="module")
def cut_run(source, tmp_path_factory) -> Experiment:
    root = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})
        assert main(cut_arguments(source, root)) == 0
    return Experiment.open(root, "run")


@pytest.fixture
def experiment(cut_run, tmp_path) -> Experiment:
    return Experiment(Path(shutil.copytree(cut_run.folder, tmp_path / "run")))


def recover(experiment: Experiment, *more: str) -> int:
    return main(["recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run", *more])


def recovery_of(experiment: Experiment) -> dict:
    return json.loads(experiment.path("recovery.json").read_text())


def unfinished(experiment: Experiment) -> dict:
    return json.loads(experiment.path("recovery", "recovery.json").read_text())


@torch.no_grad()
def logits(experiment: Experiment) -> torch.Tensor:
    return load(open_checkpoint(str(experiment.model_folder)), resolve({})).model(random_ids(2, 12)).logits


@pytest.mark.parametrize(
    ("more", "stages"),
    [
        (("--finetune_method=lora",), {"recovered"}),
        (("--finetune_method=full", "--finetune_lr=1e-3"), {"recovered"}),
        (("--distill_weight=0.5",), {"recovered"}),
        (("--reconstruct", "--no-finetune"), {"repaired"}),
        (("--reconstruct",), {"repaired", "recovered"}),
    ],
    ids=["lora", "full", "distilled", "repair alone", "repair and lora"],
)
def test_each_way_of_recovery_of_a_saved_cut(experiment, capsys, more, stages):
    before = logits(experiment)
    assert recover(experiment, *QUICK, *more) == 0
    assert experiment.metrics()["perplexity"].keys() == {"before", "after"} | stages
    assert all(f"perplexity {stage}" in capsys.readouterr().out for stage in list(stages)[:1])
    assert experiment.has(REPAIR_FILE) == ("repaired" in stages)
    assert experiment.has(ADAPTER_FOLDER) == ("recovered" in stages and "--finetune_method=full" not in more)
    assert not torch.allclose(logits(experiment), before, atol=1e-4)


@pytest.mark.parametrize("strategy", ["global", "layer", "uniform"])
def test_each_strategy_cuts_repairs_and_trains_in_one_run(source, tmp_path, strategy):
    asked = ("--reconstruct", "--finetune", "--iterative_steps=2", *QUICK)
    arguments = [flag for flag in cut_arguments(source, tmp_path, *asked) if "--protected_layers" not in flag]
    more = () if strategy == "uniform" else ("--protected_layers=none",)
    more += ("--layer_importance_samples=2", "--layer_min_pruning_rate=0", "--match_target") if strategy == "layer" else ()
    more += ("--pruning_ratio=0.06",) if strategy == "uniform" else ()
    assert main([strategy, *arguments[1:], *more]) == 0
    experiment = Experiment.open(tmp_path, "run")
    assert experiment.metrics()["perplexity"].keys() == {"before", "after", "repaired", "recovered"}
    assert experiment.read_plan().settings["iterative_steps"] == 2 and experiment.is_recovered
    adapter = json.loads(experiment.path(ADAPTER_FOLDER, "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == CUT_MODEL_FOLDER


def test_flags_not_given_are_at_their_defaults_whatever_an_earlier_training_had(experiment):
    assert recover(experiment, *QUICK, "--lora_r=2") == 0
    assert recover(experiment, *QUICK) == 0
    assert recovery_of(experiment)["settings"]["lora_r"] == 8


def test_a_dry_run_says_what_the_training_takes_and_changes_nothing(experiment, capsys):
    before = files_of(experiment)
    assert recover(experiment, "--finetune_samples=20", "--finetune_batch_size=4", "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "5, 320 tokens" in shown and "MiB: weight" in shown and "timed" in shown
    assert files_of(experiment) == before


def test_a_dry_run_of_a_repair_alone_shows_no_cost_of_a_training(experiment, capsys):
    assert recover(experiment, "--reconstruct", "--reconstruct_tokens=300", "--no-finetune", "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "the repair reads 300 tokens: about" in shown and "no training is asked for" in shown and "steps" not in shown


def test_a_dry_run_in_several_processes_is_refused(experiment, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert recover(experiment, "--dry_run") == 2
    assert "without a launcher" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["step recovery", "say step 0 of 4", "say step 2 of 4", "say perplexity recovered"])
def test_a_run_that_is_killed_goes_on_with_resume(source, tmp_path, place):
    asked = ("--reconstruct", "--finetune", *QUICK)
    plan_fault(Experiment.at(tmp_path, "run"), place, "kill")
    assert in_a_process_of_its_own(*cut_arguments(source, tmp_path, *asked)) == -signal.SIGKILL
    assert in_a_process_of_its_own(*cut_arguments(source, tmp_path, *asked), "--resume") == 0
    experiment = Experiment.open(tmp_path, "run")
    assert experiment.is_recovered and experiment.is_saved
    assert [point["step"] for point in recovery_of(experiment)["points"]] == [0, 1, 2, 3, 4]
    assert experiment.metrics()["perplexity"].keys() == {"before", "after", "repaired", "recovered"}


def test_recover_resumes_with_the_settings_it_was_stopped_with(experiment, capsys):
    plan_fault(experiment, "say step 2 of 4", "kill")
    where = ("recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run")
    assert in_a_process_of_its_own(*where, *QUICK) == -signal.SIGKILL
    before = unfinished(experiment)["points"][:1]
    assert recover(experiment, "--resume", "--lora_r=4") == 2
    assert "its `lora_r` was 8, now it is 4" in capsys.readouterr().err
    assert recover(experiment, "--resume") == 0
    assert recovery_of(experiment)["points"][:1] == before and recovery_of(experiment)["state"] == "done"


def test_a_recovery_that_came_to_its_end_is_not_begun_again(experiment, capsys):
    assert recover(experiment, *QUICK) == 0
    before, trained = logits(experiment), experiment.path("recovery.json").read_bytes()
    capsys.readouterr()
    assert recover(experiment, "--resume") == 0
    shown = capsys.readouterr().out
    assert "nothing is left to do" in shown and "step 2 of 4" not in shown
    assert experiment.path("recovery.json").read_bytes() == trained
    torch.testing.assert_close(logits(experiment), before, atol=0, rtol=0)


def test_killed_after_its_last_step_it_goes_on_with_what_is_left_and_trains_nothing(experiment, capsys):
    plan_fault(experiment, "say perplexity recovered", "kill")
    where = ("recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run")
    assert in_a_process_of_its_own(*where, *QUICK) == -signal.SIGKILL
    points = unfinished(experiment)["points"]
    assert recover(experiment, "--resume") == 0
    shown = capsys.readouterr().out
    assert "    step 4 of 4" not in shown and "perplexity recovered" in shown
    assert recovery_of(experiment)["points"] == points and experiment.is_recovered and experiment.is_saved


def test_a_second_training_that_was_killed_before_it_began_is_begun_with_resume(experiment):
    assert recover(experiment, *QUICK) == 0
    plan_fault(experiment, "step load", "kill")
    where = ("recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run")
    assert in_a_process_of_its_own(*where, *QUICK, "--lora_r=2") == -signal.SIGKILL
    assert recovery_of(experiment)["settings"]["lora_r"] == 8
    assert recover(experiment, "--resume") == 0
    assert recovery_of(experiment)["settings"]["lora_r"] == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--no-finetune"], "There is nothing to do"),
        (["--lora_targets=q_proj,query"], "`lora_targets` names 'query'; it may name: q_proj, k_proj,"),
        (["--lora_targets= , "], "the cut model has none of these left"),
        (["--reconstruct", "--corpus=gone.txt"], "gone.txt is not there"),
        (["--pruning_ratio=0.2"], "--pruning_ratio is no flag of `recover`"),
        (["--finetune_corpus=gone.jsonl"], "gone.jsonl is not there"),
        (["--finetune_lr=-1"], "`finetune_lr` is -1; it must be a number above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(experiment, capsys, flags, sentence):
    before = logits(experiment)
    assert recover(experiment, *QUICK, *flags) == 2
    assert sentence in capsys.readouterr().err
    torch.testing.assert_close(logits(experiment), before)


@pytest.mark.parametrize(
    ("refused", "base_model"),
    [
        (["--lora_targets=,"], None),
        (["--finetune_corpus=gone.jsonl"], None),
        (["--reconstruct", "--corpus=gone.txt"], None),
        (["--finetune_seq_len=4000"], None),
        (["--distill_weight=0.5"], "./gone"),
        (["--reconstruct"], "./gone"),
    ],
)
def test_what_is_refused_leaves_a_stopped_training_to_go_on_with(experiment, refused, base_model):
    experiment.write_settings(replace(experiment.settings, **{"base_model": base_model} if base_model else {}))
    where = ("recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run")
    plan_fault(experiment, "say step 2 of 4", "kill")
    assert in_a_process_of_its_own(*where, *QUICK) == -signal.SIGKILL
    experiment.remove_leftovers()
    before, settings = files_of(experiment), experiment.settings
    assert recover(experiment, *QUICK, "--lora_r=2", *refused) == 2
    assert files_of(experiment) == before and experiment.settings == settings
    assert recover(experiment, "--resume") == 0
    assert recovery_of(experiment)["settings"]["lora_r"] == 8
    assert [point["step"] for point in recovery_of(experiment)["points"]] == [0, 1, 2, 3, 4]


def test_a_stopped_training_says_by_which_line_it_goes_on(experiment, capsys, monkeypatch):
    def stop(report, done: int, total: int) -> None:
        if report.status.unit == "steps" and done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", stop)
        assert recover(experiment, *QUICK) == 130
    best, line, last = capsys.readouterr().err.strip().splitlines()[-3:]
    assert best == f"The best state of the training so far is kept in {experiment.path('recovery')}." and last == "Stopped."
    prefix = "Continue with: python -m pruning "
    assert line.startswith(prefix) and main(line.removeprefix(prefix).split()) == 0
    assert experiment.is_recovered


def test_what_was_not_cut_cannot_be_recovered(source, tmp_path, capsys):
    assert main(["importance", *cut_arguments(source, tmp_path)[1:8]]) == 0
    assert recover(Experiment.open(tmp_path, "run")) == 2
    assert "recovery needs a cut with a saved model first" in capsys.readouterr().err


def test_help_shows_the_group_and_the_defaults_of_a_recovery(capsys):
    with pytest.raises(SystemExit):
        main(["recover", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert " recovery: --reconstruct" in shown and "Train the cut model to win quality back. Default: True" in shown
    assert "--pruning_ratio" not in shown


# several processes ----------------------------------------------------------------------------------------------------


def launched(rank: int, port: int, *args: str) -> None:
    """What `accelerate launch` starts."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)  # a process that was started anew has none
    raise SystemExit(main(list(args)))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_train_as_one_with_the_same_global_batch(experiment, tmp_path, method):
    alone = Experiment(Path(shutil.copytree(experiment.folder, tmp_path / "alone" / "run")))
    shared = (*QUICK, f"--finetune_method={method}", "--distill_weight=0.3", "--reconstruct")
    assert recover(alone, *shared, "--finetune_batch_size=4") == 0
    where = ("recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run")
    assert in_two_processes(launched, *where, *shared, "--finetune_batch_size=2") == [0, 0]
    torch.testing.assert_close(logits(experiment), logits(alone), atol=1e-4, rtol=0)
    for figure in ("step", "loss", "learning_rate", "perplexity"):
        ours, theirs = ([p[figure] or 0 for p in recovery_of(e)["points"]] for e in (experiment, alone))
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert len(list(experiment.folder.glob("*/training.log"))) == len(list(alone.folder.glob("*/training.log"))) == 2


def test_where_the_first_process_fails_the_other_goes_home(experiment):
    where = ("recover", f"--output_root={experiment.folder.parent}", "--experiment_name=run")
    assert in_two_processes(launched, *where, *QUICK, "--finetune_corpus=gone.jsonl") == [2, 0]
