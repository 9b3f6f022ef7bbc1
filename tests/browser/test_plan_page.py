"""The Plan page in a real browser: charts change in place while sliders move, numbers on screen are those of the files, and
plans are tried before they are cut.
"""

import contextlib
import json
import re
from dataclasses import replace

import pytest
from playwright.sync_api import Locator, TimeoutError, expect

from pruning.experiment import Experiment
from pruning.runs import steps
from tests.browser.studio import AS_A_HAND, JOB_SECONDS, Studio, sentence, wait_until, worker_stands_still
from tests.browser.test_chart_in_place import drag
from tests.runs.quick_runs import copy_of

CHARTS = ("rates", "groups", "removed", "balance", "curve")
ALL = set(CHARTS)
BY_LAYER = ALL - {"balance"}  # with attention untouched, the balance may stay as it is
ROW_HEIGHT, HEADER = 35, 35  # of the table on the canvas
PREVIEW_WINDOWS, SWEEP_WINDOWS = 8, 32

# One thumb of a slider: its label, which of its thumbs, the key, how often, and the charts that must be others then.
SLIDERS = {
    "global": (
        ("setting.pruning_ratio", 0, "ArrowLeft", 3, ALL),
        ("plan.layers_cut", 0, "ArrowRight", 2, BY_LAYER),
        ("plan.layers_cut", 1, "ArrowLeft", 2, BY_LAYER),
        ("plan.split", 0, "ArrowRight", 2, ALL),
    ),
    "layer": (
        ("setting.pruning_ratio", 0, "ArrowRight", 2, BY_LAYER),
        ("plan.split", 0, "ArrowRight", 1, ALL),
        ("setting.importance_weight", 0, "ArrowLeft", 2, BY_LAYER - {"curve"}),
        ("plan.bounds", 0, "ArrowLeft", 2, BY_LAYER - {"curve"}),
        ("plan.bounds", 1, "ArrowRight", 20, BY_LAYER - {"curve"}),
    ),
    "uniform": (("setting.pruning_ratio", 0, "ArrowRight", 2, BY_LAYER), ("plan.split", 0, "ArrowRight", 2, ALL)),
}
_WATCH = """node => {
    window.drawn ??= {}
    node.dataset.mark = 'x'
    node.on('plotly_afterplot', () => { window.drawn[node.dataset.name] = performance.now() })
}"""
_SHOWN = "node => JSON.stringify([node.data.map(trace => [trace.x, trace.y, trace.base]), node.layout.shapes])"


@pytest.fixture
def experiment(server, measured_demo, request) -> Experiment:
    """A copy of the measured experiment, named after the test."""
    return copy_of(measured_demo, server.output_root, request.node.name.replace("_", "-")[:60])


@pytest.fixture(scope="module")
def tab(server, new_context) -> Studio:
    return Studio(new_context().new_page(), server.url, server.output_root)


@pytest.fixture
def page(tab, experiment) -> Studio:
    """The Plan page of the experiment, in a new session, its charts drawn."""
    tab.open("plan", experiment=experiment.name)
    tab.sees_charts(len(CHARTS))
    return tab


def chart_of(studio: Studio, name: str) -> Locator:
    return studio.page.get_by_role("figure", name=sentence(f"plan.{name}.alt"), exact=True)


def strip(studio: Studio) -> list[str]:
    return studio.page.get_by_test_id("stMetricValue").all_inner_texts()


# charts in place -----------------------------------------------------------------------------------------------------


