"""Settings -> plan: turns flat settings into the arguments of `planning.allocation`. Imports no torch."""

import numpy as np

from ..planning.allocation import Floors, Protection, allocate_global
from ..planning.group_table import GroupTable
from ..planning.groups import GroupIndex
from ..planning.plan import PruningPlan
from ..planning.shape import ModelShape
from ..settings import SETTINGS

PLAN_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.group == "plan")


def protection_from_settings(num_layers: int, settings: dict) -> Protection:
    """Which layers may be cut; raises PruningError when that is none."""
    ranges = {
        kind: (settings[f"block_{kind}_layer_start"], settings[f"block_{kind}_layer_end"]) for kind in ("attention", "mlp")
    }
    return Protection.resolve(num_layers, **ranges, protected_layers=settings["protected_layers"])


def floors_from_settings(settings: dict) -> Floors:
    return Floors(settings["min_kv_groups"], settings["min_mlp_channels"], settings["remove_empty_layers"])


def plan_from_settings(table: GroupTable, settings: dict) -> PruningPlan:
    """The plan that these settings give for a table; raises PruningError when they ask for the impossible."""
    return allocate_global(
        table,
        settings["pruning_ratio"],
        protection_from_settings(table.shape.num_layers, settings),
        floors_from_settings(settings),
        settings["ratio_basis"],
        settings["pruning_distribution"],
        settings={"strategy": "global"} | {name: settings[name] for name in PLAN_SETTINGS},
    )


def check_plan_settings(shape: ModelShape, settings: dict) -> None:
    """Raises PruningError when no table of this model could give a plan with these settings."""
    cost = GroupIndex(shape).cost.astype(np.float64)
    cheapest_first = GroupTable(shape, cost * cost, {})  # score = cost: what any table can cut, this one can
    plan_from_settings(cheapest_first, settings)
