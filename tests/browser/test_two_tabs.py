"""An experiment that is renamed in one tab while another shows it: parts of a page that run alone say so too."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from pruning.experiment import Experiment
from pruning.runs import steps
from tests.browser.conftest import Server, running_app
from tests.browser.studio import Studio, sentence
from tests.runs.quick_runs import new_experiment, quick_settings, save_tiny_model, write_text


@pytest.fixture(scope="module")
def own_server(tmp_path_factory) -> Iterator[Server]:
    with running_app(tmp_path_factory) as running:
        place = tmp_path_factory.mktemp("source")
        settings = quick_settings(save_tiny_model(place / "tiny"), write_text(place / "values.txt"))
        for name in ("shown", "another"):
            steps.run("measure", new_experiment(running.output_root, name, settings))
        yield running


def test_a_slider_of_a_renamed_experiment_says_so_and_leads_to_it(own_server, new_context):
    context = new_context(own_server)
    first, second = (Studio(context.new_page(), own_server.url, Path(__file__).parent / "screenshots") for _ in range(2))
    first.open("plan", experiment="shown")
    second.open("compare", experiment="shown")
    second.press("compare.rename")
    second.page.get_by_role("textbox", name=sentence("compare.new_name")).fill("better")
    second.page.get_by_role("button", name=sentence("compare.rename.do"), exact=True).click()
    second.page.wait_for_url("**experiment=better**")
    first.page.get_by_role("slider", name=sentence("setting.pruning_ratio")).first.press("ArrowLeft")
    said = sentence("missing.renamed", name="shown", new_name="better")
    expect(first.page.get_by_text(said)).to_be_visible()
    expect(first.page.locator(".stException")).to_have_count(0)
    first.page.get_by_role("button", name="better").click()
    first.page.wait_for_url("**experiment=better**")
    first.settle()
    expect(first.page.get_by_text(said)).to_have_count(0)
    # One that is deleted on the command line: the page finds out by itself.
    first.go("compare")
    Experiment.open(own_server.output_root, "better").delete()
    expect(first.page.get_by_text(sentence("missing.gone", name="better"))).to_be_visible()
    first.page.get_by_role("button", name="another").click()
    first.page.wait_for_url("**experiment=another**")
    expect(first.page.locator(".stException")).to_have_count(0)
    context.close()
