"""What a person does in the app, as methods: open a screen, press, read a figure. Waits for what must come, never for time.

Widgets are named by the keys of ui/text/en.json and found by their text and role, as a person finds them.
"""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, TimeoutError, expect

_TEXT = json.loads((Path(__file__).resolve().parents[2] / "ui" / "text" / "en.json").read_text(encoding="utf-8"))
_PATHS = {
    "model": "",  # the first screen is what the bare address shows
    "importance": "measure-importance",
    "plan": "shape-plan",
    "prune": "cut-model",
    "export": "take-home",
}
SCREENS = tuple(_PATHS)
JOB_SECONDS = 240


def sentence(key: str, **values) -> str:
    """The English text of a key, with its values filled in if there are any."""
    return _TEXT[key].format(**values) if values else _TEXT[key]


def wait_until(condition: Callable[[], object], seconds: float = JOB_SECONDS) -> None:
    """For what `expect` cannot see: files, or several cells at once. Fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


class Studio:
    """One tab with the app in it."""

    def __init__(self, page: Page, url: str, screenshots: Path):
        self.page = page
        self.url = url
        self.screenshots = screenshots

    # moving about -------------------------------------------------------------------------------------------------

    def open(self, screen: str, **query: str) -> None:
        """Opens a screen by its address, as a link does: a new session."""
        self.page.goto(f"{self.url}/{_PATHS[screen]}?{'&'.join(f'{key}={value}' for key, value in query.items())}")
        self._arrive(screen)

    def go(self, screen: str) -> None:
        """Goes to a screen by the sidebar, within the session."""
        self.page.get_by_test_id("stSidebarNav").get_by_role("link", name=sentence(f"{screen}.title"), exact=True).click()
        self._arrive(screen)

    def follow(self, key: str, screen: str) -> None:
        """Clicks a link that leads to a screen."""
        self.page.get_by_role("link", name=sentence(key), exact=True).click()
        self._arrive(screen)

    def _arrive(self, screen: str) -> None:
        expect(self.page.get_by_role("heading", name=sentence(f"{screen}.title"), level=1, exact=True)).to_be_visible()
        self.settle()

    def settle(self) -> None:
        """Waits until the script has run and nothing on the page is left over from before."""
        expect(self.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_visible()
        expect(self.page.locator('[data-stale="true"]')).to_have_count(0)

    # pressing and typing ------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        self.button(key).click()

    def button(self, key: str) -> Locator:
        return self.page.get_by_role("button", name=_pattern(key))

    def field(self, key: str) -> Locator:
        """A text or number field by its label; the unit behind the label does not matter."""
        name = re.compile(f"^{re.escape(sentence(key))}( \\(|$)")
        return self.page.get_by_role("textbox", name=name).or_(self.page.get_by_role("spinbutton", name=name)).first

    def enter(self, key: str, value: str) -> None:
        """Types into a field and leaves it with Enter."""
        self.field(key).fill(value)
        self.field(key).press("Enter")
        self.settle()

    def pick(self, key: str, *values) -> None:
        """Picks values in a list that takes several."""
        box = self.page.get_by_role("combobox", name=sentence(key), exact=True)
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
        group = self.page.get_by_role("radiogroup", name=sentence(key), exact=True)
        group.get_by_role("radio", name=sentence(option), exact=True).click()
        self.settle()

    def expand(self, key: str) -> None:
        """Opens an expander, if it is closed."""
        expander = self.page.get_by_test_id("stExpander").filter(has_text=sentence(key)).locator("details")
        if expander.get_attribute("open") is None:
            expander.locator("summary").click()

    def download(self, key: str, target: Path) -> Path:
        with self.page.expect_download() as download:
            self.press(key)
        download.value.save_as(target)
        return target

    # reading ------------------------------------------------------------------------------------------------------

    def metric(self, key: str) -> Locator:
        """The value of the metric with this label."""
        label = self.page.get_by_test_id("stMetricLabel").filter(has_text=_pattern(key, whole=True))
        return self.page.get_by_test_id("stMetric").filter(has=label).get_by_test_id("stMetricValue")

    def grid(self, alt_key: str) -> list[dict[str, str]]:
        """The rows of a table that are on screen, from what a screen reader is given."""
        table = self.page.get_by_role("region", name=sentence(alt_key), exact=True).locator("table[role=grid]")
        expect(table.locator("tbody td").first).to_be_attached()
        heads = table.locator("th").all_inner_texts()
        rows = table.locator("tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")
        return [dict(zip(heads, row, strict=True)) for row in rows]

    def alerts(self, kind: str = "Error") -> Locator:
        return self.page.get_by_test_id(f"stAlertContent{kind}")

    def sees_charts(self, count: int) -> None:
        """Waits until there are so many charts, each with something in it."""
        expect(self.page.get_by_test_id("stPlotlyChart")).to_have_count(count)
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

    def _charts_are_drawn(self) -> None:
        self.page.wait_for_function(
            """() => [...document.querySelectorAll('[data-testid="stPlotlyChart"]')].every(place => {
                const chart = place.querySelector('.js-plotly-plot')
                return chart?._fullData?.some(trace => (trace.y ?? trace.z)?.length)
                    && chart.querySelector('.barlayer path, .heatmaplayer image, .scatterlayer path, .gl-canvas')
            })"""
        )


def _pattern(key: str, whole: bool = False) -> re.Pattern:
    """Finds the text of a key whatever values stand in it."""
    text = re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(sentence(key)))
    return re.compile(f"^{text}$" if whole else text)
