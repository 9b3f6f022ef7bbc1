"""What a person does in the app, as methods: open a screen, press, read a figure. Waits for what must come, never for time.

Widgets are named by the keys of analysis/text/ and found by their text and role in the language of the tab, as a person
finds them.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, TimeoutError, WebSocket, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from pruning.words import FORMATTER

_TEXT_FOLDER = Path(__file__).resolve().parents[2] / "analysis" / "text"
_TEXTS = {name: json.loads((_TEXT_FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in ("en", "zh")}
_TEXT = _TEXTS["en"]
_PATHS = {
    "model": "",  # the first screen is what the bare address shows
    "importance": "measure-importance",
    "plan": "shape-plan",
    "prune": "cut-model",
    "recover": "win-back",
    "compare": "weigh-results",
    "export": "take-home",
    "learn": "see-why",
}
SCREENS = tuple(_PATHS)
JOB_SECONDS = 240
AS_A_HAND = 100  # ms that a button of the mouse is held; Plotly looks every 50 ms what is under it
_REACHES_THE_SERVER = 100  # ms
MAKES_PICTURES = bool(os.environ.get("PICTURES"))
WINDOW = {"width": 1280, "height": 800}
# What Streamlit draws by itself, and no theme reaches: colours of code, and its scrolling box.
_NOT_OURS = {"exclude": [[".stCode"]]}
FRAMES = Path(__file__).parent / "screenshots" / "frames"


def sentence(key: str, language: str = "en", **values) -> str:
    """The text of a key, with its values filled in if there are any."""
    text = _TEXTS[language][key]
    return FORMATTER.format(text, **values) if values else text


def wait_until(condition: Callable[[], object], seconds: float = JOB_SECONDS) -> None:
    """For what `expect` cannot see: files, or several cells at once. Fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def job_of(experiment: Path) -> dict:
    file = experiment / "job.json"
    return json.loads(file.read_text()) if file.is_file() else {"state": None}


@contextmanager
def worker_stands_still(experiment: Path, step: str = "gradients", unit: str = "") -> Iterator[psutil.Process]:
    """Within the block the worker is stopped in the midst of this step: however slow the page is, the job is not over."""

    def is_under_way() -> bool:
        job = job_of(experiment)
        return job["state"] == "running" and job["step"] == step and unit in ("", job["unit"]) and job["done"] > 0

    wait_until(is_under_way)
    worker = psutil.Process(job_of(experiment)["process"][0])
    worker.suspend()
    assert is_under_way()
    try:
        yield worker
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.resume()


