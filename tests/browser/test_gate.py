"""Who the real server lets in: who has its link, from its own pages, never in a frame; by plain requests and by a browser."""

import http.client
import re
import stat
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server, running_app
from tests.browser.studio import Studio, sentence, wait_until

PATHS = {
    "page": "/",
    "screen": "/shape-plan?ratio=0.3",
    "health": "/_stcore/health",
    "configuration": "/_stcore/host-config",
    "upload": "/_stcore/upload_file/x/y",
    "media": "/media/x.png",
    "script": "/plotly-7.min.js",
    "download": "/download/token/model.zip",
    "websocket": "/_stcore/stream",
}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}


def asked(server: Server, path: str, **headers: str) -> http.client.HTTPResponse:
    """What the server answers; names of headers are written with `_` for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    upgrade = UPGRADE if path == PATHS["websocket"] else {}
    own = {"Host": f"localhost:{server.port}"}
    connection.request("GET", path, headers=own | upgrade | {name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def own_origin(server: Server) -> dict[str, str]:
    """What a browser says of the app's own pages."""
    return {"Origin": server.url}


# plain requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_without_the_token_nothing_is_served(server, path):
    for headers in ({}, {"Cookie": f"pruning-studio-{server.port}=guessed"}, {"Cookie": server.cookie.replace("studio", "x")}):
        assert asked(server, path, **own_origin(server), **headers).status == 403


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_another_origin_is_refused_even_with_the_cookie(server, path):
    others = (f"http://localhost:{server.port + 1}", f"http://127.0.0.1:{server.port}", "http://example.com", "null")
    for origin in others:
        assert asked(server, path, Origin=origin, Cookie=server.cookie).status == 403, origin


def test_the_cookie_and_the_own_origin_open_everything(server):
    for name, path in PATHS.items():
        status = asked(server, path, **own_origin(server), Cookie=server.cookie).status
        assert status == 101 if name == "websocket" else status != 403, name
    assert asked(server, PATHS["page"], Cookie=server.cookie).status == 200
    assert asked(server, PATHS["websocket"], Cookie=server.cookie).status == 403  # browsers name the origin of each of these


def test_what_another_page_embeds_is_refused_and_what_opens_in_a_tab_is_not(server):
    for mode, dest, status in (("no-cors", "image", 403), ("navigate", "iframe", 403), ("navigate", "document", 200)):
        for site in ("same-site", "cross-site"):
            told = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": dest}
            assert asked(server, "/", Cookie=server.cookie, **told).status == status, told


def test_every_answer_forbids_frames_and_anything_from_outside(server):
    for cookie in ("", server.cookie):
        headers = asked(server, "/", Cookie=cookie).headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and headers["X-Frame-Options"] == "DENY"
        assert "img-src 'self' data: blob:;" in policy and policy.startswith("default-src 'self';") and "http" not in policy
        assert headers["Referrer-Policy"] == "no-referrer" and headers["X-Content-Type-Options"] == "nosniff"


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(server):
    token = server.cookie.partition("=")[2]
    answer = asked(server, f"/shape-plan?ratio=0.3&token={token}&model=a%2Fb")
    page = answer.read().decode()
    set_cookie = answer.headers["Set-Cookie"]
    assert set_cookie.startswith(server.cookie)
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split("; *", set_cookie))
    assert 'url=./shape-plan?ratio=0.3&amp;model=a%2Fb"' in page and token not in page


def test_a_wrong_token_gets_one_sentence_in_the_language_of_the_browser(server):
    assert len(server.cookie.partition("=")[2]) >= 32
    for language, spoken in (("en", "de, en"), ("zh", "zh-CN,zh;q=0.9")):
        answer = asked(server, "/?token=wrong", Accept_Language=spoken)
        assert (answer.status, answer.read().decode()) == (403, sentence("gate.token", language))
        assert answer.headers["Set-Cookie"] is None


def test_the_language_in_the_address_goes_before_that_of_the_browser(server):
    answer = asked(server, "/shape-plan?lang=zh", Accept_Language="en")
    assert answer.read().decode() == sentence("gate.token", "zh")


def test_an_old_link_keeps_nobody_out_who_is_in_and_no_spelling_of_the_token_stays(server):
    token = server.cookie.partition("=")[2]
    for link in ("/shape-plan?token=old&ratio=0.3", f"/shape-plan?%74oken={token}&ratio=0.3"):
        answer = asked(server, link, Cookie=server.cookie)
        page = answer.read().decode()
        assert answer.status == 200 and 'url=./shape-plan?ratio=0.3"' in page and token not in page


