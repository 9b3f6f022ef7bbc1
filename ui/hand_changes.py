"""Groups that a person keeps or cuts whatever the strategy says; they live in the two text fields of the Plan page's limits."""

import numpy as np

from pruning.experiment import Experiment
from pruning.planning.group_names import name_groups, parse_groups
from pruning.planning.groups import GroupIndex
from ui import plan_form


def change(experiment: Experiment, groups: GroupIndex, what: str, positions: np.ndarray) -> None:
    """Keeps these groups, cuts them, or forgets (`forget`) what was said of them; runs before the page is drawn."""
    values = plan_form.values_now(experiment)
    named = {field: np.setdiff1d(parse_groups(values[field], groups), positions) for field in ("keep", "cut")}
    if what in named:
        named[what] = np.union1d(named[what], positions)
    texts = {field: name_groups(at, groups) for field, at in named.items()}
    plan_form.set_values(experiment.name, values | texts)
