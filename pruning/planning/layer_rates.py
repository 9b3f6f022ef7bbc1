"""Layer importance -> a pruning rate for every layer: the first half of layer-wise pruning (docs/methods.md section 4).

    importance of layers -> weights -> rates for all layers -> filter: protected layers get 0

A rate is a share of the layer's prunable parameters (attention and MLP, without norms). Knows nothing about groups.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import PruningError
from .allocation import ratio_base
from .protection import Protection
from .shape import ModelShape

UNIFORM, INVERSE, PROPORTIONAL = "uniform", "inverse", "proportional"
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
    attention_share: float = 1.0,
) -> LayerRates:
    """Rates of all layers, then 0 for protected ones; bounds win over the target.

    `basis` says what `pruning_ratio` refers to: `prunable`, the attention and MLP of all layers, protected ones included,
    so that less goes in the end; `selected`, the parameters of the layers that may be cut; `model`, all parameters
    (`match_target`: the layers that may be cut lose that much). `attention_share` of a layer's budget is all that goes
    where its MLP is protected.
    """
    prunable = np.array([layer.attention_parameters + layer.mlp_parameters for layer in shape.layers], dtype=np.float64)
    may_go = protection.cuttable(shape.num_layers)
    cuttable = may_go.any(axis=1)
    if basis == "prunable":
        target, solved_over, spent = pruning_ratio * prunable.sum(), np.ones(shape.num_layers, dtype=bool), prunable
    else:
        target, solved_over = pruning_ratio * ratio_base(shape, protection, basis), cuttable
        spent = prunable * np.where(may_go[:, 1], 1.0, attention_share)  # what the MLP would take, where it may not be cut
    scale, met = _solve_scale(weights[solved_over], spent[solved_over], target, minimum, maximum)
    computed = np.clip(scale * weights, minimum, maximum)
    return LayerRates(computed, np.where(cuttable, computed, 0.0), scale, met)


def _solve_scale(
    weights: np.ndarray, parameters: np.ndarray, target: float, minimum: float, maximum: float
) -> tuple[float, bool]:
    """c with sum of parameters * clip(c * weights, minimum, maximum) = target, and whether there is one.

    The sum is piecewise linear in c, with a corner where a layer leaves its lower or reaches its upper bound: exact
    interpolation between corners.
    """
    corners = np.unique(np.concatenate([minimum / weights, maximum / weights]))
    sums = np.clip(corners[:, None] * weights, minimum, maximum) @ parameters
    if target <= sums[0]:
        return float(corners[0]), bool(np.isclose(target, sums[0], rtol=1e-12))
    if target >= sums[-1]:
        return float(corners[-1]), bool(np.isclose(target, sums[-1], rtol=1e-12))
    after = int(np.searchsorted(sums, target))
    share = (target - sums[after - 1]) / (sums[after] - sums[after - 1])
    return float(corners[after - 1] + share * (corners[after] - corners[after - 1])), True
