"""What `streamlit run app.py` starts: the web application, whose screens `pages/main.py` draws.

`st.App` takes the script of the screens as a file of its own, so that routes (plotly.min.js, large downloads) can be
beside it, and the gate before all of them.
"""

import sys
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from ui import gate, plotly_view, start
from ui.export import downloads

token = start.token(sys.argv[1:])
app = st.App(
    Path(__file__).parent / "pages" / "main.py",
    routes=[plotly_view.script_route(), downloads.route()],
    middleware=[Middleware(gate.Gate, token=token)],
    lifespan=start.lifespan(token),
)
