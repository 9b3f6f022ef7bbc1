"""What happens when the server starts: a token is drawn, the link that carries it is printed and opened in a browser.

    streamlit run app.py                  Open http://localhost:8501/?token=... - Ctrl-C stops the app.
    streamlit run app.py -- --no-token    Open http://localhost:8501/

Beyond this machine it also says what a visitor can do. Knows nothing of requests: gate.py does.
"""

import argparse
import contextlib
import logging
import os
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from html import escape
from pathlib import Path

import streamlit as st

from ui import access, gate
from ui.translation import words

_ROOT = Path(__file__).resolve().parents[1]


def token(arguments: list[str]) -> str | None:
    """A new random token, None where `--no-token` was given; any other argument ends the start with a line on the usage."""
    parser = argparse.ArgumentParser(prog="streamlit run app.py --", description="What the app itself takes.")
    parser.add_argument("--no-token", action="store_true", help="let in everyone who reaches the port, without the start link")
    return None if parser.parse_args(arguments).no_token else secrets.token_urlsafe(32)


def lifespan(token: str | None) -> Callable[[st.App], contextlib.AbstractAsyncContextManager[None]]:
    """What `st.App` runs around the time the server answers: the port is known and listens already."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it names an address without the token
    if access.is_beyond_loopback():
        access.leave_own_token_out()

    @contextlib.asynccontextmanager
    async def running(app: st.App) -> AsyncIterator[None]:
        link = start_link(token)
        print(told(link, token), flush=True)
        with contextlib.nullcontext() if st.get_option("server.headless") else _opened(link):
            yield

    return running


def start_link(token: str | None) -> str:
    """The address to open, by the name under which this server may be asked."""
    scheme = "https" if st.get_option("server.sslCertFile") else "http"
    host, port = _host(), st.get_option("browser.serverPort")
    folder = (st.get_option("server.baseUrlPath") or "").strip("/")
    query = f"?{gate.IN_LINK}={token}" if token else ""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{f'{folder}/' if folder else ''}{query}"


def _host() -> str:
    """The first name for other machines that `server.allowedHosts` lets in, where there are others; else that of this one."""
    names = [name for name in st.get_option("server.allowedHosts") or [] if "*" not in name]
    names_for_others = [name for name in names if access.is_beyond_loopback(name)]
    if access.is_beyond_loopback() and names_for_others:
        return names_for_others[0]
    return st.get_option("browser.serverAddress")


def told(link: str, token: str | None) -> str:
    """What the start prints; the link comes last."""
    from ui import workspace  # its caches want the server to be there

    lines = [words("start.open", link=link)]
    if access.is_beyond_loopback():
        roots = ", ".join(str(root) for root in access.allowed_roots())
        output_root = workspace.output_root().resolve()
        who = words("start.who.link" if token else "start.who.port")
        lines = [words("start.visitors", who=who, roots=roots, output_root=output_root), "", *lines]
    elif not token:
        lines = [words("start.no_token"), *lines]
    return "\n".join(["", *lines, ""])


@contextlib.contextmanager
def _opened(link: str) -> Iterator[None]:
    """Opens a file that redirects to the link; it exists until the block ends.

    Not the link itself: the other accounts of a machine can read the command line of the browser, but not this file.
    """
    page = f'<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={escape(link)}">'
    try:  # beside the app, for browsers in a sandbox see no temporary folder
        descriptor, name = tempfile.mkstemp(".html", ".start-", _ROOT)
    except OSError:
        descriptor, name = tempfile.mkstemp(".html", ".start-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(page)
    threading.Thread(target=webbrowser.open, args=(Path(name).as_uri(),), daemon=True).start()  # some wait for the browser
    try:
        yield
    finally:
        Path(name).unlink(missing_ok=True)
