"""Groups that a person keeps or cuts whatever the strategy says; they live in the two text fields of the Plan page's limits."""

import numpy as np

from pruning.experiment import Experiment
from pruning.planning.groups import GroupIndex, name_groups, parse_groups
from ui.plan import form


def change(experiment: Experiment, groups: GroupIndex, what: str, positions: np.ndarray) -> None:
    """Keeps these groups, cuts them, or forgets (`forget`) what was said of them; runs before the page is drawn."""
    values = form.values_now(experiment)
    named = {field: np.setdiff1d(parse_groups(values[field], groups), positions) for field in ("keep", "cut")}
    if what in named:
        named[what] = np.union1d(named[what], positions)
    texts = {field: name_groups(at, groups) for field, at in named.items()}
    form.set_values(experiment.name, values | texts)
