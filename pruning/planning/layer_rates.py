"""Layer importance -> a pruning rate for every layer: the first half of layer-wise pruning (docs/methods.md section 4).

    importance of layers -> weights -> rates for all layers -> filter: protected layers get 0

A rate is a share of the layer's prunable parameters (attention and MLP, without norms). Knows nothing about groups.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import PruningError
from .allocation import Floors, ratio_base
from .protection import Protection
from .shape import ModelShape

UNIFORM, PROPORTIONAL = "uniform", "proportional"
_SMALLEST_WEIGHTED = 0.01  # of the median: a layer that measures as worthless must not draw the whole cut to itself


@dataclass(frozen=True)
class LayerRates:
    """Rates of all layers, [layers] float64: as computed, and as applied (0 where a layer is protected).

    `scale` is c in rate = clip(c * weight, min, max); `target_met` is False where no c within the bounds gives the target.
    """

    computed: np.ndarray
    applied: np.ndarray
    scale: float
    target_met: bool


def layer_weights(importance: np.ndarray, pruning_strategy: str, importance_weight: float) -> np.ndarray:
    """w_l for each layer: 1, (mean I / I_l)^weight, or (I_l / mean I)^weight; importance is [layers].

    Values below 1 % of the median of the positive ones count as that.
    """
    if pruning_strategy == UNIFORM:
        return np.ones(len(importance))
    positive = importance[importance > 0]
    if not len(positive):
        raise PruningError("layer_importance_flat")
    floored = np.maximum(importance, _SMALLEST_WEIGHTED * np.median(positive))
    relative = floored / floored.mean()
    return relative ** (importance_weight if pruning_strategy == PROPORTIONAL else -importance_weight)


def layer_rates(
    shape: ModelShape,
    weights: np.ndarray,
    pruning_ratio: float,
    protection: Protection,
    minimum: float,
    maximum: float,
    basis: str = "prunable",
    attention_share: float | None = None,
    floors: Floors | None = None,
) -> LayerRates:
    """Rates of all layers, then 0 for protected ones; bounds win over the target.

    `basis` says what `pruning_ratio` refers to: `prunable`, the attention and MLP of all layers, protected ones included,
    so that less goes in the end; `selected`, the parameters of the layers that may be cut; `model`, all parameters
    (`match_target`: the layers that may be cut lose that much). `attention_share` of a layer's budget goes to attention, where
    it is known: without a share of the MLP, or with one that is protected, no more than that goes, and above the `floors`.
    """
    prunable = np.array([layer.attention_parameters + layer.mlp_parameters for layer in shape.layers], dtype=np.float64)
    may_go = protection.cuttable(shape.num_layers)
    cuttable = may_go.any(axis=1)
    if basis == "prunable":
        target, solved_over = pruning_ratio * prunable.sum(), np.ones(shape.num_layers, dtype=bool)
        spent, most = prunable, np.full(shape.num_layers, np.inf)
    else:
        target, solved_over = pruning_ratio * ratio_base(shape, protection, basis), cuttable
        spent, most = _spendable(shape, prunable, may_go, attention_share, floors or Floors())
    scale, met = _solve_scale(weights[solved_over], spent[solved_over], most[solved_over], target, minimum, maximum)
    computed = np.clip(scale * weights, minimum, maximum)
    return LayerRates(computed, np.where(cuttable, computed, 0.0), scale, met)


def _spendable(
    shape: ModelShape, prunable: np.ndarray, may_go: np.ndarray, attention_share: float | None, floors: Floors
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of each layer that go at a rate of 1, and the most that can go: both as `block_counts` shares a budget."""
    if attention_share is None:
        return prunable, np.full(shape.num_layers, np.inf)
    goes = may_go & (attention_share > 0, attention_share < 1)
    costs = np.array([[layer.attention_group_cost, layer.mlp_channel_cost] for layer in shape.layers])
    counts = np.array([[layer.num_key_value_heads, layer.intermediate_size] for layer in shape.layers])
    most = (np.maximum(counts - floors.per_block(shape), 0) * costs * goes).sum(axis=1)
    # What attention leaves over goes to the MLP, where that has a share and may be cut.
    return prunable * np.where(goes[:, 1], 1.0, attention_share * goes[:, 0]), most


def _solve_scale(
    weights: np.ndarray, parameters: np.ndarray, most: np.ndarray, target: float, minimum: float, maximum: float
) -> tuple[float, bool]:
    """c with sum of min(parameters * clip(c * weights, minimum, maximum), most) = target, and whether there is one.

    The sum is piecewise linear in c, with a corner where a layer leaves its lower or reaches an upper bound: exact
    interpolation between corners.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.clip(np.nan_to_num(most / parameters, nan=maximum), minimum, maximum)
    corners = np.unique(np.concatenate([minimum / weights, full / weights, maximum / weights]))
    sums = np.minimum(np.clip(corners[:, None] * weights, minimum, maximum) * parameters, most).sum(axis=1)
    if target <= sums[0]:
        return float(corners[0]), bool(np.isclose(target, sums[0], rtol=1e-12))
    if target >= sums[-1]:
        return float(corners[-1]), bool(np.isclose(target, sums[-1], rtol=1e-12))
    after = int(np.searchsorted(sums, target))
    share = (target - sums[after - 1]) / (sums[after] - sums[after - 1])
    return float(corners[after - 1] + share * (corners[after] - corners[after - 1])), True
