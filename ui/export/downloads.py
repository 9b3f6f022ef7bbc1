"""Files on their way to the browser, of any size: a route streams them, reached by a random link for one file and one hour.

    downloads.address(path, name)  ->  download/<token>/<name>      GET, whole or a range: the file, a part at a time
                                                                    a guessed token: 404        an old one: 410

Streamlit's own download button holds the file in memory.
"""

import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ui.translation import t

SECONDS_VALID = 3600
_RENEW_BEFORE = 1800  # a page that is drawn again shows a link that is good for at least so long
_MOST_OFFERS = 1000  # the oldest are forgotten first: they give 404 then
_HEADERS = {
    "Content-Encoding": "identity",  # what is compressed on the way cannot be continued
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class _Offer:
    path: Path
    version: tuple[int, int]  # time of change and size: a file that was written again is another one
    expires: float


class _InPieces(FileResponse):
    chunk_size = 2**20


_offers: dict[str, _Offer] = {}
_lock = threading.Lock()


def address(path: Path, name: str, known: str | None = None) -> str:
    """A relative address under which the file can be fetched for an hour, by any number of requests.

    `known`, an address given before, is given again while it is good for long enough and the file is the same.
    """
    now, version = time.time(), _version(path)
    with _lock:
        before = _offers.get(_token(known))
        if known and before and before.path == path and before.version == version and before.expires - now > _RENEW_BEFORE:
            return known
        token = secrets.token_urlsafe(32)
        _offers[token] = _Offer(path, version, now + SECONDS_VALID)
        while len(_offers) > _MOST_OFFERS:
            del _offers[next(iter(_offers))]
    return f"download/{token}/{name}"


def route() -> Route:
    """Where browsers fetch files: beside the page, in whatever folder a base path or a proxy puts the app."""
    return Route("/{folder:path}download/{token}/{name}", _send, methods=["GET"])


async def _send(request: Request) -> Response:
    with _lock:
        offer = _offers.get(request.path_params["token"])
    if offer is None:
        return PlainTextResponse(t("download.unknown"), 404)
    if offer.expires <= time.time() or _version(offer.path) != offer.version:
        return PlainTextResponse(t("download.expired"), 410)
    return _InPieces(offer.path, headers=_HEADERS, filename=request.path_params["name"])


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _token(known: str | None) -> str:
    return known.split("/")[1] if known else ""
