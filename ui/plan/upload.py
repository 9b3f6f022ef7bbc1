"""A plan from a file: a plan.json, rows that go (groups_to_prune.csv), or a table to plan from (global_group_table.csv).

Plans and rows are kept in the experiment under the name of their file; a table opens a new experiment beside this one.
"""

import io
import json
import re
from pathlib import PurePath

import pandas as pd
import streamlit as st

from pruning.errors import PruningError, first_line
from pruning.experiment import Experiment
from pruning.plan_from_file import Chosen, checked_table, chosen_groups, chosen_plan
from pruning.settings import Settings
from ui import workspace
from ui.plan import fixed
from ui.translation import error_text, t
from ui.workspace import Measured

_ROWS, _TABLE = "rows", "table"


def show(found: Measured, settings: Settings) -> None:
    """The upload, what a CSV shall mean, and the button that reads it."""
    st.caption(t("upload.explanation"))
    files = st.file_uploader(t("upload.files"), ["json", "csv"], accept_multiple_files=True, key="plan_files")
    meaning = st.radio(
        t("upload.meaning"), (_ROWS, _TABLE), format_func=lambda m: t(f"upload.meaning.{m}"), key="upload_meaning"
    )
    if not st.button(t("upload.read"), icon=":material/upload_file:", key="read_upload", disabled=not files):
        return
    try:
        opened = _read(found, settings, files, meaning)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    workspace.open_experiment(opened.name)
    st.rerun()


def _read(found: Measured, settings: Settings, files: list, meaning: str) -> Experiment:
    """Reads the uploaded file; returns the experiment to show it in. Raises PruningError naming the fault."""
    main = [file for file in files if not file.name.endswith(".csv.json")]
    if len(main) != 1:
        raise PruningError("upload_one_file")
    file, experiment = main[0], found.experiment
    shape, fingerprint = found.table.shape, experiment.description()["fingerprint"]
    if file.name.endswith(".json"):
        content = _json(file)
        return _keep(found, chosen_plan(content, shape, fingerprint, settings, file.name), file.name)
    frame = _csv(file)
    sidecars = [one for one in files if one.name.endswith(".csv.json")]
    source = _json(sidecars[0]) if sidecars else {}
    source.pop("format_version", None)
    if meaning == _ROWS:
        return _keep(found, chosen_groups(frame, source, shape, fingerprint, settings, file.name), file.name)
    table, warnings = checked_table(frame, source, shape, fingerprint, file.name)
    for warning in warnings:
        st.toast(error_text(warning), icon=":material/warning:", duration="long")
    return experiment.branch(lambda branch: branch.write_table(table))


def _keep(found: Measured, chosen: Chosen, file_name: str) -> Experiment:
    for warning in chosen.warnings:
        st.toast(error_text(warning), icon=":material/warning:", duration="long")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePath(file_name).stem).strip(".-") or "plan"
    name = found.experiment.keep_plan(name, chosen.plan)
    fixed.open_in_next_run(found.experiment, name)
    return found.experiment


def _csv(file) -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(file.getvalue()))
    except ValueError as error:
        raise PruningError("file_broken", path=file.name, reason=first_line(error)) from error


def _json(file) -> dict:
    try:
        content = json.loads(file.getvalue())
    except ValueError as error:
        raise PruningError("file_broken", path=file.name, reason=first_line(error)) from error
    if not isinstance(content, dict):
        raise PruningError("file_broken", path=file.name, reason="it is not a JSON object")
    return content
