"""The real server and a real browser: `streamlit run app.py` on a free port of 127.0.0.1, Debian's chromium headless.

One server per test process, its experiments in a folder of its own; every request of every page is written down. A test
that looks at all experiments there are starts one for itself.
"""

import os
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
    """A running app: its address, its folder of experiments, and its process."""

    url: str
    output_root: Path
    process: psutil.Process
    requested: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    with running_app(tmp_path_factory) as running:
        yield running


@contextmanager
def running_app(tmp_path_factory) -> Iterator[Server]:
    """The app with an empty folder of experiments, until the block ends."""
    output_root = tmp_path_factory.mktemp("experiments")
    log = tmp_path_factory.mktemp("server") / "server.log"
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PRUNING_OUTPUT_ROOT": str(output_root)}, stdout=output, stderr=output
        )
    process = psutil.Process(started.pid)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, started, log)
        yield Server(url, output_root, process)
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
    """Makes a browser context as a new visitor has it; what its pages ask for is kept in `server.requested`."""
    contexts = []

    def make(**options) -> BrowserContext:
        usual = {"viewport": {"width": 1280, "height": 2600}, "accept_downloads": True, "locale": "en-US"}
        context = browser.new_context(**usual | options)
        context.set_default_timeout(_PATIENCE)
        context.on("request", lambda request: server.requested.append(request.url))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()


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


def _wait_until_healthy(url: str, started: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        if started.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')}")


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
