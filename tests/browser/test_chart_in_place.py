"""A chart stays in place in a real browser: same node and zoom for new data, clicks come back, colours follow the theme."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import ROOT, _end, _free_port, _wait_until_up, is_healthy
from tests.browser.studio import AS_A_HAND, Studio, sentence
from tests.runs.quick_runs import copy_of

SMALL_APP = """
import json, sys
sys.path.insert(0, {root!r})
import numpy as np
import plotly.graph_objects as go
import streamlit as st
from ui import plotly_view

state = st.session_state

@st.fragment
def bars():
    state.runs = state.get("runs", 0) + 1
    notes = np.array([[7, 0.5], [8, 0.25], [9, 0.125]])
    below = {{"type": "bar", "name": "attention", "x": [0, 1, 2], "y": np.array([3, 1, 2])}}
    above = {{"type": "bar", "name": "MLP", "x": [0, 1, 2], "y": np.array([2, 4, 3 + state.runs]), "customdata": notes}}
    figure = go.Figure([below, above], {{"height": 300, "barmode": "stack", "uirevision": "bars"}})
    clicked = plotly_view.show(figure, "bars", "three bars", on_click=lambda event: state.update(told=event))
    st.code(json.dumps({{"runs": state.runs, "clicked": clicked, "told": state.pop("told", None)}}))

bars()
"""
ITS_SERVER = """
import sys
sys.path.insert(0, {root!r})
import streamlit as st
from ui import plotly_view

