"""A sensitivity measurement on the Learn page: its result, and the button that measures what is missing."""

from dataclasses import asdict

import streamlit as st

from analysis import sensitivity
from pruning.errors import PruningError
from pruning.runs.jobs import queue
from pruning.runs.sensitivity import results
from pruning.runs.sensitivity.results import Question, SensitivityResult
from ui import workspace
from ui.access import check_corpus
from ui.learn.frame import Subject
from ui.translation import duration, error_text, job_error_text, t
from ui.workspace import Measured


def result(about: Subject, kind: str, **options) -> SensitivityResult | None:
    """The result, once it is complete, with its basis in words; until then the offer to measure it."""
    found = about.found
    wanted = results.question(found.experiment, found.table, kind, **options)
    kept = results.read_result(found.experiment, wanted)
    if kept is not None and kept.finished:
        st.caption(_basis(kept))
        return kept
    if about.active and results.is_asked(found.experiment, wanted):
        st.caption(t("learn.running", points=len(kept.points) if kept else 0))
        return None
    if kept is not None and kept.points:
        st.caption(t("learn.stopped", points=len(kept.points)))
    else:
        st.caption(t(f"learn.offer.{kind}", model=about.name))
    label = t("learn.go_on" if kept is not None else "learn.measure")
    if st.button(label, icon=":material/experiment:", key=f"measure_{kind}", disabled=about.active, type="primary"):
        _start(found, wanted)
    return None


def left_out(kept: SensitivityResult) -> None:
    """Says how many points have no plan, and why the last of them has none."""
    if missing := sensitivity.unreached(kept):
        reason = missing[-1]["reason"]
        said = reason if isinstance(reason, str) else job_error_text(reason)  # older files hold the sentence alone
        st.caption(t("learn.left_out", missing=len(missing), points=len(kept.points), reason=said))


def _start(found: Measured, wanted: Question) -> None:
    try:
        check_corpus(found.experiment.settings.eval_corpus)
        queue().submit("learn", found.experiment, workspace.permissions(found.experiment), asdict(wanted))
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    st.rerun()


def _basis(kept: SensitivityResult) -> str:
    method = str(kept.question.basis["table"].get("method", "?"))
    text = {name: kept.text.get(name, "?") for name in ("dataset", "windows", "seq_len")}
    return t("learn.basis", method=method, time=duration(kept.seconds), **text)
