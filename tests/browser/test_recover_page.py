"""The Recover page in a real browser: repair, then LoRA for twenty steps, seen as it goes, by this session and by another."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from pruning.__main__ import main
from tests.browser.studio import JOB_SECONDS, Studio, sentence, wait_until
from tests.runs.quick_runs import quick_flags, save_tiny_model

NAME, STEPS = "to-recover", 20


@pytest.fixture(scope="module")
def experiment(server, tmp_path_factory) -> Path:
    """A cut of the command line."""
    folder = tmp_path_factory.mktemp("small")
    text = folder / "text.txt"
    text.write_text("\n".join(f"value_{i} = {i} * {i % 7}" for i in range(1000)))
    flags = quick_flags(save_tiny_model(folder / "model"), text, server.output_root, experiment_name=NAME)
    assert main(["global", *flags, "--layer_start=0", "--layer_end=5", "--pruning_ratio=0.05", "--save_model"]) == 0
    return server.output_root / NAME


def curve(studio: Studio) -> list[float]:
    """The losses that the chart draws; none while it is not there."""
    return studio.page.evaluate(
        """alt => {
            const plot = [...document.querySelectorAll('[role=figure]')].find(place => place.getAttribute('aria-label') === alt)
            return Array.from(plot?._fullData?.[0]?.y ?? [])
        }""",
        sentence("recover.loss.alt"),
    )


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def fill_in(studio: Studio) -> None:
    studio.enter("setting.reconstruct_tokens", "512")
    studio.enter("setting.finetune_samples", "40")
    studio.enter("setting.finetune_steps", str(STEPS))
    studio.enter("setting.finetune_batch_size", "4")
    studio.enter("setting.finetune_eval_steps", "5")  # evaluations take longest: a person has time to reload the page


def test_repair_then_lora_seen_as_it_goes(studio: Studio, server, experiment, new_context):
    studio.open("recover", experiment=NAME)
    fill_in(studio)
    studio.press("cost.measure")
    expect(studio.page.get_by_text(" s here, an evaluation ")).to_be_visible(timeout=JOB_SECONDS * 1000)
    studio.settle()
    studio.screenshot("recover_form")
    onlooker = Studio(new_context(color_scheme="dark").new_page(), server.url, studio.screenshots)
    onlooker.open("recover", experiment=NAME)
    studio.press("recover.start")

    expect(studio.button("job.cancel")).to_be_visible()
    wait_until(lambda: len(curve(studio)) >= 2)
    seen = len(curve(studio))
    studio.page.reload()
    wait_until(lambda: len(curve(studio)) > seen)  # it moves, and the reloaded page finds it
    expect(onlooker.page.get_by_text(sentence("recover.live"))).to_be_visible()  # who did not start it sees it too
    studio.screenshot("recover_live", of_a_running_job=True)

    heading = studio.page.get_by_role("heading", name=sentence("recover.result", experiment=NAME), exact=True)
    expect(heading).to_be_visible(timeout=JOB_SECONDS * 1000)
    studio.settle()
    metrics, history = read(experiment / "metrics.json"), read(experiment / "recovery.json")
    for stage in ("before", "after", "repaired", "recovered"):
        [value] = metrics["perplexity"][stage].values()
        expect(studio.metric(f"prune.perplexity.{stage}")).to_have_text(f"{value:.2f}")
    assert history["state"] == "done" and [point["step"] for point in history["points"]] == list(range(STEPS + 1))
    assert curve(studio) == pytest.approx([point["loss"] for point in history["points"][1:]])
    for stage in ("before", "after", "repaired", "recovered"):
        expect(studio.page.get_by_text(sentence(f"chart.stage.{stage}"), exact=True).last).to_be_visible()
    studio.sees_charts(4)
    studio.screenshot("recover")
    onlooker.sees_charts(4)
    onlooker.screenshot("recover_dark")
    onlooker.page.close()
