"""The Compare page in a real browser: an experiment of the command line appears by itself, a click opens one, and it can be
renamed, deleted and taken along as a report.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, TimeoutError, expect

from pruning.__main__ import main
from tests.browser.conftest import Server, running_app
from tests.browser.studio import AS_A_HAND, Studio, sentence, wait_until
from tests.runs.quick_runs import quick_flags, save_tiny_model, write_text


@pytest.fixture(scope="module")
def prune(tmp_path_factory) -> Callable[[Path, str, float], None]:
    """A run of the command line, from measuring to the perplexity of the cut model: here, which the app cannot tell."""
    folder = tmp_path_factory.mktemp("small")
    model, text = save_tiny_model(folder / "model"), write_text(folder / "text.txt")

    def run(root: Path, name: str, ratio: float) -> None:
        flags = quick_flags(model, text, root, experiment_name=name, pruning_ratio=ratio, layer_start=0, layer_end=5)
        assert main(["global", *flags]) == 0

    return run


@pytest.fixture(scope="module")
def own_server(tmp_path_factory) -> Iterator[Server]:
    """An app of its own: what other tests leave behind would be compared as well."""
    with running_app(tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="module")
def compare_page(own_server, new_context, prune) -> Studio:
    """The Compare page with two experiments of the command line, the first open."""
    for number, ratio in (("one", 0.02), ("two", 0.04)):
        prune(own_server.output_root, f"compare-{number}", ratio)
    studio = Studio(new_context(own_server).new_page(), own_server.url, Path(__file__).parent / "screenshots")
    studio.open("compare", experiment="compare-one")
    return studio


def names(studio: Studio) -> set[str]:
    return {row[sentence("compare.column.name")] for row in studio.grid("compare.table.alt")}


def state_of(studio: Studio, name: str) -> str:
    [row] = [row for row in studio.grid("compare.table.alt") if row[sentence("compare.column.name")] == name]
    return row[sentence("compare.column.state")]


def plot_of(page: Page, alt_key: str):
    return page.get_by_role("figure", name=sentence(alt_key), exact=True)


def click_point(studio: Studio, name: str) -> None:
    """Clicks the point of an experiment; Plotly takes what the mouse hovers for what is clicked."""
    page = studio.page
    plot = plot_of(page, "compare.pareto.alt")
    plot.scroll_into_view_if_needed()
    studio.resting_place(plot)
    x, y = plot.evaluate(
        """(plot, name) => {
            const trace = plot._fullData.find(t => t.customdata?.some(c => c[0] === name))
            const at = trace.customdata.findIndex(c => c[0] === name)
            const {xaxis, yaxis, _size: {l, t}} = plot._fullLayout
            const box = plot.getBoundingClientRect()
            return [box.x + l + xaxis.d2p(trace.x[at]), box.y + t + yaxis.d2p(trace.y[at])]
        }""",
        name,
    )
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y, steps=3)
    expect(plot.locator(".hoverlayer .hovertext")).to_be_visible()
    page.mouse.click(x, y, delay=AS_A_HAND)


def test_an_experiment_of_the_command_line_appears_by_itself(compare_page: Studio, own_server, prune):
    assert {"compare-one", "compare-two"} <= names(compare_page)
    prune(own_server.output_root, "compare-three", 0.06)
    wait_until(lambda: "compare-three" in names(compare_page), 60)
    # Until the row is the one of a run that ended, the page draws itself anew, and what is aimed at moves.
    wait_until(lambda: state_of(compare_page, "compare-three") == state_of(compare_page, "compare-two"), 60)
    compare_page.settle()
    compare_page.screenshot("compare")


def test_a_click_on_a_point_opens_its_experiment(compare_page: Studio):
    def opened_by_a_click() -> bool:  # a redraw between aiming and pressing loses it, as it does a person's
        click_point(compare_page, "compare-two")
        with contextlib.suppress(TimeoutError):
            compare_page.page.wait_for_url("**experiment=compare-two**", timeout=15_000)
            return True
        return False

    wait_until(opened_by_a_click)
    expect(compare_page.page.locator(".st-key-open_experiment")).to_contain_text("compare-two")


def test_dragging_along_an_axis_filters_the_table(compare_page: Studio, own_server):
    page = compare_page.page
    plot = plot_of(page, "compare.parallel.alt")
    plot.scroll_into_view_if_needed()

    def worst_alone() -> bool:
        """Drags to the end of the axis of perplexity, where the worst stands; again where a drawing of the chart lost it."""
        axis = compare_page.resting_place(plot.locator(".axis-brush .background").last)
        x = axis["x"] + axis["width"] / 2
        page.mouse.move(x, axis["y"] + axis["height"] * 0.08)
        page.mouse.down()
        page.mouse.move(x, axis["y"] - 5, steps=4)
        page.mouse.up()
        compare_page.settle()
        return "compare-three" in names(compare_page) and "compare-one" not in names(compare_page)

    def all_again() -> bool:
        """Clicks beside the range, which lifts it."""
        axis = compare_page.resting_place(plot.locator(".axis-brush .background").last)
        page.mouse.click(axis["x"] + axis["width"] / 2, axis["y"] + axis["height"] * 0.8)
        compare_page.settle()
        return "compare-one" in names(compare_page)

    wait_until(worst_alone)
    wait_until(all_again)


def test_an_experiment_is_renamed(compare_page: Studio, own_server):
    compare_page.settle()
    compare_page.press("compare.rename")
    compare_page.page.get_by_role("textbox", name=sentence("compare.new_name")).fill("compare-better")
    compare_page.page.get_by_role("button", name=sentence("compare.rename.do"), exact=True).click()
    wait_until(lambda: "compare-better" in names(compare_page) and "compare-two" not in names(compare_page))
    compare_page.page.wait_for_url("**experiment=compare-better**")
    description = json.loads((own_server.output_root / "compare-better" / "description.txt").read_text())
    assert description["settings"]["experiment_name"] == "compare-better"


def test_the_report_opens_without_a_network(compare_page: Studio, browser, tmp_path):
    report = compare_page.download("compare.report", tmp_path / "report.html")
    context = browser.new_context(offline=True, color_scheme="dark")
    asked, complaints = [], []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    places = page.locator(".chart > div")
    expect(places).to_have_count(8)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.chart > div')].every(p => p.querySelector('.main-svg .trace'))"
    )
    assert asked == [report.as_uri()] and complaints == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    context.close()


def test_deleting_asks_first(compare_page: Studio, own_server):
    page = compare_page.page
    page.get_by_role("button", name=sentence("compare.delete"), exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("compare-better")
    dialog.get_by_role("button", name=sentence("compare.delete.keep")).click()
    expect(dialog).to_have_count(0)
    assert (own_server.output_root / "compare-better").is_dir()
    page.get_by_role("button", name=sentence("compare.delete"), exact=True).click()
    dialog.get_by_role("button", name=sentence("compare.delete.do")).click()
    wait_until(lambda: "compare-better" not in names(compare_page))
    assert not (own_server.output_root / "compare-better").exists()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text(sentence("compare.none_open"))).to_be_visible()
    page.close()
