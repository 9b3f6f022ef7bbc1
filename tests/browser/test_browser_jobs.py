"""Jobs as a person meets them in the browser: cancelled, killed from outside, and left alone with the tab closed."""

import pytest
from playwright.sync_api import expect

from tests.browser.studio import JOB_SECONDS, Studio, job_of, sentence, wait_until, worker_stands_still
from tests.runs.quick_runs import save_tiny_model

LONG, SHORT, WINDOW = "4000", "4", "16"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("small") / "model"))


def start(studio: Studio, name: str, samples: str) -> None:
    """Starts a measurement of so many short windows."""
    studio.go("importance")
    studio.enter("setting.num_samples", samples)
    studio.enter("setting.seq_len", WINDOW)
    studio.enter("setting.experiment_name", name)
    studio.press("importance.start")


def expect_result(studio: Studio, name: str) -> None:
    heading = studio.page.get_by_role("heading", name=sentence("importance.result", experiment=name), exact=True)
    expect(heading).to_be_visible(timeout=JOB_SECONDS * 1000)
    studio.sees_charts(3)


def test_a_second_job_waits_for_the_first_which_once_cancelled_leaves_nothing_and_starts_again(
    studio, server, new_context, model
):
    first, second = server.output_root / "first", server.output_root / "second"
    other = Studio(new_context().new_page(), server.url, studio.screenshots)
    studio.open("model", model=model)
    other.open("model", model=model)
    start(studio, first.name, LONG)
    with worker_stands_still(first):
        start(other, second.name, SHORT)
        expect(other.page.get_by_text(sentence("job.queued", place=1))).to_be_visible()
        assert job_of(second)["state"] == "queued"
        studio.press("job.cancel")
        wait_until((first / "cancel").exists)
    expect_result(other, second.name)
    other.page.close()
    expect(studio.page.get_by_text(sentence("job.cancelled"))).to_be_visible()
    assert job_of(first)["state"] == "cancelled"
    assert not list(first.glob("*.csv*")) and not (first / "cancel").exists()
    expect(studio.button("importance.start")).to_be_enabled()
    studio.screenshot("job_cancelled")

    start(studio, first.name, SHORT)
    expect_result(studio, first.name)


def test_a_killed_worker_is_shown_with_advice_and_replaced_and_a_closed_tab_stops_no_job(studio, server, new_context, model):
    experiment, after = server.output_root / "killed", server.output_root / "after"
    studio.open("model", model=model)
    start(studio, experiment.name, LONG)
    with worker_stands_still(experiment) as worker:
        worker.kill()
    error = studio.alerts()
    expect(error).to_contain_text(sentence("job.failed.measure"))
    expect(error).to_contain_text("killed by the system, as happens when memory runs out")
    expect(error).to_contain_text("lower gradient_batch_size or seq_len")
    assert job_of(experiment)["state"] == "failed"
    studio.screenshot("job_killed")

    tab = Studio(new_context().new_page(), server.url, studio.screenshots)
    tab.open("model", model=model)
    start(tab, after.name, "300")
    with worker_stands_still(after) as another:
        tab.page.close()
    assert another.pid != worker.pid
    wait_until(lambda: job_of(after)["state"] == "done")
    studio.open("importance", experiment=after.name)
    expect_result(studio, after.name)