# a browser ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_site() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server at other ports of this machine; its pages by their path."""
    pages = {}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield str(site.server_port), pages
        site.shutdown()
        thread.join()


def test_the_link_opens_the_app_in_a_new_browser(server, browser, other_site):
    """Typed or printed, and clicked on a page of another site, from which browsers hold strict cookies back."""
    port, pages = other_site
    pages["/mail"] = f'<a href="{server.link}&lang=zh">the link</a>'.encode()
    for arrive in (lambda tab: tab.goto(f"{server.link}&lang=zh"), partial(click_on, f"http://127.0.0.1:{port}/mail")):
        context = browser.new_context()
        tab = context.new_page()
        arrive(tab)
        expect(tab.get_by_role("heading", level=1)).to_have_text(sentence("model.title", "zh"))
        assert "token" not in tab.url and "lang=zh" in tab.url
        tab.goto(f"{server.url}/win-back")
        expect(tab.get_by_test_id("stApp")).to_be_visible()
        context.close()


def click_on(address: str, tab: Page) -> None:
    tab.goto(address)
    tab.get_by_role("link").click()


def test_without_the_link_a_browser_is_told_what_to_do(server, browser):
    context = browser.new_context(locale="en-US")
    tab = context.new_page()
    assert tab.goto(server.url).status == 403
    assert tab.locator("body").inner_text() == sentence("gate.token")
    context.close()


def test_pages_of_other_ports_reach_nothing_with_the_cookie_of_the_browser(server, browser, other_site):
    port, pages = other_site
    context = browser.new_context()
    page = context.new_page()
    app = f"localhost:{server.port}"
    pages["/"] = f"""<iframe src="http://{app}/"></iframe><script>
        window.socket = new Promise(done => {{
            const socket = new WebSocket("ws://{app}/_stcore/stream", ["streamlit"]);
            socket.onopen = () => done("open");
            socket.onerror = () => done("refused");
        }});
        window.script = new Promise(done => {{
            const script = document.createElement("script");
            script.src = "http://{app}/_stcore/health";
            script.onload = () => done("loaded");
            script.onerror = () => done("refused");
            document.head.append(script);
        }});
    </script>""".encode()
    page.goto(server.link)
    expect(page.get_by_test_id("stApp")).to_be_visible()
    page.goto(f"http://localhost:{port}/")  # the same site, as browsers see it: the cookie goes along
    assert page.evaluate("socket") == "refused"
    assert page.evaluate("script") == "refused"
    frame = page.frames[1]
    frame.wait_for_load_state()
    assert frame.get_by_test_id("stApp").count() == 0 and "Streamlit" not in frame.content()
    context.close()


# other starts ---------------------------------------------------------------------------------------------------------


def test_where_there_is_a_screen_the_link_is_opened_and_no_other_account_reads_it(tmp_path, tmp_path_factory):
    """The browser is handed a file; the command line of a process is there for every account to read."""
    opened = tmp_path / "opened"
    program = tmp_path / "a browser.py"
    program.write_text(f"import pathlib, sys; pathlib.Path({str(opened)!r}).write_text(sys.argv[1])")
    browser = f"'{sys.executable}' '{program}' %s &"
    with running_app(tmp_path_factory, "--server.headless", "false", BROWSER=browser) as server:
        wait_until(lambda: opened.is_file() and opened.read_text())
        page = Path(opened.read_text().removeprefix("file://"))
        assert server.link in page.read_text()
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert not page.exists()


def test_started_without_a_token_it_opens_without_a_link_and_refuses_other_pages_all_the_same(tmp_path_factory, browser):
    with running_app(tmp_path_factory, "--", "--no-token") as server:
        assert "token" not in server.link
        assert asked(server, "/").status == 200
        assert asked(server, PATHS["websocket"], **own_origin(server)).status == 101
        assert asked(server, PATHS["websocket"], Origin="http://localhost:1").status == 403
        assert asked(server, "/").headers["X-Frame-Options"] == "DENY"
        context = browser.new_context(locale="en-US")
        studio = Studio(context.new_page(), server.url, server.output_root)
        studio.open("model")
        context.close()
