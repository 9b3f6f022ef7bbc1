"""Who may talk to the app: only who came by the start link, only from the app's own pages, and never inside a frame.

    http://localhost:8501/shape-plan?token=...&ratio=0.3   the right token: a page that sets a cookie and redirects to ...
    http://localhost:8501/shape-plan?ratio=0.3             the cookie: served
                                                           a wrong token, no cookie, another page's request: 403

The same for pages, websocket, uploads, downloads, scripts and health, since it comes before all of them. Without a token
(`--no-token`) only the check of the cookie is left out.

What it cannot do: browsers send a cookie to every port of its host, so a person who opens the page of another account on
this machine under the same host name gives it the cookie. And it trusts no header of a proxy: one in front must pass on the
Host header as the browser sent it.
"""

import base64
import functools
import hashlib
import hmac
import re
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote_plus

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui import language
from ui.translation import sentences

IN_LINK = "token"
_NOT_KEPT = {"Cache-Control": "no-store"}
_GO_ON = '<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={there}"><a href="{there}">{there}</a>'


class Gate:
    """ASGI middleware; `token` None accepts every request that comes from the app's own pages."""

    def __init__(self, app: ASGIApp, token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = self._answer(HTTPConnection(scope))
        if answer is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the browser sees a 403
            return
        await (answer or self._app)(scope, receive, functools.partial(_send_guarded, send))

    def _answer(self, asked: HTTPConnection) -> Response | None:
        """What to answer instead of the app; None lets the request through."""
        if not (_is_from_own_page(asked) and _is_no_part_of_another(asked)):
            return _refusal(asked, "gate.other_page")
        if self._token is None:
            return None
        is_known = self._is_token(asked.cookies.get(_cookie_name(asked), ""))
        if IN_LINK in asked.query_params:  # an old link from a history does not lock out a valid cookie
            is_known |= self._is_token(asked.query_params[IN_LINK])
            return _go_on(asked, self._token) if is_known else _refusal(asked, "gate.token")
        return None if is_known else _refusal(asked, "gate.token")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _is_from_own_page(asked: HTTPConnection) -> bool:
    """Whether host and port of the page that asks are those it asks. Browsers name it for every websocket and every POST.

    Streamlit's own check takes any port of localhost for its own.
    """
    origin = asked.headers.get("origin")
    if origin is None:
        return asked.scope["type"] == "http"
    return origin.partition("://")[2].lower() == asked.headers.get("host", "none").lower()


def _is_no_part_of_another(asked: HTTPConnection) -> bool:
    """Whether this is a page that opens in its own tab, or what such a page needs. Browsers say so on https and localhost."""
    fetched = {name: asked.headers.get(f"sec-fetch-{name}") for name in ("site", "mode", "dest")}
    is_own = fetched["site"] in (None, "none", "same-origin")
    return is_own or (fetched["mode"] == "navigate" and fetched["dest"] == "document")


def _cookie_name(asked: HTTPConnection) -> str:
    """With the port that the browser sees, since cookies ignore ports and several servers may share a host."""
    host = asked.headers.get("host", "")
    return f"pruning-studio-{re.sub('[^0-9]', '', host.rpartition(':')[2]) or 'default'}"


def _go_on(asked: HTTPConnection, token: str) -> Response:
    """Sets the cookie and redirects to the same address without the token.

    By a page, not by a redirect: after a click on a page of another site, browsers withhold a strict cookie through all
    redirects. The address is relative, whatever a proxy puts before it.
    """
    parts = asked.scope["query_string"].decode("latin-1").split("&")
    kept = [part for part in parts if unquote_plus(part.partition("=")[0]) != IN_LINK]
    there = escape(f"./{quote(asked.scope['path'].rpartition('/')[2])}{'?' if any(kept) else ''}{'&'.join(kept)}")
    response = HTMLResponse(_GO_ON.format(there=there), headers=_NOT_KEPT)
    response.set_cookie(
        _cookie_name(asked),
        token,
        path=f"/{(st.get_option('server.baseUrlPath') or '').strip('/')}",
        secure=asked.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


def _refusal(asked: HTTPConnection, key: str) -> Response:
    """A page of one sentence, in the language that the address asks for, or else the first one of the browser."""
    asked_for = asked.query_params.get("lang")
    of_browser = language.of_locale(asked.headers.get("accept-language", "").partition(",")[0])
    spoken = asked_for if asked_for in language.LANGUAGES else of_browser
    return PlainTextResponse(sentences(spoken)[key], 403, headers=_NOT_KEPT)


async def _send_guarded(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        MutableHeaders(scope=message).update(_guards())
    await send(message)


@functools.cache
def _guards() -> dict[str, str]:
    """Headers of every answer: never in a frame, nothing from outside, no address passed on."""
    policy = {
        "default-src": "'self'",
        # Streamlit runs the script of a component from a blob, and Plotly compiles the shaders of its parallel coordinates.
        "script-src": f"'self' blob: 'unsafe-eval' {' '.join(_scripts_in_the_page())}",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "media-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "frame-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _scripts_in_the_page() -> list[str]:
    """The inline scripts of Streamlit's page, each as the policy names it: by its hash."""
    page = (Path(st.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    found = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in found]
