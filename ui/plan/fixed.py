"""A plan that no slider gives: it came from a file, or from another table. Kept by name in the experiment, named in the URL.

While one is open the sliders have no effect; groups can still be kept and cut by hand.
"""

import streamlit as st

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.planning.allocation import Floors
from pruning.planning.plan import PruningPlan
from pruning.planning.planner import Planned, changed_by_hand, settings_give
from pruning.planning.protection import Protection
from pruning.settings import PLAN_SETTINGS, Settings, merged
from ui import workspace
from ui.plan import form
from ui.plan.values import settings_of, values_of
from ui.workspace import Measured

_KEY, _NEXT_KEY, _IN_LINK = "fixed_plan", "fixed_plan_next", "plan"
SAVED = "(saved)"  # stands for the experiment's plan.json; no kept plan can have this name


def open_first(found: Measured, is_link: bool) -> None:
    """Decides once per experiment what is shown: the plan that a link names, the saved plan where no slider gives it, or what
    the sliders give. Only before the sliders are drawn.
    """
    names = st.session_state.setdefault(_KEY, {})
    experiment = found.experiment
    if experiment.name in names:
        return
    linked = st.query_params.get(_IN_LINK) if not names else None
    if linked == SAVED or linked in experiment.named_plans():
        names[experiment.name] = linked
        return
    saved = None if is_link else workspace.saved_plan(experiment)
    names[experiment.name] = SAVED if saved is not None and not _sliders_give(found, saved, experiment.settings) else None


def name_of(experiment: Experiment) -> str | None:
    """The name of the plan that is shown instead of the sliders' plan; None when the sliders decide."""
    name = st.session_state.get(_KEY, {}).get(experiment.name)
    if name and st.query_params.get(_IN_LINK) != name:
        st.query_params[_IN_LINK] = name
    elif not name and _IN_LINK in st.query_params:
        del st.query_params[_IN_LINK]
    return name


def leave(experiment: Experiment) -> None:
    """Gives the plan back to the sliders."""
    st.session_state.setdefault(_KEY, {})[experiment.name] = None
    st.query_params.pop(_IN_LINK, None)


def open_named(found: Measured, name: str) -> None:
    """Shows a kept plan: by the sliders where these give just this plan, else as it is."""
    experiment = found.experiment
    plan = workspace.named_plan(experiment, name)
    settings = merged(Settings(), plan.settings)
    if {"strategy", *PLAN_SETTINGS} <= plan.settings.keys() and _sliders_give(found, plan, settings):
        leave(experiment)
        form.set_values(experiment.name, values_of(settings, plan.shape.num_layers))
    else:
        st.session_state.setdefault(_KEY, {})[experiment.name] = name
        if values := form.values_now(experiment):  # what was kept and cut by hand belonged to another plan
            form.set_values(experiment.name, values | {"keep": "", "cut": ""})


def open_in_next_run(experiment: Experiment, name: str) -> None:
    """Asks for a kept plan from where the sliders are drawn already, so that they cannot be moved any more."""
    st.session_state[_NEXT_KEY] = (experiment.name, name)


def open_waiting(found: Measured) -> None:
    """Shows the plan that the run before asked for; only before the sliders are drawn."""
    experiment_name, name = st.session_state.pop(_NEXT_KEY, (None, None))
    if experiment_name == found.experiment.name:
        open_named(found, name)


def planned(found: Measured, name: str, settings: Settings) -> Planned:
    """The kept plan with the changes by hand of these settings; nothing is protected in it, it cuts what it cuts."""
    plan = experiment_plan(found.experiment, name)
    floors = Floors(remove_empty_layers=plan.remove_empty_layers)
    return Planned(changed_by_hand(plan, settings, floors), Protection.none(plan.shape.num_layers), floors)


def experiment_plan(experiment: Experiment, name: str) -> PruningPlan:
    """A kept plan by its name, or the experiment's own; raises PruningError when it cannot be read."""
    return experiment.read_plan() if name == SAVED else workspace.named_plan(experiment, name)


def _sliders_give(found: Measured, plan: PruningPlan, settings: Settings) -> bool:
    """Whether the sliders, set by these settings, give just this plan."""
    try:
        values = values_of(settings, plan.shape.num_layers)
        of_sliders = settings_of(values, plan.shape.num_layers)
    except PruningError:
        return False
    return settings_give(plan, found.table, of_sliders, found.layers)
