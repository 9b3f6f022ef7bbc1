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
    scores_split: bool = False  # how attention and MLP share the cut may be left to the scores
    has_layer_rates: bool = False  # a rate for each layer: by importance, between two bounds
    protects: bool = True  # layers can be protected
    sizes_need_scores: bool = False  # how many groups go from each layer is known only when they are scored


_ALL = (
    Strategy(
        "global",
        "measure, cut the lowest-scored groups of the whole model, evaluate, save",
        "planner:plan_global",
        scores_split=True,
        sizes_need_scores=True,
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


def strategy_of_plan(settings: Mapping[str, Any]) -> Strategy | None:
    """The strategy of the settings that a plan was made with; None where it was made without one."""
    return STRATEGIES.get(settings.get("strategy", ""))
