"""A training as it goes, and what came back: curves, perplexity of every stage, what each stage writes."""

import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.experiment import RECOVERY_FILE, RECOVERY_FOLDER, REPAIR_FILE, SAMPLES_FILE, Experiment
from pruning.planning.plan import PruningPlan
from pruning.runs import training_history
from pruning.runs.jobs import queue
from pruning.runs.status import FAILED, JobStatus
from pruning.runs.training_history import TrainingHistory
from ui import written_texts
from ui.links import link
from ui.page_frame import chart
from ui.recover import repair
from ui.translation import duration, error_text, t, words

JOBS = ("recover", "cost")
_STAGES = written_texts.STAGES
_OF_MEMORY = ("worker_died", "worker_lost", "out_of_memory")


def live(experiment: Experiment, status: JobStatus) -> None:
    """The training of the job that runs, once it has begun."""
    path = experiment.path(RECOVERY_FOLDER, RECOVERY_FILE)
    if not path.exists() or path.stat().st_mtime < status.started:  # that of an earlier job
        return
    try:
        found = training_history.read_unfinished(experiment)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    if found is not None:
        left = status.seconds_left if status.unit == "steps" and found.state == training_history.RUNNING else None
        st.caption(t("recover.live"))
        _strip(found, left)
        _curves(found)


def cancelled_sentence(experiment: Experiment) -> str | None:
    """What a cancelled recovery left; None after other jobs."""
    status = queue().status(experiment)
    if status is None or status.kind != "recover":
        return None
    history = training_history.read_unfinished(experiment)
    if history is None or (history.state == training_history.CANCELLED and history.best_perplexity is None):
        return t("recover.cancelled.nothing")
    if history.state != training_history.CANCELLED:
        return t("recover.cancelled.stopped")
    return t("recover.cancelled.best", step=history.best_step, steps=history.steps, perplexity=history.best_perplexity)


def advice(experiment: Experiment) -> None:
    """What a recovery that failed left, and what helps where memory ran out."""
    status = queue().status(experiment)
    if status is None or status.kind not in JOBS or status.state != FAILED:
        return
    st.caption(t("recover.unharmed"))
    if status.error is not None and status.error["code"] in _OF_MEMORY:
        st.info(t("recover.memory"), icon=":material/memory:")


def has_results(experiment: Experiment) -> bool:
    """Whether a repair or a training left something to see."""
    return experiment.has(REPAIR_FILE) or _shown_history(experiment) is not None


def results(experiment: Experiment, plan: PruningPlan) -> None:
    """All that is there of a recovery."""
    metrics, history = experiment.metrics(), _shown_history(experiment)
    st.subheader(t("recover.result", experiment=experiment.name))
    _perplexities(metrics)
    if done := metrics.get("recovery"):
        distilled = t("recover.done.distilled", weight=done["distill_weight"]) if done["distill_weight"] else ""
        sentence = "recover.done" if done["best_step"] else "recover.done.none"
        st.caption(t(sentence, **done | {"method": t(f"recover.training.{done['method']}"), "distilled": distilled}))
    if history is not None:
        _curves(history)
        st.caption(t("recover.validation", text=history.validation["text"]))
    repair.show(experiment, plan.shape.num_layers)
    _texts(experiment)


def _shown_history(experiment: Experiment) -> TrainingHistory | None:
    """The training of the saved model; if there was none, one that was stopped or failed."""
    return training_history.read_history(experiment) or training_history.read_unfinished(experiment)


def _strip(history: TrainingHistory, seconds_left: float | None) -> None:
    last, unknown = history.last, t("recover.unknown")
    best = history.best_perplexity
    figures = {
        "step": t("recover.live.steps", step=last["step"], steps=history.steps),
        "loss": f"{last['loss']:.3f}" if last["step"] else unknown,
        "rate": f"{last['learning_rate']:.1e}",
        "best": unknown if best is None else f"{best:.2f}",
        "speed": f"{last['tokens_per_second']:,.0f}" if last["step"] else unknown,
        "left": unknown if seconds_left is None else duration(seconds_left),
    }
    with st.container(horizontal=True, key="training_strip"):
        for name, value in figures.items():
            st.metric(t(f"recover.live.{name}"), value, border=True)


def _curves(history: TrainingHistory) -> None:
    left, right = st.columns(2)
    with left:
        chart(charts.training_loss(history, words), "training_loss", t("recover.loss.alt"))
    with right:
        chart(charts.recovery_perplexity(history, words), "recovery_perplexity", t("recover.perplexity.alt"))


def _perplexities(metrics: dict) -> None:
    measured = metrics.get("perplexity", {})
    figures, bars = st.columns([1, 3], vertical_alignment="center")
    with figures:
        for stage in _STAGES:
            for value in measured.get(stage, {}).values():
                label = t(f"prune.perplexity.{stage}")
                st.metric(label, t("prune.infinite") if value is None else f"{value:.2f}", border=True)
    with bars:
        chart(charts.perplexity_bars(metrics, words), "perplexity", t("recover.bars.alt"))
        st.caption(t("prune.perplexity.basis", **metrics["basis"]))


def _texts(experiment: Experiment) -> None:
    if not experiment.has(SAMPLES_FILE):
        return
    st.subheader(t("prune.samples"))
    st.caption(t("prune.samples.basis"))
    written_texts.show(experiment.samples())


def links() -> None:
    """Where to go with a recovered model."""
    with st.container(horizontal=True):
        link("compare", t("recover.compare"), icon=":material/compare:")
        link("export", t("prune.next"))
