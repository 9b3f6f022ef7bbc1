"""Settings -> plan: turns flat settings into the arguments of `pruning.planning`, for each strategy. Imports no torch.

settings, table, layer importance  ->  protection  ->  strategy  ->  rounding of MLP widths  ->  changes by hand  ->  plan
"""

import pkgutil
from dataclasses import dataclass, replace

import numpy as np

from ..errors import PruningError
from ..settings import Settings, merged, plan_settings
from ..strategies import STRATEGIES
from .allocation import Floors, allocate_global, parse_split, removable
from .block_counts import layerwise_counts, plan_from_counts, rounded_up, uniform_counts
from .group_table import GroupTable
from .groups import GroupIndex, name_groups, parse_groups
from .layer_importance import LayerImportance
from .layer_rates import UNIFORM, LayerRates, layer_rates, layer_weights
from .plan import PruningPlan, target_basis
from .protection import Protection
from .shape import GROUP_TYPES, ModelShape

RANGE_SETTINGS = tuple(f"block_{kind}_layer_{end}" for kind in GROUP_TYPES for end in ("start", "end"))

_PROTECTING = ("layer_start", "layer_end", *RANGE_SETTINGS, "protected_layers", "freeze_top_n_layers")


@dataclass(frozen=True)
class Planned:
    """A plan, what was protected for it, and the rates of layers where the strategy has them."""

    plan: PruningPlan
    protection: Protection
    floors: Floors
    rates: LayerRates | None = None


@dataclass(frozen=True)
class Limits:
    """What a strategy keeps to; `split` as in pruning_distribution, `layers` the importance of layers where it is known."""

    protection: Protection
    floors: Floors
    split: str
    layers: LayerImportance | None


def plan_from_settings(table: GroupTable, settings: Settings, layers: LayerImportance | None = None) -> Planned:
    """The plan that these settings give; `layers` is needed by rates that follow their importance, and by freezing.

    Raises PruningError when the settings contradict each other or ask for the impossible.
    """
    check_together(settings, table.shape)
    protection = protection_from_settings(table.shape, settings, layers).within(table.measured_layers, table.shape.num_layers)
    floors = floors_from_settings(settings)
    plan_by = pkgutil.resolve_name(f"{__package__}.{STRATEGIES[settings.strategy].planned_by}")
    plan, rates = plan_by(table, settings, Limits(protection, floors, _split(settings), layers))
    if settings.mlp_multiple > 1:
        plan = plan_from_counts(table, rounded_up(plan.kept_counts, table.shape, settings.mlp_multiple), floors)
    plan = changed_by_hand(plan, settings, floors)
    if plan.kept.all():
        raise PruningError("nothing_left_to_cut", ratio=settings.pruning_ratio)
    return Planned(replace(plan, settings=plan_settings(settings)), protection, floors, rates)


def plan_global(table: GroupTable, settings: Settings, limits: Limits) -> tuple[PruningPlan, None]:
    """The lowest scores of the whole model."""
    plan = allocate_global(table, settings.pruning_ratio, limits.protection, limits.floors, settings.ratio_basis, limits.split)
    return plan, None


def plan_layer(table: GroupTable, settings: Settings, limits: Limits) -> tuple[PruningPlan, LayerRates]:
    """A rate for each layer, and the lowest scores of each."""
    rates = rates_from_settings(table.shape, settings, limits.protection, limits.layers)
    counts = layerwise_counts(table.shape, rates, limits.split, limits.protection, limits.floors)
    return plan_from_counts(table, counts, limits.floors), rates


def plan_uniform(table: GroupTable, settings: Settings, limits: Limits) -> tuple[PruningPlan, None]:
    """The same number of groups from every layer; raises PruningError where a group has no score."""
    missing = table.groups.size - len(table.order)
    if missing:
        raise PruningError("uniform_needs_all_groups", missing=missing)
    counts = uniform_counts(table.shape, settings.pruning_ratio, limits.split, limits.floors)
    return plan_from_counts(table, counts, limits.floors), None


def settings_give(plan: PruningPlan, table: GroupTable, settings: Settings, layers: LayerImportance | None) -> bool:
    """Whether these settings, planned at once, give just this plan: it is not from a file or made in rounds."""
    try:
        return plan_from_settings(table, settings, layers).plan.digest == plan.digest
    except PruningError:
        return False


