"""The widgets that make, check, download and upload a model in one of the formats."""

import shutil
from html import escape

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.export.formats import FORMATS, HF, PLAN
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.runs.export_request import ExportRequest
from pruning.runs.jobs import queue
from pruning.runs.permissions import Permissions
from pruning.runs.status import remove_leftovers
from pruning.words import readable_size
from ui import workspace
from ui.export import downloads
from ui.translation import error_text, t, words

_ERROR_KEY, _LINKS_KEY, _FORMAT_KEY = "export_error", "download_links", "export_format"
_LINK = (
    '<a href="{href}" download="{name}" style="display:inline-block;padding:.4rem .9rem;border:1px solid currentColor;'
    'border-radius:.5rem;text-decoration:none;color:inherit">{label}</a>'
)


def choose_format(header: CheckpointHeader) -> str:
    """The list of formats, and what the chosen one is."""
    name = _picked_format()
    if FORMATS[name].is_folder:
        kind = "stock" if _is_stock(header) else "own"
        st.markdown(t(f"export.kind.{kind}", model_type=header.config["model_type"]))
    else:
        st.markdown(t(f"export.kind.{FORMATS[name].described}"))
    return name


def _picked_format() -> str:
    """The format by its own name, which is what the URL says: a bound widget would put the words of one language there."""
    if _FORMAT_KEY not in st.session_state:
        linked = st.query_params.get(_FORMAT_KEY)
        st.session_state[_FORMAT_KEY] = linked if linked in FORMATS else HF
    name = st.selectbox(t("export.format"), FORMATS, format_func=lambda name: t(f"export.name.{name}"), key=_FORMAT_KEY)
    if name == HF:
        st.query_params.pop(_FORMAT_KEY, None)
    elif st.query_params.get(_FORMAT_KEY) != name:
        st.query_params[_FORMAT_KEY] = name
    return name


def clean_up(experiment: Experiment, disabled: bool) -> None:
    """Offers to remove what a stopped run left half-written; making an export removes it too."""
    if disabled or not (left := experiment.leftovers()):
        return
    st.warning(t("export.leftovers", count=len(left)), icon=":material/cleaning_services:")
    st.button(t("export.clean_up"), on_click=_clean_up, args=(experiment,), key="clean_up")


def is_possible(experiment: Experiment, name: str, header: CheckpointHeader) -> bool:
    """Whether this model can have this format; a refusal says why not, and what to choose."""
    try:
        FORMATS[name].refuse(header)
    except PruningError as error:
        st.warning(error_text(error), icon=":material/block:")
        return False
    free = shutil.disk_usage(experiment.folder).free
    st.caption(t("export.room", needed=readable_size(FORMATS[name].needed_bytes(header)), free=readable_size(free)))
    return True


def show_check(check: dict | None) -> None:
    """What loading the format again found, or that this was not done yet."""
    if not check:
        st.info(t("export.not_checked"), icon=":material/info:")
        return
    if check.get("max_abs_diff") is None:
        st.success(t("export.checked_sizes"), icon=":material/verified:")
        return
    with st.container(horizontal=True):
        st.metric(
            t("export.difference"),
            f"{check['max_abs_diff']:.1e}",
            border=True,
            help=t("export.difference.help"),
            width="content",
        )
        st.metric(t("export.top1"), f"{check['top1']:.2%}", border=True, help=t("export.top1.help"), width="content")
        if found := check.get("llama_cpp"):
            equal = f"{found['equal']} / {found['tokens']}"
            st.metric(t("export.llama_cpp"), equal, border=True, help=t("export.llama_cpp.help"), width="content")
    beside = check.get("original_diff")
    said = t("export.checked") if beside is None else t("export.checked_original", difference=beside)
    st.success(said, icon=":material/verified:")


def show(experiment: Experiment, name: str, disabled: bool) -> None:
    """The button that makes the format in the worker."""
    is_there = experiment.has(FORMATS[name].file)
    label = t("export.pack_again" if is_there else "export.pack") if name == HF else t("export.make")
    if name != PLAN:
        st.button(label, icon=":material/folder_zip:", on_click=_make, args=(experiment, name), disabled=disabled, key="pack")
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")


def download(experiment: Experiment, name: str, checks: dict) -> None:
    """The link to a file that was made and checked, whatever its size, under the name that the sample code gives."""
    path = experiment.path(FORMATS[name].file)
    if not path.is_file() or not (checks.get(name) or name == PLAN):
        return
    links = st.session_state.setdefault(_LINKS_KEY, {})
    links[path] = downloads.address(path, path.name, known=links.get(path))
    label = words("export.download", name=path.name, size=readable_size(path.stat().st_size))
    href = escape(links[path], quote=True)
    st.html(_LINK.format(href=href, name=href.rpartition("/")[2], label=escape(label)))


def show_code(experiment: Experiment, name: str, header: CheckpointHeader) -> None:
    """How to load what was downloaded."""
    code = FORMATS[name].sample_code(own_code=not _is_stock(header), base_model=experiment.settings.base_model)
    st.code(code, language="bash" if name == PLAN else "python")
    if FORMATS[name].is_folder:
        st.caption(t("export.unpack", folder=FORMATS[name].folder))


def push(experiment: Experiment, disabled: bool) -> None:
    """Uploads the folder to the hub; the token stays in this session."""
    with st.expander(t("export.push"), icon=":material/cloud_upload:"):
        st.markdown(t("export.push.what"))
        repository = st.text_input(t("export.push.repository"), placeholder="owner/name", key="push_repository")
        token = st.text_input(t("model.token.label"), type="password", key="push_token", help=t("model.token.help"))
        is_public = st.toggle(t("export.push.public"), key="push_public")
        ready = bool(repository and (token or workspace.hub_token())) and not disabled
        arguments = (experiment, repository.strip(), token or workspace.hub_token(), not is_public)
        st.button(t("export.push.button"), on_click=_push, args=arguments, disabled=not ready, key="push")


def _is_stock(header: CheckpointHeader) -> bool:
    return "auto_map" not in header.config


def _make(experiment: Experiment, name: str) -> None:
    _submit(experiment, "pack" if name == HF else "export", ExportRequest((name,)))


def _push(experiment: Experiment, repository: str, token: str | None, private: bool) -> None:
    _submit(experiment, "export", ExportRequest((), repository=repository, private=private), token)


def _clean_up(experiment: Experiment) -> None:
    """Half-written files may be those that a job of another tab is writing now."""
    try:
        remove_leftovers(experiment)
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)


def _submit(experiment: Experiment, kind: str, request: ExportRequest, token: str | None = None) -> None:
    try:
        permissions = Permissions(token) if token else workspace.permissions(experiment)
        if kind == "export":
            request.check(experiment)
        queue().submit(kind, experiment, permissions, request.arguments)
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
