"""What each way of recovery costs, shown before it is started; times come from a short measurement in the worker."""

import pandas as pd
import psutil
import streamlit as st

from analysis import recovery_cost
from analysis.recovery_cost import AT_MOST, EXACT, UNKNOWN
from pruning.errors import PruningError
from pruning.experiment import REPAIR_FILE, Experiment
from pruning.planning.plan import PruningPlan
from pruning.runs.jobs import queue
from pruning.runs.measured_cost import Measured, read_measured
from pruning.runs.recovery_settings import OF_A_MEASUREMENT
from pruning.settings import Settings
from pruning.words import readable_size
from ui import workspace
from ui.translation import duration, error_text, t, words

_ERROR_KEY = "cost_error"
_CHOSEN = "●"


def show(experiment: Experiment, plan: PruningPlan, settings: Settings, disabled: bool) -> None:
    """The table of ways, what it rests on, and the button that measures the time of the chosen ones."""
    st.markdown(f"**{t('cost.title')}**")
    measured, is_repaired = _measured(experiment), experiment.has(REPAIR_FILE)
    here, sentence = _memory_here(settings, measured)
    _table(recovery_cost.cost_table(plan, settings, is_repaired, here, measured))
    tokens = recovery_cost.tokens_of_batch(settings)
    st.caption(" ".join([t("cost.basis", tokens=tokens), sentence, t("cost.length")]))
    if settings.finetune or (settings.reconstruct and not is_repaired):
        _measuring(experiment, settings, measured, disabled)


def _memory_here(settings: Settings, measured: Measured | None) -> tuple[int | None, str]:
    """Bytes that are free where the model will be, None where that is not known; and that in words."""
    if recovery_cost.computes_in_ram(settings):
        free = psutil.virtual_memory().available
        return free, t("cost.present", present=readable_size(free))
    if measured is not None and measured.free_bytes and measured.settings.get("device") == settings.device:
        return measured.free_bytes, t("cost.present.measured", present=readable_size(measured.free_bytes))
    return None, t("cost.present.unknown")


def _measured(experiment: Experiment) -> Measured | None:
    """A damaged measurement does not prevent a start."""
    try:
        return read_measured(experiment)
    except PruningError as error:
        st.warning(error_text(error), icon=":material/warning:")
        return None


def _table(costs: pd.DataFrame) -> None:
    text = st.column_config.TextColumn
    st.dataframe(
        pd.DataFrame([_row(cost) for cost in costs.to_dict("records")]),
        hide_index=True,
        column_config={
            "chosen": text(t("cost.chosen"), alignment="center"),
            "way": text(t("cost.way")),
            "trained": text(t("cost.trained"), alignment="right"),
            "share": text(t("cost.share"), alignment="right"),
            "memory": text(t("cost.memory"), alignment="right"),
            "fits": text(t("cost.fits"), alignment="center"),
            "steps": text(t("cost.steps"), alignment="right"),
            "tokens": text(t("cost.tokens"), alignment="right"),
            "time": text(t("cost.time"), alignment="right"),
        },
        alt=t("cost.title"),
        key="recovery_costs",
    )


def _row(cost: dict) -> dict:
    way = words(f"cost.way.{cost['way']}")
    return {
        "chosen": _CHOSEN if cost["is_chosen"] else "",
        "way": words("cost.way.distilled", way=way) if cost["distils"] else way,
        "trained": f"{cost['trained']:,}",
        "share": f"{cost['share']:.2%}",
        "memory": readable_size(cost["memory"]),
        "fits": words("cost.unknown")
        if cost["fits"] is None
        else words("cost.fits.yes")
        if cost["fits"]
        else words("cost.fits.no"),
        "steps": _count(cost["steps"], cost["length"]),
        "tokens": _count(cost["tokens"], cost["length"]),
        "time": words("cost.unmeasured") if pd.isna(cost["seconds"]) else _as_known(duration(cost["seconds"]), cost["length"]),
    }


def _count(count: int, length: str) -> str:
    """Steps or tokens, which follow from how much text there is, as far as that is known."""
    if length == UNKNOWN:
        return words("cost.unknown")
    return _as_known(f"{count:,}", length) if count else "0"


def _as_known(value: str, length: str) -> str:
    return words("cost.at_most", value=value) if length == AT_MOST else value


def _measuring(experiment: Experiment, settings: Settings, measured: Measured | None, disabled: bool) -> None:
    known = _known(experiment, settings, measured)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            t("cost.measure"),
            icon=":material/timer:",
            key="measure_cost",
            help=t("cost.measure.help"),
            disabled=disabled or all(known.values()),
            on_click=_measure,
            args=(experiment, settings),
        )
        sentences = []
        if known.get("training"):
            sentences.append(t("cost.known", step=measured.of_step, evaluation=measured.of_evaluation))
        if known.get("repair"):
            sentences.append(t("cost.known.repair"))
        st.caption(" ".join(sentences))
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")


def _known(experiment: Experiment, settings: Settings, measured: Measured | None) -> dict[str, bool]:
    """Of each part that is asked for whether its time was measured."""
    known = {}
    if settings.finetune:
        has_length = recovery_cost.length_of(settings, measured) == EXACT
        known["training"] = measured is not None and measured.is_of(settings) and has_length
    if settings.reconstruct and not experiment.has(REPAIR_FILE):
        known["repair"] = measured is not None and measured.is_of_repair(settings)
    return known


def _measure(experiment: Experiment, settings: Settings) -> None:
    try:
        asked = {"settings": settings.of(OF_A_MEASUREMENT)}
        queue().submit("cost", experiment, workspace.permissions(experiment), asked)
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