app = st.App({script!r}, routes=[plotly_view.script_route()])
"""


@pytest.fixture(scope="module")
def plan_page(server, new_context, measured_demo) -> Studio:
    """The Plan page of an experiment measured on the demo model, in a tab of its own."""
    experiment = copy_of(measured_demo, server.output_root, "in-place")
    studio = Studio(new_context().new_page(), server.url, server.output_root)
    studio.open("plan", experiment=experiment.name)
    expect(rates(studio).locator(".gtitle")).to_be_visible()
    return studio


@pytest.fixture
def small_app(tmp_path) -> Iterator[Callable[..., str]]:
    """Starts a one-chart app, with or without the route to plotly.min.js; gives its address."""
    (tmp_path / "script.py").write_text(SMALL_APP.format(root=str(ROOT)))
    (tmp_path / "server.py").write_text(ITS_SERVER.format(root=str(ROOT), script=str(tmp_path / "script.py")))
    started = []

    def start(file: str, base_path: str = "") -> str:
        port, log = _free_port(), tmp_path / "server.log"
        command = [sys.executable, "-m", "streamlit", "run", str(tmp_path / file), "--server.port", str(port)]
        command += ["--server.headless", "true", "--server.baseUrlPath", base_path]
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=output, stderr=output))
        url = f"http://127.0.0.1:{port}/{base_path}"
        _wait_until_up(started[-1], log, lambda: is_healthy(url.rstrip("/")))
        return url

    yield start
    for process in started:
        _end(psutil.Process(process.pid))
        process.wait()


def test_new_data_leave_the_node_and_the_zoom(plan_page: Studio):
    page, plot = plan_page.page, rates(plan_page)
    plot.evaluate("node => node.dataset.mark = 'x'")
    zoom_by_hand(page, plot)
    zoomed, drawn = layer_range(plot), bars_of(plot)
    assert zoomed != [-0.6, 31.4]
    page.evaluate("() => addEventListener('keyup', () => { window.released = performance.now() }, true)")
    plot.evaluate("node => node.on('plotly_afterplot', () => { window.redrawn ??= performance.now() })")
    slider = page.get_by_role("slider").first
    for _ in range(3):
        page.evaluate("() => { window.redrawn = undefined }")
        slider.press("ArrowRight")
        page.wait_for_function("() => window.redrawn")
        plan_page.settle()
        assert bars_of(plot) != drawn
        drawn = bars_of(plot)
        assert plot.get_attribute("data-mark") == "x"
        assert layer_range(plot) == zoomed
        print(f"from key release to new bars: {page.evaluate('() => window.redrawn - window.released'):.0f} ms")


def test_the_theme_colours_the_text(plan_page: Studio):
    page, plot = plan_page.page, rates(plan_page)
    for scheme, colour in (("light", "rgb(10, 20, 28)"), ("dark", "rgb(228, 234, 239)"), ("light", "rgb(10, 20, 28)")):
        page.emulate_media(color_scheme=scheme)
        expect(plot.locator(".gtitle")).to_have_css("fill", colour)


def test_a_chart_says_what_it_shows(plan_page: Studio):
    series = f"^{sentence('chart.kind.attention')}, {sentence('chart.kind.mlp')}, "
    expect(rates(plan_page)).to_have_accessible_description(re.compile(series))


@pytest.mark.parametrize("form", ["png", "html"])
def test_a_chart_can_be_taken_home(plan_page: Studio, browser, form, tmp_path):
    plot = rates(plan_page)
    plot.hover()
    with plan_page.page.expect_download() as download:
        plot.locator(f".modebar-btn[data-title='{sentence(f'chart.view.{form}')}']").click()
    assert download.value.suggested_filename == f"rates.{form}"
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    if form == "png":
        assert file.read_bytes().startswith(b"\x89PNG")
        return
    elsewhere = browser.new_context(offline=True).new_page()
    elsewhere.goto(file.as_uri())
    alone = elsewhere.locator("#chart")
    expect(alone.locator(".gtitle")).to_have_text(plot.locator(".gtitle").text_content())
    assert bars_of(alone) == bars_of(plot) and layer_range(alone) == layer_range(plot)
    elsewhere.context.close()


def test_clicks_come_back_also_under_a_base_path(new_context, small_app):
    page = new_context().new_page()
    page.goto(small_app("server.py", base_path="studio"))
    click_bar(page, series=1, bar=1)
    answer = said(page, runs=2)
    seq = answer.pop("seq")
    assert answer == {"curve": 1, "point": 1, "x": 1, "y": 4, "customdata": [8, 0.25], "legend": "MLP"}
    click_bar(page, series=0, bar=2)
    answer = said(page, runs=3)
    assert (answer["legend"], answer["point"], answer["customdata"]) == ("attention", 2, None) and answer["seq"] > seq
    page.locator(".modebar-btn[data-val='select']").click()
    drag(page, page.locator(".plotly-view .nsewdrag"), (0.4, 0.02), (0.95, 0.95))
    selection = said(page, runs=4)["selection"]
    assert [(point["legend"], point["x"]) for point in selection] == [
        ("attention", 1),
        ("attention", 2),
        ("MLP", 1),
        ("MLP", 2),
    ]
    page.close()


def test_without_the_library_the_chart_is_a_sentence(new_context, small_app):
    page = new_context().new_page()
    page.goto(small_app("script.py"))  # not `st.App`: nothing serves plotly.min.js
    expect(page.get_by_text(sentence("chart.view.failure"))).to_be_visible()
    page.close()


# what the tests do and read -------------------------------------------------------------------------------------------


def rates(studio: Studio) -> Locator:
    """The node that Plotly draws the first chart of the Plan page in."""
    return studio.page.get_by_role("figure", name=sentence("plan.rates.alt"), exact=True)


def drag(page: Page, area: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags across an area, from and to shares of its width and height."""
    box = area.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def click_bar(page: Page, series: int, bar: int) -> None:
    """Plotly takes what the mouse hovers, which it looks up a moment after each move, for what is clicked."""
    bars = page.locator(".plotly-view .trace.bars").nth(series).locator(".point")
    expect(bars.nth(bar)).to_be_visible()
    box = bars.nth(bar).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(
        """([series, bar]) => {
            const [point] = document.querySelector('.plotly-view-plot')._hoverdata ?? []
            return point?.curveNumber === series && point?.pointNumber === bar
        }""",
        arg=[series, bar],
    )
    page.mouse.down()
    page.wait_for_timeout(AS_A_HAND)
    page.mouse.up()


def zoom_by_hand(page: Page, plot: Locator) -> None:
    before = layer_range(plot)
    drag(page, plot.locator(".nsewdrag"), (0.3, 0.2), (0.7, 0.9))
    page.wait_for_function(
        "([node, before]) => String(node._fullLayout.xaxis.range) !== String(before)", arg=[plot.element_handle(), before]
    )


def layer_range(plot: Locator) -> list[float]:
    return plot.evaluate("node => node._fullLayout.xaxis.range")


def bars_of(plot: Locator) -> list[list[float]]:
    return plot.evaluate("node => node._fullData.filter(t => t.type === 'bar').map(t => [...t.y])")


def said(page: Page, runs: int) -> dict:
    """What `show` returned in this run of the small app, which is what its callback got, and is its last run for now."""
    answer = page.get_by_test_id("stCode")
    expect(answer).to_contain_text(f'"runs": {runs},')
    page.evaluate("() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    said = json.loads(answer.inner_text())
    assert said["clicked"] == said["told"]
    return said["clicked"]
