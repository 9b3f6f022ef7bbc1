"""Shows a running job: bar, rate, time left, Cancel; and how the last one ended. Reads files only."""

from collections import deque
from collections.abc import Callable

import streamlit as st

from pruning.experiment import Experiment
from pruning.runs.jobs import queue
from pruning.runs.status import CANCELLED, FAILED, QUEUED, STEPS, JobStatus, step_number
from pruning.words import readable_size
from ui.page_frame import fragment
from ui.translation import duration, job_error_text, t

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_IDLE_LOOKS = 2.0
_LOG_LINES = 200
_CANCELLED = dict.fromkeys(("learn", "try"), "job.cancelled.kept")  # jobs that keep each point as it comes


def show(
    experiment: Experiment,
    kinds: tuple[str, ...],
    below: Callable[[JobStatus], None] | None = None,
    cancelled: str | None = None,
) -> bool:
    """Draws the job of an experiment if it is of one of these kinds; returns whether one is active.

    The panel looks again by itself while the job runs, draws `below` under it each time, and redraws the whole page when the
    job ends. `cancelled` is said of a job that was, where it leaves something behind.
    """
    status = queue().status(experiment)
    if status is None or not (status.is_active or status.kind in kinds):
        return False
    if status.is_active:
        fragment(_live, run_every=_SECONDS_BETWEEN_LOOKS)(experiment, below)
        return True
    if status.state == FAILED:
        st.error(job_error_text(status.error), title=t(f"job.failed.{status.kind}"), icon=":material/error:")
        _log(experiment, status)
    elif status.state == CANCELLED:
        st.info(cancelled or t(_CANCELLED.get(status.kind, "job.cancelled")), icon=":material/cancel:")
    return False


def watch(experiment: Experiment) -> None:
    """Redraws the page when a job begins that this session did not start."""
    fragment(_look, run_every=_SECONDS_BETWEEN_IDLE_LOOKS)(experiment)


def _look(experiment: Experiment) -> None:
    status = queue().status(experiment)
    if status and status.is_active:
        st.rerun()


def _live(experiment: Experiment, below: Callable[[JobStatus], None] | None) -> None:
    status = queue().status(experiment)
    if status is None or not status.is_active:
        st.rerun()
    with st.container(border=True, key="job_panel"):
        st.markdown(f"**{t(f'job.kind.{status.kind}')}**")
        done = min(status.done / status.total, 1.0) if status.total else 0.0
        st.progress(done, text=_progress_text(experiment, status))
        if st.button(t("job.cancel"), icon=":material/cancel:", key="job_cancel"):
            queue().cancel(experiment)
            st.toast(t("job.cancelling"))
        _log(experiment, status)
    if below is not None:
        below(status)


def _progress_text(experiment: Experiment, status: JobStatus) -> str:
    if status.state == QUEUED:
        place = queue().place(experiment)
        return t("job.queued", place=place) if place else t("job.starting")
    if status.step is None:
        return t("job.starting")
    text = t("job.step", number=step_number(status.step), count=len(STEPS), step=t(f"step.{status.step}"))
    if not status.done:
        return text
    if status.unit == "bytes":
        return f"{text} · {t('job.bytes', done=readable_size(status.done), total=readable_size(status.total))}"
    unit = t(f"unit.{status.unit}")
    progress = t("job.progress", done=status.done, total=status.total, unit=unit, rate=status.rate)
    left = t("job.left", time=duration(status.seconds_left or 0))
    return f"{text} · {progress} · {left}"


def _log(experiment: Experiment, status: JobStatus) -> None:
    if not status.log or not experiment.path(status.log).is_file():
        return
    with st.expander(t("job.log")), experiment.path(status.log).open(encoding="utf-8", errors="replace") as file:
        st.code("".join(deque(file, maxlen=_LOG_LINES)), language=None)