def test_sliders_change_their_charts_and_leave_nodes_and_zoom(page: Studio):
    plots = {name: chart_of(page, name) for name in CHARTS}
    zoomed = {}
    for name, plot in plots.items():
        plot.evaluate("(node, name) => { node.dataset.name = name }", name)
        plot.evaluate(_WATCH)
        zoomed[name] = zoom(page, plot)
    page.page.evaluate("() => addEventListener('keyup', () => { window.released = performance.now() }, true)")
    seconds = []
    for strategy, sliders in SLIDERS.items():
        if strategy != "global":
            page.choose("plan.strategy", f"plan.strategy.{strategy}")
        for label, thumb, key, presses, changes in sliders:
            shown = {name: plot.evaluate(_SHOWN) for name, plot in plots.items()}
            times = press_slider(page, label, thumb, key, presses, changes)
            changed = {name for name, plot in plots.items() if plot.evaluate(_SHOWN) != shown[name]}
            assert changes <= changed, (strategy, label, changes - changed)
            assert {name: x_range(plot) for name, plot in plots.items()} == zoomed
            assert all(plot.get_attribute("data-mark") == "x" for plot in plots.values())
            seconds.append(max(times.values()))
            print(f"{strategy}, {sentence(label)}: rates after {times['rates']:.0f} ms, all after {seconds[-1]:.0f} ms")
    expect(page.alerts()).to_have_count(0)
    seconds.sort()
    print(f"from key release to the last chart: median {seconds[len(seconds) // 2]:.0f} ms, worst {seconds[-1]:.0f} ms")


def press_slider(studio: Studio, label: str, thumb: int, key: str, presses: int, changes: set[str]) -> dict[str, float]:
    """Moves a slider by keyboard; milliseconds from the last key release until each chart with new data was drawn."""
    slider = studio.page.get_by_role("slider", name=sentence(label)).nth(thumb)
    slider.focus()
    for _ in range(presses - 1):
        studio.page.keyboard.press(key)
    studio.settle()
    studio.page.evaluate("() => { window.drawn = {} }")
    studio.page.keyboard.press(key)
    studio.page.wait_for_function("names => names.every(name => window.drawn[name])", arg=sorted(changes))
    studio.settle()
    return studio.page.evaluate(
        "() => Object.fromEntries(Object.entries(window.drawn).map(([name, at]) => [name, at - window.released]))"
    )


def zoom(studio: Studio, plot: Locator) -> list[float]:
    """Zooms into the middle of a chart with the mouse; returns the range of the x axis."""
    before = x_range(plot)
    plot.scroll_into_view_if_needed()
    drag(studio.page, plot.locator(".nsewdrag").first, (0.3, 0.3), (0.7, 0.8))
    wait_until(lambda: x_range(plot) != before, seconds=10)
    return x_range(plot)


def x_range(plot: Locator) -> list[float]:
    return plot.evaluate("node => node._fullLayout.xaxis.range.map(Number)")


def test_a_clicked_bar_filters_the_table(page: Studio):
    click_layer(page, chart_of(page, "removed"), layer=16, kind="mlp")
    expect(page.page.get_by_test_id("stMultiSelectTagsContainer").get_by_text("16", exact=True)).to_be_visible()
    expect(page.page.get_by_text(sentence("groups.count", count=384))).to_be_visible()
    wait_until(lambda: {row[sentence("table.layer")] for row in page.grid("groups.alt")} == {"16"})


def click_layer(studio: Studio, plot: Locator, layer: int, kind: str) -> None:
    """Clicks the middle of a layer's bar of one kind, once Plotly has seen the mouse there."""
    curve = plot.evaluate("(node, kind) => node._fullData.findIndex(t => t.type === 'bar' && t.meta?.kind === kind)", kind)
    bar = plot.locator(".trace.bars").nth(curve).locator(".point").nth(layer)
    bar.scroll_into_view_if_needed()
    box = studio.resting_place(bar)
    hover_and_click(studio, plot, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, "x", layer)


def hover_and_click(studio: Studio, plot: Locator, x: float, y: float, field: str, value) -> None:
    studio.page.mouse.move(x - 2, y)
    studio.page.mouse.move(x, y)
    studio.page.wait_for_function(
        "([node, field, value]) => String(node._hoverdata?.[0]?.[field]) === String(value)",
        arg=[plot.element_handle(), field, value],
    )
    studio.page.mouse.click(x, y, delay=AS_A_HAND)
    studio.settle()


# numbers, links, undo ------------------------------------------------------------------------------------------------


