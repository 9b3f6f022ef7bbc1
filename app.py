"""What `streamlit run app.py` starts: the web application, whose screens `ui/main.py` draws.

`st.App` takes the script of the screens as a file of its own, so that routes (plotly.min.js, large downloads) can stand
beside it.
"""

from pathlib import Path

import streamlit as st

from ui import downloads, plotly_view

app = st.App(Path(__file__).parent / "ui" / "main.py", routes=[plotly_view.script_route(), downloads.route()])