class Studio:
    """One tab with the app in it, in one language."""

    def __init__(self, page: Page, url: str, screenshots: Path, language: str = "en"):
        self.page = page
        self.url = url
        self.screenshots = screenshots
        self.language = language
        self._is_waiting = False  # a run of the script was asked for, and has not come to its end
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", self._hears_the_page)
        socket.on("framereceived", self._hears_the_server)

    def _hears_the_page(self, frame: bytes | str) -> None:
        if isinstance(frame, bytes) and BackMsg.FromString(frame).WhichOneof("type") == "rerun_script":
            self._is_waiting = True

    def _hears_the_server(self, frame: bytes | str) -> None:
        if isinstance(frame, bytes):
            said = ForwardMsg.FromString(frame)
            if said.WhichOneof("type") == "script_finished" and said.script_finished != said.FINISHED_EARLY_FOR_RERUN:
                self._is_waiting = False

    def said(self, key: str, **values) -> str:
        """The text of a key in the language of the tab."""
        return sentence(key, self.language, **values)

    def pattern(self, key: str, whole: bool = False) -> re.Pattern:
        """Finds the text of a key whatever values stand in it."""
        text = re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(self.said(key)))
        return re.compile(f"^{text}$" if whole else text)

    # moving about -------------------------------------------------------------------------------------------------

    def open(self, screen: str, **query: str) -> None:
        """Opens a screen by its address, as a link does: a new session."""
        self.page.goto(f"{self.url}/{_PATHS[screen]}?{'&'.join(f'{key}={value}' for key, value in query.items())}")
        self._arrive(screen)

    def go(self, screen: str) -> None:
        """Goes to a screen by the sidebar, within the session."""
        self.page.get_by_test_id("stSidebarNav").get_by_role("link", name=self.said(f"{screen}.title"), exact=True).click()
        self._arrive(screen)

    def follow(self, key: str, screen: str) -> None:
        """Clicks a link that leads to a screen."""
        self.page.get_by_role("link", name=self.said(key), exact=True).click()
        self._arrive(screen)

    def follow_the_tour(self, screen: str) -> None:
        """Clicks the link to the next stop of the guided tour."""
        self.page.get_by_role("link", name=self.said("tour.next", page=self.said(f"{screen}.title"))).click()
        self._arrive(screen)

    def _arrive(self, screen: str) -> None:
        expect(self.page.get_by_role("heading", name=self.said(f"{screen}.title"), level=1, exact=True)).to_be_visible()
        self.settle()

    def settle(self) -> None:
        """Waits until the script has run and nothing on the page is left over from before."""
        for _ in range(2):  # what was just pressed may not have left the page at the first look
            while self._is_waiting:  # the page itself does not know before the server says that it has begun
                self.page.wait_for_timeout(_REACHES_THE_SERVER)
            expect(self.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_visible()
            expect(self.page.locator('[data-stale="true"]')).to_have_count(0)
            self.page.wait_for_timeout(_REACHES_THE_SERVER)

    def resting_place(self, locator: Locator) -> dict:
        """Where something stands once nothing above it moves it any more."""
        seen = []

        def rests() -> bool:
            self.settle()
            seen.append(locator.bounding_box())
            self.page.wait_for_timeout(200)
            return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

        wait_until(rests, 60)
        return seen[-1]

    # pressing and typing ------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        self.button(key).click()

    def button(self, key: str) -> Locator:
        return self.page.get_by_role("button", name=self.pattern(key))

    def field(self, key: str) -> Locator:
        """A text or number field by its label; the unit behind the label does not matter."""
        name = re.compile(f"^{re.escape(self.said(key))}( \\(|$)")
        return self.page.get_by_role("textbox", name=name).or_(self.page.get_by_role("spinbutton", name=name)).first

    def enter(self, key: str, value: str) -> None:
        """Types into a field and leaves it with Enter."""
        self.field(key).fill(value)
        self.field(key).press("Enter")
        self.settle()

    def pick(self, key: str, *values) -> None:
        """Picks values in a list that takes several."""
        box = self.page.get_by_role("combobox", name=self.said(key), exact=True)
        box.scroll_into_view_if_needed()
        for value in values:
            wait_until(lambda option=str(value): self._picked(box, option))
        box.press("Escape")
        self.settle()

    def _picked(self, box: Locator, option: str) -> bool:
        """Types and clicks the option that comes up; False when the list closed under the hand, as scrolling makes it."""
        box.fill(option)
        try:
            self.page.get_by_role("option", name=option, exact=True).click(timeout=5_000)
        except TimeoutError:
            return False
        expect(self.page.get_by_test_id("stMultiSelectTagsContainer").get_by_text(option, exact=True)).to_be_visible()
        return True

    def choose(self, key: str, option: str) -> None:
        """Presses one of the buttons of a segmented control."""
        group = self.page.get_by_role("radiogroup", name=self.said(key), exact=True)
        group.get_by_role("radio", name=self.said(option), exact=True).click()
        self.settle()

    def expand(self, key: str) -> None:
        """Opens an expander, if it is closed."""
        expander = self.page.get_by_test_id("stExpander").filter(has_text=self.said(key)).locator("details")
        if expander.get_attribute("open") is None:
            expander.locator("summary").click()

    def download(self, key: str, target: Path) -> Path:
        with self.page.expect_download() as download:
            self.press(key)
        download.value.save_as(target)
        return target

    def fetch(self, key: str, target: Path) -> Path:
        """Follows a link that downloads a file."""
        with self.page.expect_download() as download:
            self.link(key).click()
        download.value.save_as(target)
        return target

    def link(self, key: str) -> Locator:
        return self.page.get_by_role("link", name=self.pattern(key))

    # reading ------------------------------------------------------------------------------------------------------

    def metric(self, key: str) -> Locator:
        """The value of the metric with this label."""
        label = self.page.get_by_test_id("stMetricLabel").filter(has_text=self.pattern(key, whole=True))
        return self.page.get_by_test_id("stMetric").filter(has=label).get_by_test_id("stMetricValue")

    def grid(self, alt_key: str) -> list[dict[str, str]]:
        """The rows of a table that are on screen, from what a screen reader is given."""
        table = self.page.get_by_role("region", name=self.said(alt_key), exact=True).locator("table[role=grid]")
        expect(table.locator("tbody td").first).to_be_attached()
        heads, *rows = table.evaluate(  # at one moment: the table may change between two questions
            """table => [
                [...table.querySelectorAll('th')].map(cell => cell.innerText),
                ...[...table.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent)),
            ]"""
        )
        return [dict(zip(heads, row, strict=True)) for row in rows]

    def alerts(self, kind: str = "Error") -> Locator:
        return self.page.get_by_test_id(f"stAlertContent{kind}")

    def sees_charts(self, count: int) -> None:
        """Waits until there are so many charts, each with something in it."""
        expect(self.page.locator(".plotly-view")).to_have_count(count)
        self._charts_are_drawn()

    def screenshot(self, name: str, of_a_running_job: bool = False) -> None:
        """A picture of the whole screen, its charts drawn; no key of a text may show on it."""
        if not of_a_running_job:
            self.settle()
            self._charts_are_drawn()
        shown = self.page.locator("body").inner_text()
        assert not [key for key in _TEXT if re.search(rf"(?<![\w./-]){re.escape(key)}(?![\w./-])", shown)]
        # The page scrolls in an inner container, so a picture of the whole needs a window as tall as its content.
        usual = self.page.viewport_size
        height = self.page.get_by_test_id("stMain").evaluate("main => main.scrollHeight")
        self.page.set_viewport_size(usual | {"height": max(height, usual["height"])})
        self.page.screenshot(path=self.screenshots / f"{name}.png")
        self.page.set_viewport_size(usual)

    def turn_light(self) -> None:
        """As when a person's system does, which the page follows."""
        app = self.page.get_by_test_id("stApp")
        dark = app.evaluate("app => getComputedStyle(app).backgroundColor")
        self.page.emulate_media(color_scheme="light")
        expect(app).not_to_have_css("background-color", dark)
        self.settle()

    def findings(self) -> list[str]:
        """Serious and critical ones of axe-core: the rule, where, and what was found there."""
        # A colour on its way to another is neither.
        self.page.wait_for_function("() => !document.getAnimations().some(each => each instanceof CSSTransition)")
        violations = Axe().run(self.page, _NOT_OURS).response["violations"]
        return [
            f"{violation['id']}: {node['html'][:200]} {[check.get('data') for check in node['any']]}"
            for violation in violations
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    def frame(self, name: str, at: str | None = None) -> None:
        """A picture of what a usual window shows, scrolled to the heading with these words: one of the README's animation.

        Only when pictures are made; the charts of a page are drawn anew for it.
        """
        if not MAKES_PICTURES:
            return
        self.settle()
        self._charts_are_drawn()
        usual = self.page.viewport_size
        self.page.set_viewport_size(WINDOW)
        main = self.page.get_by_test_id("stMain")
        if at is None:
            main.evaluate("main => main.scrollTo(0, 0)")
        else:
            self.page.get_by_role("heading", name=self.pattern(at)).evaluate("heading => heading.scrollIntoView()")
        self.settle()
        FRAMES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=FRAMES / f"{name}.png")
        self.page.set_viewport_size(usual)

    def _charts_are_drawn(self) -> None:
        self.page.wait_for_function(
            """() => [...document.querySelectorAll('.plotly-view')].every(place => {
                const chart = place.querySelector('.js-plotly-plot')
                return chart?._fullData?.some(trace => (trace.y ?? trace.z ?? trace.dimensions)?.length)
                    && chart.querySelector(
                        '.barlayer path, .heatmaplayer image, .scatterlayer :is(path, text), .gl-canvas, .parcoords'
                    )
            })"""
        )