def test_link_undo_and_files_say_what_the_screen_says(page: Studio, experiment, new_context):
    first = strip(page)
    for _ in range(5):
        page.page.get_by_role("slider", name=sentence("setting.pruning_ratio")).press("ArrowRight")
    page.choose("plan.strategy", "plan.strategy.layer")
    page.page.get_by_role("slider", name=sentence("plan.bounds")).nth(1).press("ArrowRight")
    page.enter("setting.protected_layers", "17")
    page.page.wait_for_url("**protect=17**")
    page.settle()
    shaped = strip(page)
    assert shaped[0] == "30.00%" and shaped != first

    other = Studio(new_context().new_page(), page.url, page.screenshots)
    other.page.goto(page.page.url)
    other.sees_charts(len(CHARTS))
    assert strip(other) == shaped
    for name in CHARTS:
        assert chart_of(other, name).evaluate(_SHOWN) == chart_of(page, name).evaluate(_SHOWN)
    other.page.close()

    go_through_the_history(page, "undo", until=first)
    go_through_the_history(page, "redo", until=shaped)
    cut_a_group_by_hand(page)
    page.press("plan.save")
    expect(page.page.get_by_text(sentence("plan.saved"))).to_be_visible()
    assert_strip_is_in_the_file(page, json.loads(experiment.path("plan.json").read_text()))


def go_through_the_history(studio: Studio, step: str, until: list[str]) -> None:
    """Undoes or does again, step by step, to the end."""
    while (now := strip(studio)) != until:
        studio.press(f"plan.{step}")
        wait_until(lambda now=now: strip(studio) != now)
        studio.settle()
    expect(studio.button(f"plan.{step}")).to_be_disabled()


def cut_a_group_by_hand(studio: Studio) -> None:
    """Marks the first kept MLP channel of layer 9 in the table, and cuts it."""
    before = studio.metric("plan.channels_removed").inner_text()
    studio.pick("groups.layers", "9")
    studio.choose("groups.type", "chart.kind.mlp")
    studio.choose("groups.fate", "groups.fate.kept")
    cut = studio.page.get_by_role("button", name=sentence("groups.cut"), exact=True)
    expect(cut).to_be_disabled()
    wait_until(lambda: {row[sentence("table.layer")] for row in studio.grid("groups.alt")} == {"9"})
    table = studio.page.get_by_role("region", name=sentence("groups.alt"), exact=True)
    table.locator("canvas").first.click(
        position={"x": 20, "y": HEADER + ROW_HEIGHT / 2}, force=True
    )  # under the scrollbars' layer
    expect(cut).to_be_enabled()
    cut.click()
    expect(studio.metric("plan.by_hand")).to_have_text("1")
    assert as_number(studio.metric("plan.channels_removed").inner_text()) == as_number(before) + 1
    expect(cut).to_be_disabled()  # another group stands in that row now
    studio.settle()


def as_number(text: str) -> int:
    return int(text.replace(",", ""))


def assert_strip_is_in_the_file(studio: Studio, plan: dict) -> None:
    before, after = plan["parameters"]["before"], plan["parameters"]["after"]
    for label, value in (
        ("plan.target", f"{plan['settings']['pruning_ratio']:.2%}"),
        ("plan.actual", f"{1 - after / before:.2%}"),
        ("plan.parameters", f"{after:,}"),
        ("plan.size", f"{2 * after / 2**20:.1f} MiB"),
        ("plan.heads_removed", f"{sum(4 - len(layer['attention']) for layer in plan['layers']):,}"),
        ("plan.channels_removed", f"{sum(384 - len(layer['mlp']) for layer in plan['layers']):,}"),
        ("plan.layers_removed", "0"),
        ("plan.by_hand", "1"),
    ):
        expect(studio.metric(label)).to_have_text(value)
    assert re.fullmatch(r"9m\d+", plan["by_hand"]) and plan["settings"]["cut_groups"] == plan["by_hand"]


# trying --------------------------------------------------------------------------------------------------------------


def trials_of(experiment: Experiment) -> list[dict]:
    file = experiment.path("trials.json")
    return json.loads(file.read_text())["trials"] if file.is_file() else []


