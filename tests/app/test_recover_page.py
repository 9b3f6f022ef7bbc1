"""The Recover page: what it offers for a cut, what it asks of the worker, and what it shows of a recovery under way, done,
cancelled or failed.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pruning.errors import PruningError
from pruning.experiment import RECOVERY_FILE, RECOVERY_FOLDER, REPAIR_FILE, Experiment
from pruning.files import read_json, write_json
from pruning.planning.recovery_cost import recovery_cost
from pruning.runs import results, steps
from pruning.runs.jobs import JobQueue
from pruning.runs.requests import Request, settings_asked_for, write_request
from pruning.runs.status import CANCELLED, RUNNING, JobStatus, read_status, this_process, write_status
from tests.requests import ask_by_settings
from ui.translation import t

from .conftest import figures, on_page

QUICK = {"reconstruct_tokens": 256, "finetune_steps": 4, "finetune_eval_steps": 2, "finetune_samples": 16}
QUICK |= {"finetune_batch_size": 4, "finetune_lr": 1e-3, "reconstruct": True, "finetune": True}


@pytest.fixture(scope="session")
def recovered_root(cut_root, tmp_path_factory) -> Path:
    """A folder with the experiment `first`, cut, repaired and trained for four steps."""
    root = tmp_path_factory.mktemp("recovered") / "experiments"
    shutil.copytree(cut_root, root)
    experiment = Experiment.open(root, "first")
    experiment.write_settings(replace(experiment.settings, **QUICK))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})
        steps.run("recover", experiment)
    return root


@pytest.fixture
def cut_experiment(cut_root, tmp_path) -> Experiment:
    shutil.copytree(cut_root, tmp_path / "experiments")
    return Experiment.open(tmp_path / "experiments", "first")


@pytest.fixture
def recovered(recovered_root, tmp_path) -> Experiment:
    shutil.copytree(recovered_root, tmp_path / "experiments")
    return Experiment.open(tmp_path / "experiments", "first")


@pytest.fixture
def submitted(monkeypatch) -> list:
    """What the page hands to the worker, which is not started."""
    asked = []

    def submit(queue, kind, experiment, permissions, arguments):
        write_request(experiment, Request(kind, arguments))
        asked.append((kind, experiment.name))

    monkeypatch.setattr(JobQueue, "submit", submit)
    return asked


@pytest.fixture
def page_of(app_of):
    def make(experiment: Experiment) -> AppTest:
        at = on_page(app_of(experiment.folder.parent), "recover")
        assert not at.exception
        return at

    return make


def write_unfinished(experiment: Experiment, content: dict) -> None:
    """A training that runs, or was stopped."""
    experiment.path(RECOVERY_FOLDER).mkdir()
    write_json(experiment.path(RECOVERY_FOLDER, RECOVERY_FILE), content)


def metric(at: AppTest, key: str) -> str:
    return next(m.value for m in at.metric if m.label == t(key))


def costs(at: AppTest):
    return next(table.value for table in at.dataframe if "trained" in table.value).set_index("way")


def captions(at: AppTest) -> list[str]:
    return [caption.value for caption in at.caption]


@pytest.mark.parametrize("root", ["empty", "measured"])
def test_without_a_saved_cut_a_link_leads_to_prune(app, app_with_table, root):
    at = on_page(app if root == "empty" else app_with_table, "recover")
    assert [link.value for link in at.page_link] == [t("prune.title")] and not at.exception


# before ---------------------------------------------------------------------------------------------------------------


def test_a_cut_opens_with_what_suits_its_size(page_of, cut_experiment):
    at = page_of(cut_experiment)
    assert at.segmented_control(key="recover_training").value == "lora" and at.toggle(key="recover_repair").value
    assert at.number_input(key="finetune_samples").value == 500 and at.number_input(key="lora_r").value == 8
    assert any("10.0" in text or "9.9" in text for text in captions(at) if t("recover.recipe.light") in text)
    assert not at.button(key="recover_start").disabled


def test_every_way_says_what_it_costs_before_it_is_started(page_of, cut_experiment):
    at = page_of(cut_experiment)
    at.number_input(key="lora_r").set_value(4).run()
    plan, shown = cut_experiment.read_plan(), costs(at)
    settings = replace(cut_experiment.settings, finetune_samples=500, lora_r=4)
    for way in ("lora", "full"):
        cost = recovery_cost(plan.shape_after, plan.shape, replace(settings, finetune_method=way), 500)
        row = shown.loc[t(f"cost.way.{way}")]
        assert row["trained"] == f"{cost.trained_parameters:,}" and row["tokens"] == f"at most {cost.tokens:,}"
        assert row["steps"] == f"at most {cost.steps:,}" and row["time"] == t("cost.unmeasured")
    assert shown.loc[t("cost.way.repair"), "tokens"] == "at most 65,536" and set(shown["fits"]) == {"yes"}


def test_what_is_not_known_of_a_gpu_and_of_instructions_is_said_so(page_of, cut_experiment, tmp_path):
    (tmp_path / "set.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    asked = {"device": "cuda", "finetune": True, "finetune_corpus": str(tmp_path / "set.jsonl")}
    cut_experiment.write_settings(replace(cut_experiment.settings, **asked))
    at = page_of(cut_experiment)
    assert set(costs(at)["fits"]) == {t("cost.unknown")} and any(t("cost.present.unknown") in text for text in captions(at))
    assert costs(at).loc[t("cost.way.lora"), ["steps", "tokens"]].tolist() == [t("cost.unknown")] * 2
    found = {
        "settings": cut_experiment.settings.as_dict(),
        "seconds_per_step": 2.0,
        "seconds_per_evaluation": 4.0,
        "windows": 16,
    }
    found |= {"device": "cuda", "free_bytes": 2**40, "repair_seconds": 61.0}
    write_json(cut_experiment.path("recovery_cost.json"), {"format_version": 1} | found)
    at.run()
    assert set(costs(at)["fits"]) == {"yes"} and costs(at).loc[t("cost.way.lora"), "steps"] == "2"


def test_a_measured_time_is_shown_for_what_was_measured(page_of, cut_experiment, submitted):
    at = page_of(cut_experiment)
    of_the_run = cut_experiment.path("description.txt").read_text()
    at.button(key="measure_cost").click().run()
    assert submitted == [("cost", "first")]
    assert settings_asked_for(cut_experiment, "cost")["finetune_samples"] == 500
    ask_by_settings(
        cut_experiment,
        "cost",
        replace(cut_experiment.settings, **(settings_asked_for(cut_experiment, "cost") | {"finetune_samples": 77})),
    )
    assert page_of(cut_experiment).number_input(key="finetune_samples").value == 77  # a page that is opened anew shows that
    assert cut_experiment.path("description.txt").read_text() == of_the_run  # which a run that was stopped goes on by
    measured = {"settings": cut_experiment.settings.as_dict(), "seconds_per_step": 2.0, "seconds_per_evaluation": 4.0}
    write_json(cut_experiment.path("recovery_cost.json"), {"format_version": 1} | measured)
    at.number_input(key="finetune_steps").set_value(60).run()
    assert costs(at).loc[t("cost.way.lora"), "time"] == "2 min 20 s"  # 60 steps, 5 evaluations
    assert costs(at).loc[t("cost.way.full"), "time"] == t("cost.unmeasured")
    at.number_input(key="finetune_batch_size").set_value(2).run()
    assert costs(at).loc[t("cost.way.lora"), "time"] == t("cost.unmeasured")


def test_start_writes_what_the_form_says(page_of, cut_experiment, submitted):
    at = page_of(cut_experiment)
    at.toggle(key="recover_repair").set_value(False)
    at.number_input(key="finetune_lr").set_value(0.002)
    at.number_input(key="finetune_steps").set_value(20)
    at.selectbox(key="finetune_corpus_kind").set_value("wikitext2")
    at.slider(key="distill_weight").set_value(0.5).run()
    at.button(key="recover_start").click().run()
    assert not at.exception and not at.error and submitted == [("recover", "first")]
    wanted = {"reconstruct": False, "finetune": True, "finetune_method": "lora", "finetune_lr": 0.002, "finetune_steps": 20}
    wanted |= {"finetune_corpus": "wikitext2", "distill_weight": 0.5, "finetune_samples": 500, "pruning_ratio": 0.1}
    assert {name: settings_asked_for(cut_experiment, "recover")[name] for name in wanted} == wanted


def test_a_recipe_fills_the_form(page_of, cut_experiment, submitted):
    at = page_of(cut_experiment)
    at.button(key="recipe_strong").click().run()
    assert at.segmented_control(key="recover_training").value == "full"
    at.button(key="recover_start").click().run()
    settings = settings_asked_for(cut_experiment, "recover")
    assert (settings["finetune_method"], settings["finetune_samples"], settings["finetune_lr"]) == ("full", 2000, None)


def test_with_nothing_chosen_nothing_starts(page_of, cut_experiment):
    at = page_of(cut_experiment)
    at.toggle(key="recover_repair").set_value(False)
    at.segmented_control(key="recover_training").set_value("none").run()
    assert at.button(key="recover_start").disabled and t("recover.nothing") in captions(at)


@pytest.mark.parametrize(
    ("name", "words"), [("/nowhere/text.docx", "There is no corpus"), ("/nowhere/text.jsonl", "is not there")]
)
def test_a_text_that_is_not_there_is_said_and_starts_nothing(page_of, cut_experiment, submitted, name, words):
    at = page_of(cut_experiment)
    at.selectbox(key="finetune_corpus_kind").set_value("file").run()
    at.text_input(key="finetune_corpus_file").set_value(name).run()
    assert len(at.error) == 1 and words in at.error[0].value and not at.exception
    assert not submitted and not [button for button in at.button if button.key == "recover_start"]


# while it runs --------------------------------------------------------------------------------------------------------


def test_a_reloaded_page_finds_the_training_under_way(page_of, recovered):
    content = json.loads(recovered.path(RECOVERY_FILE).read_text())
    content |= {"state": "running", "points": content["points"][:4]}
    running = JobStatus("recover", RUNNING, step="recovery", done=3, total=4, unit="steps", process=this_process())
    write_status(recovered, running)
    write_unfinished(recovered, content)
    at = page_of(recovered)
    last = content["points"][3]
    assert metric(at, "recover.live.step") == "3 of 4" and metric(at, "recover.live.loss") == f"{last['loss']:.3f}"
    assert list(figures(at)["training_loss"].data[0].y) == [point["loss"] for point in content["points"][1:4]]
    assert [one.y[0] for one in figures(at)["recovery_perplexity"].data[:2]] == list(content["lines"].values())
    assert at.button(key="job_cancel") and at.button(key="recover_start").disabled
    assert at.number_input(key="finetune_steps").value == 4  # the form is that of the run


def test_the_curve_of_an_earlier_training_is_not_taken_for_that_of_the_job(page_of, recovered):
    write_unfinished(recovered, read_json(recovered.path(RECOVERY_FILE), 1))
    after = recovered.path(RECOVERY_FOLDER, RECOVERY_FILE).stat().st_mtime + 1
    write_status(recovered, JobStatus("recover", RUNNING, step="load", started=after, process=this_process()))
    assert "training_loss" not in figures(page_of(recovered))


# afterwards -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_files_of_a_recovery_hold(page_of, recovered):
    at = page_of(recovered)
    metrics, history = recovered.metrics(), json.loads(recovered.path(RECOVERY_FILE).read_text())
    for stage in ("before", "after", "repaired", "recovered"):
        [value] = metrics["perplexity"][stage].values()
        assert metric(at, f"prune.perplexity.{stage}") == f"{value:.2f}"
    drawn = figures(at)
    assert [one.y[0] for one in drawn["perplexity"].data] == [next(iter(v.values())) for v in metrics["perplexity"].values()]
    measured = [point["perplexity"] for point in history["points"] if point["perplexity"] is not None]
    assert list(drawn["recovery_perplexity"].data[2].y) == measured and len(measured) == 3
    repair = json.loads(recovered.path(REPAIR_FILE).read_text())["matrices"]
    shown = next(table.value for table in at.dataframe if "damping" in table.value)
    assert shown.to_dict("records") == repair
    samples = json.loads(recovered.path("samples.json").read_text())
    assert {samples[name] for name in ("prompt", "before", "after", "repaired", "recovered")} <= {
        code.value for code in at.code
    }
    assert any(f"{metrics['recovery']['trained_parameters']:,}" in text for text in captions(at))
    assert at.button(key="recover_start").label == t("recover.again")
    assert at.toggle(key="recover_repair").disabled  # what is repaired stays so
    assert [link.value for link in at.page_link] == [t("recover.compare"), t("prune.next")]


def test_prune_and_compare_show_the_stages_of_a_recovered_experiment(app_of, recovered):
    perplexity = recovered.metrics()["perplexity"]
    at = on_page(app_of(recovered.folder.parent), "prune")
    assert metric(at, "prune.perplexity.repaired") == f"{next(iter(perplexity['repaired'].values())):.2f}"
    assert "repair_errors" in figures(at)
    row = on_page(app_of(recovered.folder.parent), "compare").dataframe[0].value.set_index("name").loc["first"]
    assert row["perplexity_recovered"] == next(iter(perplexity["recovered"].values())) == row["perplexity"]


def test_a_cancelled_training_says_what_it_kept(page_of, recovered):
    content = json.loads(recovered.path(RECOVERY_FILE).read_text()) | {"state": "cancelled", "best_step": 2}
    write_json(recovered.path(RECOVERY_FILE), content)
    write_unfinished(recovered, content)
    write_status(recovered, JobStatus("recover", CANCELLED))
    at = page_of(recovered)
    best = min(point["perplexity"] for point in content["points"] if point["perplexity"] is not None)
    assert [info.value for info in at.info] == [t("recover.cancelled.best", step=2, steps=4, perplexity=best)]
    assert at.button(key="recover_start").label == t("recover.go_on")
    at.number_input(key="finetune_steps").set_value(8).run()
    assert at.button(key="recover_start").label == t("recover.start")
    assert t("recover.note.anew", step=4) in captions(at)


def test_a_stopped_training_does_not_say_that_anything_was_saved(page_of, recovered):
    first = read_json(recovered.path(RECOVERY_FILE), 1)
    write_unfinished(recovered, first | {"state": "stopped", "points": first["points"][:2]})
    write_status(recovered, JobStatus("recover", CANCELLED))
    at = page_of(recovered)
    assert [info.value for info in at.info] == [t("recover.cancelled.stopped")]
    losses = [point["loss"] for point in first["points"][1:]]
    assert list(figures(at)["training_loss"].data[0].y) == losses  # the figures are those of the model that stands there


def test_cancelled_before_anything_was_kept(page_of, cut_experiment):
    write_status(cut_experiment, JobStatus("recover", CANCELLED))
    assert [info.value for info in page_of(cut_experiment).info] == [t("recover.cancelled.nothing")]


@pytest.mark.parametrize(
    ("error", "words", "is_of_memory"),
    [
        (PruningError("training_not_finite", step=3, learning_rate=1.0), "not a number at step 3. Lower finetune_lr", False),
        (PruningError("training_memory"), "set gradient_checkpointing", False),
        (PruningError("worker_died", reason="killed by the system"), "The worker process died", True),
    ],
)
def test_a_training_that_failed_says_why_and_what_helps(page_of, cut_experiment, error, words, is_of_memory):
    write_status(cut_experiment, JobStatus("recover").failed(error))
    at = page_of(cut_experiment)
    [shown] = at.error
    assert words in shown.value and t("recover.unharmed") in captions(at)
    assert (t("recover.memory") in [info.value for info in at.info]) == is_of_memory
    assert not at.button(key="recover_start").disabled


@pytest.mark.parametrize("file", [RECOVERY_FILE, REPAIR_FILE])
def test_a_damaged_file_is_named_in_one_sentence(page_of, recovered, file):
    recovered.path(file).write_text("{")
    [sentence] = {error.value for error in page_of(recovered).error}
    assert file in sentence


def test_a_training_that_bettered_nothing_says_so(page_of, recovered):
    done = recovered.update_metrics(recovery={"best_step": 0})["recovery"]
    [sentence] = [text for text in captions(page_of(recovered)) if "parameters trained" in text]
    assert "no state was better" in sentence and f"{done['steps']} steps" in sentence


def test_a_damaged_measurement_keeps_nobody_from_starting(page_of, cut_experiment):
    cut_experiment.path("recovery_cost.json").write_text("{")
    at = page_of(cut_experiment)
    assert "recovery_cost.json" in at.warning[0].value and not at.button(key="recover_start").disabled


def test_a_running_job_of_elsewhere_is_noticed(page_of, cut_experiment):
    at = page_of(cut_experiment)
    write_status(cut_experiment, JobStatus("recover", RUNNING, process=this_process()))
    at.run()
    assert at.button(key="recover_start").disabled and read_status(cut_experiment).is_active
