"""The frame of every screen: page setup, sidebar, navigation. `app.py` starts it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Streamlit puts only this script's own folder there
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402

from ui import language, missing_experiment, page_frame, sidebar, workspace  # noqa: E402
from ui.translation import t  # noqa: E402

language.restore()
st.set_page_config(page_title=t("app.title"), page_icon=str(ROOT / "assets" / "icon.svg"), layout="wide")
st.logo(str(ROOT / "assets" / "logo.svg"), size="large", icon_image=str(ROOT / "assets" / "icon.svg"))
st.html(ROOT / "ui" / "app.css")
workspace.restore()

# Each page, the default one too, gets a url_path that differs from its file name: Streamlit's older discovery of a folder
# `pages/` would otherwise answer such a path by running the page without this frame.
PAGES = (
    ("model", "choose-model", ":material/deployed_code:"),
    ("importance", "measure-importance", ":material/monitoring:"),
    ("plan", "shape-plan", ":material/tune:"),
    ("prune", "cut-model", ":material/content_cut:"),
    ("recover", "win-back", ":material/healing:"),
    ("compare", "weigh-results", ":material/compare:"),
    ("export", "take-home", ":material/download:"),
    ("learn", "see-why", ":material/school:"),
)
ABOUT_NO_EXPERIMENT = ("model", "compare")  # they say all they have to say with none open
pages = [
    st.Page(
        f"{name}.py",
        title=t(f"{name}.title"),
        icon=icon,
        url_path=path,
        default=name == "model",
        help=t(f"{name}.purpose"),
    )
    for name, path, icon in PAGES
]
page = st.navigation(pages)
sidebar.show()
missing = workspace.missing()
if missing is not None:
    name = next(name for name, *_ in PAGES if t(f"{name}.title") == page.title)
    if name not in ABOUT_NO_EXPERIMENT:
        page_frame.heading(name)
    missing_experiment.show(missing)
if missing is None or name in ABOUT_NO_EXPERIMENT:
    with page_frame.explaining_damage():
        page.run()
