"""The buttons that pack and download a model."""

import streamlit as st

from analysis import size
from pruning.errors import PruningError
from pruning.experiment import ZIP_FILE, Experiment
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.runs.jobs import queue
from ui import workspace
from ui.translation import error_text, t

_ERROR_KEY = "pack_error"
_THROUGH_MEMORY = 2 * 2**30  # Streamlit's download button holds the file in memory while it is sent
_CODE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("model"{trust})
model = AutoModelForCausalLM.from_pretrained("model"{trust})
inputs = tokenizer("def", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))
"""


def show(experiment: Experiment, disabled: bool) -> None:
    """The button that packs the folder as a zip in the worker."""
    label = t("export.pack_again") if experiment.has(ZIP_FILE) else t("export.pack")
    st.button(label, icon=":material/folder_zip:", on_click=_pack, args=(experiment,), disabled=disabled, key="pack")
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")


def download(experiment: Experiment) -> None:
    """The download of the zip; a file too large to go through memory is named instead."""
    path = experiment.path(ZIP_FILE)
    bytes_on_disk = path.stat().st_size
    if bytes_on_disk > _THROUGH_MEMORY:
        st.info(t("export.too_large", path=path.resolve(), size=size.readable(bytes_on_disk)), icon=":material/info:")
        return
    st.download_button(
        t("export.download", size=size.readable(bytes_on_disk)),
        data=path.read_bytes,
        file_name=f"{experiment.name}.zip",
        mime="application/zip",
        type="primary",
        icon=":material/download:",
        on_click="ignore",
        key="download_zip",
    )


def sample_code(header: CheckpointHeader) -> str:
    """How to load the folder after unpacking."""
    return _CODE.format(trust="" if header.shape.is_uniform else ", trust_remote_code=True")


def _pack(experiment: Experiment) -> None:
    try:
        queue().submit("pack", experiment, workspace.hub_token())
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
