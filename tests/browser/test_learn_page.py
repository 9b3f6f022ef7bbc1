"""The Learn page in the browser: its button makes an experiment; every chapter shows its pictures in both languages, and is
without a serious result of axe-core.
"""

import pytest
from playwright.sync_api import expect

from tests.browser.studio import JOB_SECONDS, Studio
from tests.runs.learned import learn_all

CHAPTERS = {"matrix": 1, "group": 1, "cut": 5, "strategies": 2, "knapsack": 2, "scores": 2}  # and their charts
SIZES = {"family": "llama", "layers": 12, "hidden_size": 32, "intermediate_size": 96, "num_key_value_heads": 4}


@pytest.fixture(scope="module")
def experiment(server, tmp_path_factory) -> str:
    """A small model with all that the chapters ask for."""
    return learn_all(server.output_root, "learned", tmp_path_factory.mktemp("small") / "model", SIZES).name


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("zh", "dark")])
def test_every_chapter_shows_its_pictures(server, new_context, studio, experiment, language, scheme):
    context = new_context(color_scheme=scheme, locale={"en": "en-US", "zh": "zh-CN"}[language])
    tab = Studio(context.new_page(), server.url, studio.screenshots, language)
    tab.open("learn", experiment=experiment)
    for chapter, charts in CHAPTERS.items():
        tab.choose("learn.section", f"learn.section.{chapter}")
        expect(tab.page.get_by_role("heading", name=tab.said(f"learn.{chapter}.title"), exact=True)).to_be_visible()
        tab.sees_charts(charts)
        expect(tab.alerts()).to_have_count(0)
        expect(tab.button("learn.measure")).to_have_count(0)
        assert tab.findings() == [], chapter
        tab.screenshot(f"learn_{chapter}_{scheme}_{language}")
    tab.page.close()


def test_what_is_not_measured_yet_is_measured_by_its_button_and_leads_on(studio, experiment):
    studio.open("learn", experiment=experiment, learn_section="group")
    studio.page.get_by_role("slider", name=studio.said("learn.layer")).press("ArrowRight")
    expect(studio.page.get_by_text(studio.pattern("learn.offer.inside"))).to_be_visible()
    studio.press("learn.measure")
    expect(studio.page.locator(".learn-text").first).to_be_visible(timeout=JOB_SECONDS * 1000)
    expect(studio.page.get_by_text(studio.said("learn.inside.channels").split(":")[0])).to_be_visible()
    studio.press("learn.open.plan")
    expect(studio.page.get_by_role("heading", name=studio.said("plan.title"), level=1, exact=True)).to_be_visible()
    expect(studio.alerts()).to_have_count(0)
