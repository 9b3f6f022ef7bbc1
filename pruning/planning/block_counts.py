"""How many groups stay in each block (a layer's attention, or its MLP), and the plan that follows: the best stay.

Layer-wise and uniform pruning decide counts first and groups second; hardware multiples round the counts of any strategy.
"""

import numpy as np

from ..errors import PruningError
from .allocation import Floors, parse_split, unreachable
from .group_table import GroupTable
from .layer_rates import LayerRates
from .plan import PruningPlan
from .protection import Protection
from .shape import ModelShape


def plan_from_counts(table: GroupTable, kept_counts: np.ndarray, floors: Floors, settings: dict | None = None) -> PruningPlan:
    """The plan that keeps the best-scored groups of each block; `kept_counts` [layers, 2] int64: attention, MLP."""
    kept = table.rank_from_best < kept_counts.ravel()[table.groups.block]
    return PruningPlan(table.shape, kept, floors.remove_empty_layers, table.source.get("fingerprint"), settings or {})


def layerwise_counts(
    shape: ModelShape, rates: LayerRates, pruning_distribution: str, protection: Protection, floors: Floors
) -> np.ndarray:
    """Groups that stay when each layer loses its rate, shared between attention and MLP, [layers, 2] int64.

    Attention groups removed = the layer's attention budget / cost, rounded to whole groups; what rounding or a floor
    leaves over goes to the MLP, unless its share is 0. Never below the floors; protected blocks stay whole.
    """
    split = _explicit_split(pruning_distribution)
    whole = np.array([[layer.num_key_value_heads, layer.intermediate_size] for layer in shape.layers])
    lowest = np.where(protection.cuttable(shape.num_layers), floors.per_block(shape), whole)
    budgets = [
        rate * (layer.attention_parameters + layer.mlp_parameters)
        for rate, layer in zip(rates.applied, shape.layers, strict=True)
    ]
    return np.array(
        [_shared(layer, budget, split, low) for layer, budget, low in zip(shape.layers, budgets, lowest, strict=True)]
    )


def uniform_counts(shape: ModelShape, pruning_ratio: float, pruning_distribution: str, floors: Floors) -> np.ndarray:
    """The same counts for every layer, so that each matrix has one size, [layers, 2] int64.

    `pruning_ratio` is a share of all parameters. Raises PruningError when the layers differ in size already, or when the
    ratio asks for more than the floors leave; a split that cannot spend its budget cuts down to the floors.
    """
    if not shape.is_uniform:
        raise PruningError("uniform_needs_equal_layers")
    layer = shape.layers[0]
    budget = pruning_ratio * shape.parameters / shape.num_layers
    low = floors.per_block(shape).max(axis=0)
    heads, width = layer.num_key_value_heads - low[0], layer.intermediate_size - low[1]
    largest = heads * layer.attention_group_cost + width * layer.mlp_channel_cost
    if largest < int(budget):
        raise unreachable(pruning_ratio, "model", largest * shape.num_layers / shape.parameters)
    counts = _shared(layer, budget, _explicit_split(pruning_distribution), low)
    return np.tile(counts, (shape.num_layers, 1))


def rounded_up(counts: np.ndarray, shape: ModelShape, mlp_multiple: int) -> np.ndarray:
    """The counts with each cut MLP's width rounded up to a multiple, never above what it had, [layers, 2] int64."""
    widths = np.array([layer.intermediate_size for layer in shape.layers])
    rounded = counts.copy()
    rounded[:, 1] = np.minimum(-(-counts[:, 1] // mlp_multiple) * mlp_multiple, widths)
    return rounded


def _shared(layer, budget: float, split: tuple[float, float], lowest: np.ndarray) -> tuple[int, int]:
    """(attention groups, MLP channels) of one layer that stay when `budget` parameters may go."""
    attention_share, mlp_share = split
    heads, width = layer.num_key_value_heads, layer.intermediate_size
    attention_gone = min(round(budget * attention_share / layer.attention_group_cost), heads - min(lowest[0], heads))
    rest = budget - attention_gone * layer.attention_group_cost if mlp_share else 0.0
    # One part in 10^12 of a channel: a budget of just n channels must not lose one to rounding.
    mlp_gone = min(int(max(rest, 0) / layer.mlp_channel_cost + 1e-12), width - min(lowest[1], width))
    return heads - attention_gone, width - mlp_gone


def _explicit_split(pruning_distribution: str) -> tuple[float, float]:
    split = parse_split(pruning_distribution)
    if split is None:
        raise PruningError("split_auto")
    return split
