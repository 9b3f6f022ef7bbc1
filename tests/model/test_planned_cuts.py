"""The shape that a plan of any strategy predicts is that of the model which is cut by it, on all families."""

import numpy as np
import pytest

from pruning.errors import PruningError
from pruning.model.surgery import cut
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.layer_importance import LayerImportance
from pruning.planning.planner import plan_from_settings
from pruning.planning.shape import ModelShape
from pruning.settings import resolve
from tests.tiny_models import FAMILIES, tiny_model

SPLITS = ("2:8", "5:5", "0:10", "8:2")


def random_plan(shape: ModelShape, strategy: str, rng: np.random.Generator):
    """A plan of random scores and settings; only reachable ones."""
    groups = GroupIndex(shape)
    table = GroupTable(shape, rng.lognormal(0, 1, groups.size) * groups.cost, {})
    layers = LayerImportance("removal", rng.lognormal(0, 1, shape.num_layers), None, {})
    while True:
        given = {"pruning_ratio": rng.uniform(0.05, 0.6), "remove_empty_layers": bool(rng.integers(2))}
        given |= {"mlp_multiple": int(rng.choice([1, 1, 5])), "layer_max_pruning_rate": 0.95}
        given["pruning_distribution"] = str(rng.choice(SPLITS if strategy != "global" else ("auto", *SPLITS)))
        if strategy != "uniform":
            given |= {"protected_layers": "none", "cut_groups": "2a0-3,2m0-22", "keep_groups": "1m3"}
        if strategy == "layer":
            given["pruning_strategy"] = str(rng.choice(["inverse", "proportional"]))
        try:
            return plan_from_settings(table, resolve(given, strategy), layers).plan
        except PruningError as error:
            assert error.code in (
                "ratio_unreachable",
                "split_unreachable",
                "nothing_to_cut",
                "nothing_left_to_cut",
                "hand_floor",
            ), error


@pytest.mark.parametrize("strategy", ["global", "layer", "uniform"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_has_the_predicted_shape(family, strategy):
    model = tiny_model(family, bias=True)
    shape = ModelShape.from_config(model.config.to_dict())
    rng = np.random.default_rng(FAMILIES.index(family))
    for _ in range(3):
        plan = random_plan(shape, strategy, rng)
        pruned = cut(model, plan)
        predicted = plan.shape_after
        assert {name: tuple(p.shape) for name, p in pruned.named_parameters()} == predicted.tensor_shapes()
        assert sum(p.numel() for p in pruned.parameters()) == predicted.parameters
        assert 1 - predicted.parameters / model.num_parameters() == pytest.approx(plan.actual_ratio)
