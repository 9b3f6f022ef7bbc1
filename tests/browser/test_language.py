"""The app in Chinese and English in a real browser: the picker, the link, the browser's own language, what a switch keeps."""

import re

import pytest
from playwright.sync_api import Page, expect

from pruning.experiment import Experiment
from tests.browser.studio import Studio, sentence
from tests.runs.quick_runs import copy_of


@pytest.fixture(scope="module")
def experiment(server, measured_demo) -> Experiment:
    """An experiment whose importance was measured, named `languages`."""
    return copy_of(measured_demo, server.output_root, "languages")


def speak(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebar").get_by_role("radio", name=name, exact=True).click()


def ratio_slider(page: Page, language: str = "en"):
    """The first of those with these words: the least and the largest rate of a layer have them in their label too."""
    return page.get_by_role("slider", name=sentence("setting.pruning_ratio", language)).first


def heading(page: Page):
    return page.get_by_role("heading", level=1)


def test_switching_keeps_the_sliders_and_stands_in_the_link(server, experiment, new_context):
    page = new_context().new_page()
    english, chinese = Studio(page, server.url, server.output_root), Studio(page, server.url, server.output_root, "zh")
    english.open("plan", experiment=experiment.name, strategy="layer", plan_section="sweep")
    for _ in range(2):
        ratio_slider(page).press("ArrowRight")
    page.wait_for_url(re.compile("ratio=0.27"))
    english.settle()

    speak(page, "中文")
    page.wait_for_url(re.compile(r"[?&]lang=zh"))
    chinese.settle()
    expect(heading(page)).to_have_text(sentence("plan.title", "zh"))
    expect(ratio_slider(page, "zh")).to_have_value("0.27")
    for key, option in (("plan.strategy", "plan.strategy.layer"), ("plan.section", "plan.section.sweep")):
        group = page.get_by_role("radiogroup", name=sentence(key, "zh"), exact=True)
        expect(group.get_by_role("radio", name=sentence(option, "zh"), exact=True)).to_be_checked()
    chart = page.locator(".plotly-view").first
    expect(chart.locator(".gtitle").first).to_have_text(sentence("chart.rates.title", "zh"))
    chart.locator(".plotly-view-plot").hover()
    for tool in ("png", "html", "zoom", "reset"):
        expect(chart.get_by_role("button", name=sentence(f"chart.view.{tool}", "zh"), exact=True)).to_be_attached()

    chinese.choose("plan.strategy", "plan.strategy.global")  # what is pressed in the new language is understood
    page.wait_for_url(lambda url: "strategy=" not in url)
    speak(page, "English")
    page.wait_for_url(re.compile(r"[?&]lang=en"))
    expect(heading(page)).to_have_text(sentence("plan.title"))
    expect(ratio_slider(page)).to_have_value("0.27")


def test_the_language_goes_along_to_other_screens(server, new_context):
    studio = Studio(new_context().new_page(), server.url, server.output_root, "zh")
    studio.open("model", lang="zh")
    expect(heading(studio.page)).to_have_text(sentence("model.title", "zh"))
    studio.go("compare")
    studio.page.wait_for_url(re.compile(r"[?&]lang=zh"))


def test_a_browser_that_speaks_chinese_is_answered_in_chinese(server, new_context):
    page = new_context(locale="zh-CN").new_page()
    page.goto(server.url)
    expect(heading(page)).to_have_text(sentence("model.title", "zh"))
    expect(page).to_have_title(re.compile(sentence("app.title", "zh")))
    assert "lang=" not in page.evaluate("location.href")


def test_a_link_in_english_wins_over_a_browser_that_speaks_chinese(server, new_context):
    page = new_context(locale="zh-CN").new_page()
    page.goto(f"{server.url}/?lang=en")
    expect(heading(page)).to_have_text(sentence("model.title"))
