"""What wins quality back: repair, training, distillation; on which text, how long; and the button that starts it.

An experiment opens with the settings it was recovered by, or else with what suits the size of its cut.
"""

from dataclasses import replace

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import RECOVERY_FILE, REPAIR_FILE, Experiment
from pruning.model.model_source import DEMO
from pruning.planning.plan import PruningPlan
from pruning.planning.recovery_cost import RECIPES, recipe, recipe_for
from pruning.runs import training_history
from pruning.runs.jobs import queue
from pruning.runs.measured_cost import read_measured
from pruning.runs.requests import settings_asked_for
from pruning.runs.training_history import TrainingHistory
from pruning.settings import SETTINGS, Settings, resolve
from ui import corpus_picker, settings_widgets, workspace
from ui.recover import cost
from ui.translation import error_text, t

NONE = "none"
_TRAININGS = (NONE, *SETTINGS["finetune_method"].choices)
_ERROR_KEY, _SHOWN_FOR = "recover_error", "recover_shown_for"
_REPAIR, _TRAINING, _CORPUS = "recover_repair", "recover_training", "finetune_corpus"
_OF_OTHER_WIDGETS = ("reconstruct", "finetune", "finetune_method", "finetune_corpus")
_OF_WIDGETS = tuple(name for name, setting in SETTINGS.items() if setting.group == "recovery" and name not in _OF_OTHER_WIDGETS)
_MANY = 10_000_000


def show(experiment: Experiment, plan: PruningPlan, disabled: bool) -> None:
    """Draws the form; Start hands the recovery to the worker."""
    _bring_back(experiment, plan)
    _recipes(experiment, plan)
    training = _what(experiment)
    if training != NONE:
        _text_and_training(experiment, training)
    try:
        settings = chosen_settings(experiment)
        cost.show(experiment, plan, settings, disabled)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")
        return
    _start_button(experiment, settings, disabled)


def chosen_settings(experiment: Experiment) -> Settings:
    """All settings of the experiment, with what the form says; raises PruningError for a value out of its range."""
    state, known = st.session_state, experiment.settings
    training = state[_TRAINING]
    given = {name: state.get(name, getattr(known, name)) for name in _OF_WIDGETS}
    given |= {"reconstruct": state[_REPAIR], "finetune": training != NONE}
    if training != NONE:
        given |= {"finetune_method": training, "finetune_corpus": corpus_picker.chosen(_CORPUS)}
    return replace(known, **resolve(given).of(given))


# what the widgets hold ------------------------------------------------------------------------------------------------


def _bring_back(experiment: Experiment, plan: PruningPlan) -> None:
    """Gives the widgets the values of this experiment, once when it is opened."""
    if st.session_state.get(_SHOWN_FOR) == experiment.name and _TRAINING in st.session_state:
        return
    st.session_state[_SHOWN_FOR] = experiment.name
    settings = experiment.settings.as_dict() | _waiting(experiment)
    if not (experiment.has(RECOVERY_FILE) or settings["finetune"]):
        advised = recipe(recipe_for(plan.actual_ratio), settings["base_model"] == DEMO)
        settings |= {"reconstruct": True} | advised | _measured_last(experiment)
    _take(settings | {"reconstruct": settings["reconstruct"] or experiment.has(REPAIR_FILE)})


def _waiting(experiment: Experiment) -> dict:
    """The settings of a recovery that was asked for and has not begun; empty if they cannot be read."""
    try:
        return settings_asked_for(experiment, "recover")
    except PruningError:
        return {}


def _measured_last(experiment: Experiment) -> dict:
    """The settings whose cost was asked for last; none where it was not, or where that cannot be read."""
    try:
        measured = read_measured(experiment)
        return settings_asked_for(experiment, "cost") or (measured.settings if measured is not None else {})
    except PruningError:
        return {}


def _take(settings: dict) -> None:
    """Sets the widgets to these settings; only before they are drawn."""
    state = st.session_state
    state.update({name: settings[name] for name in _OF_WIDGETS if name in settings})
    state[_TRAINING] = settings["finetune_method"] if settings["finetune"] else NONE
    if "reconstruct" in settings:
        state[_REPAIR] = settings["reconstruct"]
    if "finetune_corpus" in settings:
        corpus_picker.take(_CORPUS, settings["finetune_corpus"])


# the form -------------------------------------------------------------------------------------------------------------


def _recipes(experiment: Experiment, plan: PruningPlan) -> None:
    is_demo = experiment.settings.base_model == DEMO
    advised = recipe_for(plan.actual_ratio)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for name in RECIPES:
            st.button(
                t(f"recover.recipe.{name}"),
                key=f"recipe_{name}",
                icon=":material/check:" if name == advised else None,
                help=t(f"recover.recipe.{name}.help"),
                on_click=_take,
                args=(recipe(name, is_demo),),
            )
        st.caption(t("recover.advised", ratio=plan.actual_ratio, recipe=t(f"recover.recipe.{advised}")))


