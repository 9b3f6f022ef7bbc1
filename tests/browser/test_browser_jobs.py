"""Jobs as a person meets them in the browser: cancelled, killed from outside, and left alone with the tab closed."""

import json
import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.studio import JOB_SECONDS, Studio, sentence, wait_until

LONG, SHORT, WINDOW = "4000", "4", "16"
pytestmark = pytest.mark.timeout(600)


def start(studio: Studio, name: str, samples: str) -> None:
    """Starts a measurement of so many short windows."""
    studio.go("importance")
    studio.enter("setting.num_samples", samples)
    studio.enter("setting.seq_len", WINDOW)
    studio.enter("setting.experiment_name", name)
    studio.press("importance.start")


def job_of(experiment: Path) -> dict:
    file = experiment / "job.json"
    return json.loads(file.read_text()) if file.is_file() else {"state": None}


def is_under_way(experiment: Path) -> bool:
    job = job_of(experiment)
    return job["state"] == "running" and job["step"] == "gradients" and job["done"] > 0


def expect_result(studio: Studio, name: str) -> None:
    heading = studio.page.get_by_role("heading", name=sentence("importance.result", experiment=name), exact=True)
    expect(heading).to_be_visible(timeout=JOB_SECONDS * 1000)
    studio.sees_charts(3)


def test_a_cancelled_measurement_leaves_nothing_and_starts_again(studio, server):
    experiment = server.output_root / "cancelled"
    studio.open("model")
    start(studio, experiment.name, LONG)
    wait_until(lambda: is_under_way(experiment))
    studio.press("job.cancel")
    expect(studio.page.get_by_text(sentence("job.cancelled"))).to_be_visible()
    assert job_of(experiment)["state"] == "cancelled"
    assert not list(experiment.glob("*.csv*")) and not (experiment / "cancel").exists()
    expect(studio.button("importance.start")).to_be_enabled()
    studio.screenshot("job_cancelled")

    start(studio, experiment.name, SHORT)
    expect_result(studio, experiment.name)


def test_a_killed_worker_is_shown_with_advice_and_replaced(studio, server):
    experiment, after = server.output_root / "killed", server.output_root / "after"
    studio.open("model")
    start(studio, experiment.name, LONG)
    wait_until(lambda: is_under_way(experiment))
    worker = job_of(experiment)["process"][0]
    os.kill(worker, signal.SIGKILL)
    error = studio.alerts()
    expect(error).to_contain_text(sentence("job.failed.measure"))
    expect(error).to_contain_text("killed by the system, as happens when memory runs out")
    expect(error).to_contain_text("lower gradient_batch_size or seq_len")
    assert job_of(experiment)["state"] == "failed"
    studio.screenshot("job_killed")

    start(studio, after.name, SHORT)
    expect_result(studio, after.name)
    assert job_of(after)["process"][0] != worker


def test_a_closed_tab_does_not_stop_the_job(studio, server, new_context):
    experiment = server.output_root / "left-alone"
    tab = Studio(new_context().new_page(), server.url, studio.screenshots)
    tab.open("model")
    start(tab, experiment.name, "300")
    wait_until(lambda: is_under_way(experiment))
    tab.page.close()
    wait_until(lambda: job_of(experiment)["state"] == "done")
    studio.open("importance", experiment=experiment.name)
    expect_result(studio, experiment.name)


def test_a_second_job_waits_for_the_first_and_says_so(studio, server, new_context):
    first, second = server.output_root / "first", server.output_root / "second"
    other = Studio(new_context().new_page(), server.url, studio.screenshots)
    studio.open("model")
    start(studio, first.name, LONG)
    wait_until(lambda: is_under_way(first))
    other.open("model")
    start(other, second.name, SHORT)
    expect(other.page.get_by_text(sentence("job.queued", place=1))).to_be_visible()
    assert job_of(second)["state"] == "queued"
    studio.press("job.cancel")
    expect_result(other, second.name)
    assert job_of(first)["state"] == "cancelled"
    other.page.close()