def test_a_preview_gives_the_perplexity_of_the_cut_model(page: Studio, experiment):
    page.choose("plan.section", "plan.section.preview")
    page.enter("setting.eval_windows", str(PREVIEW_WINDOWS))
    preview = page.button("trial.preview")
    preview.click()
    expect(page.button("job.cancel")).to_be_visible()
    known = page.page.get_by_text(re.compile(rf"Perplexity [\d.]+ \(.*{PREVIEW_WINDOWS} windows of 16 tokens\)"))
    expect(known).to_be_visible(timeout=JOB_SECONDS * 1000)
    whole, tried = trials_of(experiment)
    assert whole["digest"] == "whole" and tried["perplexity"] != whole["perplexity"]
    assert f"Perplexity {tried['perplexity']:.2f} (" in known.inner_text()
    assert f"The whole model: {whole['perplexity']:.2f}." in known.inner_text()
    expect(preview).to_be_disabled()  # tried already

    page.press("plan.save")
    expect(page.page.get_by_text(sentence("plan.saved"))).to_be_visible()
    judged = {"eval_windows": PREVIEW_WINDOWS, "test_before_prune": True, "test_after_prune": True, "save_model": False}
    experiment.write_settings(replace(experiment.settings, **judged))
    steps.run("prune", experiment)
    metrics = experiment.metrics()
    [before], [after] = (metrics["perplexity"][stage].values() for stage in ("before", "after"))
    assert metrics["basis"]["windows"] == tried["basis"]["windows"] == PREVIEW_WINDOWS
    assert whole["perplexity"] == pytest.approx(before, rel=1e-4)
    assert tried["perplexity"] == pytest.approx(after, rel=1e-4)
    assert tried["parameters"] == metrics["parameters"]["after"]


def test_a_sweep_is_cancelled_goes_on_and_a_point_is_taken(page: Studio, experiment):
    page.page.get_by_role("slider", name=sentence("setting.pruning_ratio")).press("ArrowLeft")
    page.choose("plan.section", "plan.section.sweep")
    page.enter("setting.eval_windows", str(SWEEP_WINDOWS))
    page.press("trial.sweep.start")
    wait_until(lambda: len(trials_of(experiment)) >= 3)
    with worker_stands_still(experiment.folder, "perplexity"):
        page.press("job.cancel")
        wait_until(experiment.path("cancel").exists)
    expect(page.page.get_by_text(sentence("job.cancelled.kept"))).to_be_visible()
    finished = trials_of(experiment)
    left = 11 - (len(finished) - 1)
    assert 0 < left < 10
    page.page.get_by_role("button", name=sentence("trial.sweep.go_on", points=left)).click()
    expect(page.button("trial.sweep.done")).to_be_disabled(timeout=JOB_SECONDS * 1000)
    trials = trials_of(experiment)
    assert len(trials) == 12 and trials[: len(finished)] == finished
    take_a_point(page, {trial["settings"]["pruning_distribution"]: trial for trial in trials[1:]})


def take_a_point(studio: Studio, by_split: dict[str, dict]) -> None:
    """Clicks the point of the split 2:8 on the curve; the sliders go there, and the plan is the one that was tried."""
    studio.sees_charts(len(CHARTS) + 1)
    plot = studio.page.get_by_role("figure", name=sentence("trial.sweep.alt"), exact=True)
    plot.scroll_into_view_if_needed()
    studio.resting_place(plot)
    trial = by_split["2:8"]
    x, y = plot.evaluate(
        """(node, split) => {
            const { xaxis, yaxis } = node._fullLayout, at = node.getBoundingClientRect()
            const trace = node._fullData.find(trace => trace.mode.includes('lines'))
            const point = trace.customdata.findIndex(data => data[0] === split)
            return [at.x + xaxis._offset + xaxis.d2p(trace.x[point]), at.y + yaxis._offset + yaxis.d2p(trace.y[point])]
        }""",
        "2:8",
    )

    def taken_by_a_click() -> bool:  # a redraw between aiming and pressing loses it, as it does a person's
        hover_and_click(studio, plot, x, y, "x", 0.2)
        with contextlib.suppress(TimeoutError):
            studio.page.wait_for_url(re.compile(r"[?&]split=2"), timeout=15_000)
            return True
        return False

    wait_until(taken_by_a_click)
    expect(studio.metric("plan.parameters")).to_have_text(f"{trial['parameters']:,}")
    assert f"{trial['actual_ratio']:.2%}" == studio.metric("plan.actual").inner_text()
