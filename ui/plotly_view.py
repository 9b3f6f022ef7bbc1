"""A Plotly chart whose node stays while its data change, so that it neither flashes nor loses its zoom.

    clicked = plotly_view.show(figure, "rates", t("plan.rates.alt"), clicks=True)

`st.plotly_chart` builds a new chart for new data; this component hands them to `Plotly.react` (plotly_view.js). The library
itself is the file that the Python package carries. It is too large for a message: `script_route` serves it, once per browser.
"""

from collections.abc import Callable
from pathlib import Path

import plotly
import plotly.graph_objects as go
import streamlit as st
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from ui.translation import words

_HERE = Path(__file__).parent
_SCRIPT = f"plotly-{plotly.__version__}.min.js"  # with its version, since browsers keep it for a year
_SCRIPT_FILE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_TOOLS = {"Zoom": "zoom", "Pan": "pan", "Box Select": "select", "Reset axes": "reset"}  # as Plotly calls its buttons
_FRAME = """
<div class="plotly-view">
  <div class="plotly-view-plot" role="figure"></div>
  <p class="plotly-view-series"></p>
  <p class="plotly-view-failure" role="alert"></p>
</div>
"""
# Not in a shadow root: Plotly puts its style rules into the document's head, where a shadow root does not see them.
_COMPONENT = st.components.v2.component(
    "plotly_view",
    html=_FRAME,
    css=(_HERE / "plotly_view.css").read_text(encoding="utf-8"),
    js=(_HERE / "plotly_view.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def show(
    figure: go.Figure, key: str, alt: str, clicks: bool = False, on_click: Callable[[dict], None] | None = None
) -> dict | None:
    """Draws the figure; with `clicks` or `on_click`, returns what was clicked, in the run right after the click only.

    A click on a point: {"curve": index of the trace, "point": index in it (heatmap: [row, column]), "x", "y", "customdata",
    "legend": the trace's `meta`, else its name, "seq": int}. A box drawn with the selection tool: {"selection": a list of
    such points, "seq": int}. Ranges drawn on the axes of parallel coordinates: {"filter": for each axis a list of [low, high]
    or None, "seq": int}. `seq` grows with every event. `on_click` gets the same, before the run.
    """
    listens = clicks or on_click is not None
    data = {
        "figure": figure.to_json(validate=False),
        "alt": alt,
        "name": key,
        "clicks": listens,
        "script": _SCRIPT,
        "words": {word: words(f"chart.view.{word}") for word in ("png", "html", "failure")},
        "tools": {title: words(f"chart.view.{tool}") for title, tool in _TOOLS.items()},
    }
    if not listens:
        _COMPONENT(data=data, key=key)
        return None

    def tell() -> None:
        if on_click is not None:
            on_click(st.session_state[key]["click"])

    return _COMPONENT(data=data, key=key, on_click_change=tell).click


def script_route() -> Route:
    """Where browsers find plotly.min.js: beside the page, in whatever folder a base path or a proxy puts the app."""
    return Route(f"/{{folder:path}}{_SCRIPT}", _send_script)


async def _send_script(request: Request) -> FileResponse:
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(_SCRIPT_FILE, media_type="text/javascript", headers=headers)
