"""Every pruning strategy as a record: what it does, which settings it takes, and where its function is.

    settings, commands, pages, planner  --read-->  STRATEGIES  --name a function of-->  planning/

A new strategy is a function in a module of `planning/`, its record here, and its texts (`plan.strategy.<name>`,
`job.kind.<name>`, `job.failed.<name>`). Imports nothing: everything reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Strategy:
    """One way from scores to a plan (docs/methods.md section 4).

    `planned_by` is `module:name` in `planning/`: (table, settings, planner.Limits) -> (plan, rates of layers or None).
    """

    name: str
    help: str  # of the command
    planned_by: str
    defaults: Mapping[str, Any] = field(default_factory=dict)  # instead of a setting's own
    compares_layers: bool = False  # scores of all layers in one list: they say how much goes from each, and may say the split
    has_layer_rates: bool = False  # a rate for each layer: by importance, between two bounds
    protects: bool = True  # layers can be protected


_ALL = (
    Strategy(
        "global",
        "measure, cut the lowest-scored groups of the whole model, evaluate, save",
        "planner:plan_global",
        compares_layers=True,
    ),
    Strategy(
        "layer",
        "measure, give every layer a rate by its importance, cut the lowest groups of each, evaluate, save",
        "planner:plan_layer",
        {"num_samples": 10, "seq_len": 64, "pruning_distribution": "2:8"},
        has_layer_rates=True,
    ),
    Strategy(
        "uniform",
        "measure, cut the same number of groups from every layer, evaluate, save; any loader takes the result",
        "planner:plan_uniform",
        {"pruning_distribution": "2:8"},
        protects=False,
    ),
)
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ALL}
DEFAULT_STRATEGY = "global"


def is_strategy(value: Any) -> bool:
    """Whether a file's value names a strategy; it may be of any kind."""
    return isinstance(value, str) and value in STRATEGIES


def strategy_of_plan(settings: Mapping[str, Any]) -> Strategy | None:
    """The strategy of the settings that a plan was made with; None where it was made without one."""
    return STRATEGIES.get(settings.get("strategy", ""))