def _what(experiment: Experiment) -> str:
    """Repair, the kind of training, distillation; returns the kind."""
    st.markdown(f"**{t('recover.group.what')}**")
    repair, training, distillation = st.columns(3)
    is_repaired = experiment.has(REPAIR_FILE)
    with repair:
        repairs = st.toggle(
            t("setting.reconstruct"), key=_REPAIR, help=t("help.reconstruct"), disabled=is_repaired, persist_state="session"
        )
        if is_repaired:
            st.caption(t("recover.repaired"))
        elif repairs:
            settings_widgets.number("reconstruct_tokens", max_value=_MANY)
    with training:
        kind = st.segmented_control(
            t("setting.finetune_method"),
            _TRAININGS,
            format_func=lambda k: t(f"recover.training.{k}"),
            required=True,
            key=_TRAINING,
            help=t("help.finetune_method"),
            persist_state="session",
        )
        if kind == "lora":
            rank, strength = st.columns(2)
            with rank:
                settings_widgets.number("lora_r", max_value=1024)
            with strength:
                settings_widgets.number("lora_alpha", max_value=4096)
    with distillation:
        if kind != NONE:
            settings_widgets.slider("distill_weight")
            st.caption(t("recover.hint.distill"))
    return kind


def _text_and_training(experiment: Experiment, training: str) -> None:
    text, length, steps, evaluation = st.columns(4)
    with text:
        st.markdown(f"**{t('recover.group.text')}**")
        corpus_picker.show(_CORPUS, corpus_picker.FOR_TRAINING)
        settings_widgets.number("finetune_samples", max_value=_MANY)
        settings_widgets.number("finetune_seq_len", max_value=131_072, placeholder=str(experiment.settings.seq_len))
    with length:
        st.markdown(f"**{t('recover.group.training')}**")
        settings_widgets.number("finetune_lr", format="%g", step=1e-5, min_value=0.0, placeholder=t(f"recover.lr.{training}"))
        counts_steps = bool(st.session_state.get("finetune_steps"))
        settings_widgets.number("finetune_epochs", min_value=0.0, step=0.5, disabled=counts_steps)
        settings_widgets.number("finetune_steps", max_value=_MANY)
    with steps:
        st.markdown(f"**{t('recover.group.memory')}**")
        settings_widgets.number("finetune_batch_size", max_value=4096)
        settings_widgets.number("finetune_accumulation", max_value=4096)
        settings_widgets.switch("gradient_checkpointing")
    with evaluation:
        st.markdown(f"**{t('recover.group.evaluation')}**")
        settings_widgets.number("finetune_eval_steps", max_value=_MANY)
        st.caption(t("recover.hint.evaluation"))
    is_small = experiment.settings.base_model == DEMO and training == "lora"
    st.caption(" ".join([t("recover.hint.memory"), *([t("recover.hint.demo")] if is_small else [])]))
    with st.expander(t("recover.more")):
        _more(training)


def _more(training: str) -> None:
    columns = st.columns(4)
    with columns[0]:
        settings_widgets.slider("finetune_warmup")
    with columns[1]:
        settings_widgets.number("finetune_max_rise", min_value=1.0, step=0.5)
    with columns[2]:
        settings_widgets.number("distill_temperature", min_value=0.0, step=0.5)
    if training == "lora":
        with columns[3]:
            settings_widgets.number("lora_dropout", step=0.05)
        settings_widgets.text("lora_targets")


# starting -------------------------------------------------------------------------------------------------------------


def _start_button(experiment: Experiment, settings: Settings, disabled: bool) -> None:
    asks_for_nothing = not (settings.finetune or (settings.reconstruct and not experiment.has(REPAIR_FILE)))
    stopped = training_history.read_unfinished(experiment)
    label, note = _start_words(experiment, settings, stopped)
    st.button(
        t(f"recover.{label}"),
        type="primary",
        icon=":material/play_arrow:",
        on_click=_start,
        args=(experiment,),
        disabled=disabled or asks_for_nothing,
        key="recover_start",
    )
    if asks_for_nothing:
        st.caption(t("recover.nothing"))
    elif note and not disabled:
        st.caption(t(f"recover.note.{note}", step=stopped.last["step"] if stopped else 0))
    if message := st.session_state.pop(_ERROR_KEY, None):
        st.error(message, icon=":material/error:")


def _start_words(experiment: Experiment, settings: Settings, stopped: TrainingHistory | None) -> tuple[str, str | None]:
    """What the button says, and what is said under it about a training that was there before."""
    if not settings.finetune:
        return "start", None
    if stopped is not None:
        begins_repaired = settings.reconstruct or experiment.has(REPAIR_FILE)
        goes_on = stopped.is_same_as(settings) and stopped.began_repaired == begins_repaired
        return ("go_on", "go_on") if goes_on else ("start", "anew")
    return ("again", "again") if training_history.read_history(experiment) else ("start", None)


def _start(experiment: Experiment) -> None:
    try:
        settings = chosen_settings(experiment)
        # The note under the button says that a stopped training is given up; of a repair alone it says nothing.
        asked = {"settings": settings.as_dict() | {"overwrite": settings.finetune}}
        queue().submit("recover", experiment, workspace.permissions(experiment), asked)
    except PruningError as error:
        st.session_state[_ERROR_KEY] = error_text(error)