def check_together(settings: Settings, shape: ModelShape) -> None:
    """Raises PruningError for settings that contradict each other."""
    if settings.layer_start is not None or settings.layer_end is not None:
        for name in RANGE_SETTINGS:
            if getattr(settings, name) is not None:
                raise PruningError("settings_exclusive", first="layer_start / layer_end", second=name)
        measured_layers(settings, shape.num_layers)
    lowest, highest = settings.layer_min_pruning_rate, settings.layer_max_pruning_rate
    if lowest > highest:
        raise PruningError("rates_reversed", minimum=lowest, maximum=highest)
    if settings.freeze_top_n_layers >= shape.num_layers:
        raise PruningError("freeze_all", frozen=settings.freeze_top_n_layers, layers=shape.num_layers)
    if settings.match_target and settings.ratio_basis == "selected":
        raise PruningError("settings_exclusive", first="match_target", second="ratio_basis selected")
    strategy = STRATEGIES[settings.strategy]
    if settings.match_target and not strategy.has_layer_rates:
        raise PruningError("settings_exclusive", first=settings.strategy, second="match_target")
    if settings.ratio_basis == "selected" and not strategy.protects:
        raise PruningError("settings_exclusive", first=settings.strategy, second="ratio_basis selected")
    if not strategy.protects:
        for name in _PROTECTING:
            value = getattr(settings, name)
            whole_model = name.endswith("_end") and value == shape.num_layers
            if value not in (None, "", 0, "none") and not whole_model:
                raise PruningError("uniform_protects_nothing", name=name)


def check_model_settings(shape: ModelShape, settings: Settings) -> None:
    """Raises PruningError when a size that was given to be checked is not the model's."""
    layer = shape.layers[0]
    for name, found in (("head_dim", layer.head_dim), ("gqa_ratio", layer.num_key_value_groups)):
        given = getattr(settings, name)
        if given not in (None, found):
            raise PruningError("model_differs", name=name, given=given, found=found)


def _split(settings: Settings) -> str:
    """`pruning_distribution`, or the one-sided split that prune_attention or prune_mlp asks for."""
    split = settings.pruning_distribution
    shares = parse_split(split)
    may_go = (settings.prune_attention, settings.prune_mlp)
    if all(may_go):
        return split
    if not any(may_go):
        raise PruningError("prune_nothing")
    if shares is None:
        return "10:0" if may_go[0] else "0:10"
    for share, may, name in zip(shares, may_go, ("prune_attention", "prune_mlp"), strict=True):
        if share and not may:
            raise PruningError("split_contradicts", split=split, name=name)
    return split


def floors_from_settings(settings: Settings) -> Floors:
    return Floors(settings.min_kv_groups, settings.min_mlp_channels, settings.remove_empty_layers)


def rates_from_settings(
    shape: ModelShape, settings: Settings, protection: Protection, layers: LayerImportance | None
) -> LayerRates:
    """Rates of layer-wise pruning; raises PruningError when they need an importance of layers that is not there."""
    strategy = settings.pruning_strategy
    if layers is None and strategy != UNIFORM:
        raise PruningError("layer_importance_needed", setting=f"pruning_strategy {strategy}")
    importance = np.ones(shape.num_layers) if layers is None else layers.importance
    return layer_rates(
        shape,
        layer_weights(importance, strategy, settings.importance_weight),
        settings.pruning_ratio,
        protection,
        settings.layer_min_pruning_rate,
        settings.layer_max_pruning_rate,
        target_basis(plan_settings(settings)),
        attention_share=(parse_split(_split(settings)) or (None,))[0],
        floors=floors_from_settings(settings),
    )


def needs_layer_importance(settings: Settings) -> bool:
    """Whether these settings cannot give a plan without the importance of layers."""
    strategy = STRATEGIES[settings.strategy]
    follows = strategy.has_layer_rates and settings.pruning_strategy != UNIFORM
    return follows or (settings.freeze_top_n_layers > 0 and strategy.protects)


def check_plan_settings(shape: ModelShape, settings: Settings) -> None:
    """Raises PruningError when no table of this model could give a plan with these settings."""
    plan_of_sizes(shape, settings)


