"""The real server and a real browser: `streamlit run app.py` on a free port of 127.0.0.1, Debian's chromium headless, let in
by the link that the start prints.

One server per test process, its experiments in a folder of its own; every request of every page is written down. A test
that looks at all experiments there are starts one for itself.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.studio import Studio

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-sync", "--disable-component-update"),
)
_SECONDS_TO_START = 120
_PATIENCE = 60_000  # ms for what a page shows at once on an idle machine

expect.set_options(timeout=_PATIENCE)


@dataclass
class Server:
    """A running app: the link that its start printed, its folder of experiments, and its process."""

    link: str
    output_root: Path
    process: psutil.Process
    requested: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)  # what the browser says that the page's policy kept it from

    @property
    def url(self) -> str:
        return self.link.partition("?")[0].rstrip("/")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def cookie(self) -> str:
        """What a browser that opened the link sends along."""
        return f"pruning-studio-{self.port}={self.link.partition('token=')[2]}"


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    with running_app(tmp_path_factory) as running:
        yield running


@contextmanager
def running_app(tmp_path_factory, *options: str, **environment: str) -> Iterator[Server]:
    """The app with an empty folder of experiments, until the block ends; `options` come last on its command line."""
    output_root = tmp_path_factory.mktemp("experiments")
    log = tmp_path_factory.mktemp("server") / "server.log"
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    environment = os.environ | {"PRUNING_OUTPUT_ROOT": str(output_root)} | environment
    with log.open("wb") as output:
        started = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=output, stderr=output)
    process = psutil.Process(started.pid)
    try:
        yield Server(_wait_until_up(started, log, lambda: _printed_link(log)), output_root, process)
    finally:
        _end(process)
        started.wait()
        print(*_without_requests(log), sep="\n")  # pytest shows it when a test failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails leaves a picture of its screens."""
    report = yield
    if report.when == "call" and report.failed:
        for name, argument in getattr(item, "funcargs", {}).items():
            if isinstance(argument, Studio) and not argument.page.is_closed():
                argument.page.screenshot(path=SCREENSHOTS / f"failed_{item.name}_{name}.png")
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_chromium(), args=_CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def new_context(server: Server, browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes a browser context of a person who opened the link; what its pages ask for is kept in `server.requested`.

    Fails when a page wanted what the server's policy forbids.
    """
    contexts = []

    def make(at: Server = server, **options) -> BrowserContext:
        usual = {"viewport": {"width": 1280, "height": 2600}, "accept_downloads": True, "locale": "en-US"}
        context = browser.new_context(**usual | options)
        context.set_default_timeout(_PATIENCE)
        context.on("request", lambda request: server.requested.append(request.url))
        context.on("console", lambda said: "Content Security Policy" in said.text and server.forbidden.append(said.text))
        contexts.append(context)
        assert context.request.get(at.link).ok
        return context

    yield make
    for context in contexts:
        context.close()
    assert server.forbidden == []


@pytest.fixture(scope="session")
def studio(server: Server, new_context) -> Studio:
    """The app in one tab that stays open."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return Studio(new_context().new_page(), server.url, SCREENSHOTS)


def _chromium() -> str:
    for name in _CHROMIUM_NAMES:
        if path := shutil.which(name):
            return path
    reason = f"no chromium: none of {', '.join(_CHROMIUM_NAMES)} is installed (Debian: apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _printed_link(log: Path) -> str | None:
    """The link that the start prints once the port listens."""
    found = re.search(r"http://\S+(?=\s)", log.read_text(errors="replace"))
    return found and found[0]


def _wait_until_up(started: subprocess.Popen, log: Path, sign: Callable[[], object]) -> object:
    """What `sign` gives once it gives something."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and started.poll() is None:
        if found := sign():
            return found
        time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')}")


def is_healthy(url: str) -> bool:
    """Of an app without the gate."""
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _without_requests(log: Path) -> list[str]:
    return [line for line in log.read_text(errors="replace").splitlines() if '"GET /' not in line]


def _end(process: psutil.Process) -> None:
    """Ends the server and its workers, each by its process id."""
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=5)
    for member in alive:
        member.kill()