def plan_of_sizes(shape: ModelShape, settings: Settings, layers: LayerImportance | None = None) -> PruningPlan:
    """The plan that these settings give when no group was measured: sizes of `uniform`, and of `layer` with equal rates or
    with `layers`, are right, which groups go is not known. Raises PruningError where no table could give a plan.
    """
    cost = GroupIndex(shape).cost.astype(np.float64)
    cheapest_first = GroupTable(shape, cost * cost, {})  # score = cost: what any table can cut, this one can
    measured = cheapest_first.restricted(measured_layers(settings, shape.num_layers))
    check_together(settings, shape)
    if layers is None:  # which are frozen, and what rates follow importance, shows when layers are measured
        settings = replace(settings, freeze_top_n_layers=0, pruning_strategy=UNIFORM)
    return plan_from_settings(measured, settings, layers).plan


def largest_ratio_for(table: GroupTable, planned: Planned) -> float:
    """The largest share of all parameters that goes under this protection, these floors and this split."""
    going = removable(table, planned.protection, planned.floors)
    split = parse_split(_split(merged(Settings(), planned.plan.settings)))
    if split is not None:
        is_mlp = table.groups.is_mlp[going].astype(int)
        going = going[np.array(split)[is_mlp] > 0]
    return int(table.groups.cost[going].sum()) / table.shape.parameters


def changed_by_hand(plan: PruningPlan, settings: Settings, floors: Floors) -> PruningPlan:
    """The plan with the groups that a person keeps or cuts; raises PruningError where a floor would break."""
    if not (settings.keep_groups or settings.cut_groups):
        return plan
    keep, cut = parse_groups(settings.keep_groups, plan.groups), parse_groups(settings.cut_groups, plan.groups)
    both = np.intersect1d(keep, cut)
    if len(both):
        raise PruningError("hand_both", name=name_groups(both[:1], plan.groups))
    kept = plan.kept.copy()
    kept[keep], kept[cut] = True, False
    counts = np.bincount(plan.groups.block, weights=kept, minlength=2 * plan.shape.num_layers).astype(np.int64)
    floor = floors.per_block(plan.shape).ravel()
    touched = np.isin(np.arange(len(counts)), plan.groups.block[cut])
    broken = np.flatnonzero((counts < floor) & touched)
    if len(broken):
        layer, kind = divmod(int(broken[0]), 2)
        raise PruningError(
            "hand_floor", layer=layer, kind=GROUP_TYPES[kind], kept=int(counts[broken[0]]), floor=int(floor[broken[0]])
        )
    return replace(plan, kept=kept, by_hand=np.union1d(plan.by_hand, np.union1d(keep, cut)))


def protection_from_settings(shape: ModelShape, settings: Settings, layers: LayerImportance | None = None) -> Protection:
    """Which layers may be cut; raises PruningError when that is none."""
    if not STRATEGIES[settings.strategy].protects:
        return Protection.none(shape.num_layers)
    ranges = {
        kind: (getattr(settings, f"block_{kind}_layer_start"), getattr(settings, f"block_{kind}_layer_end"))
        for kind in GROUP_TYPES
    }
    if (settings.layer_start, settings.layer_end) != (None, None):
        layers_cut = measured_layers(settings, shape.num_layers)
        ranges = dict.fromkeys(GROUP_TYPES, (layers_cut.start, layers_cut.stop))
    protection = Protection.resolve(shape.num_layers, **ranges, protected_layers=settings.protected_layers)
    frozen = settings.freeze_top_n_layers
    if not frozen:
        return protection
    if layers is None:
        raise PruningError("layer_importance_needed", setting=f"freeze_top_n_layers {frozen}")
    most_important = np.argsort(layers.rank)[:frozen]
    return protection.freezing(tuple(int(layer) for layer in most_important), shape.num_layers)


def measured_layers(settings: Settings, num_layers: int) -> range:
    """The layers whose groups are scored: all, unless `layer_start` / `layer_end` limit a quick trial."""
    start, end = settings.layer_start or 0, settings.layer_end or num_layers
    if not 0 <= start < end <= num_layers:
        raise PruningError("layer_range", first="layer_start", second="layer_end", start=start, end=end, layers=num_layers)
    return range(start, end)
