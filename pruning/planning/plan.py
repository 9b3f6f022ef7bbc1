"""A pruning plan: for each layer, which attention groups and which MLP channels stay, and the shape that this gives.

Read from and written to `plan.json`. Knows nothing about why a group stays; `allocation.py` decides that.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..errors import PruningError
from ..settings import SETTINGS
from ..strategies import DEFAULT_STRATEGY, is_strategy, strategy_of_plan
from .groups import GroupIndex, name_groups, parse_groups
from .shape import ATTENTION, GROUP_TYPES, LayerShape, ModelShape

FORMAT_VERSION = 1
TARGET_BASES = {  # what a target ratio refers to, in words
    "model": "all parameters",
    "selected": "the parameters of the layers that may be cut",
    "prunable": "attention and MLP of all layers",
}


@dataclass(frozen=True)
class PruningPlan:
    """`kept` is a flat mask over the groups of `shape` (see groups.py), [groups] bool.

    `by_hand` are the positions of groups that a person kept or cut whatever the strategy said, ascending int64.
    """

    shape: ModelShape
    kept: np.ndarray
    remove_empty_layers: bool = False
    fingerprint: str | None = None
    settings: dict = field(default_factory=dict)
    by_hand: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self):
        if not self.kept[self.groups.slice_of(0, ATTENTION)].any():
            raise PruningError("first_layer_attention")

    @classmethod
    def keep_all(cls, shape: ModelShape, **fields) -> "PruningPlan":
        return cls(shape, np.ones(GroupIndex(shape).size, dtype=bool), **fields)

    @cached_property
    def groups(self) -> GroupIndex:
        return GroupIndex(self.shape)

    def kept_groups(self, layer_idx: int, group_type: str) -> np.ndarray:
        """Indices of the groups of one block that stay, ascending int64."""
        return np.flatnonzero(self.kept[self.groups.slice_of(layer_idx, group_type)])

    @cached_property
    def kept_counts(self) -> np.ndarray:
        """Groups that stay, [layers, 2] int64: attention groups, MLP channels."""
        counts = np.bincount(self.groups.block, weights=self.kept, minlength=2 * self.shape.num_layers)
        return counts.astype(np.int64).reshape(-1, 2)

    @cached_property
    def resized_layers(self) -> tuple[LayerShape, ...]:
        """Every layer of the source model at its new size, deleted ones included."""
        return tuple(
            layer.resized(int(attention), int(mlp))
            for layer, (attention, mlp) in zip(self.shape.layers, self.kept_counts, strict=True)
        )

    @cached_property
    def kept_layers(self) -> tuple[int, ...]:
        """Indices of the source layers that the cut model has."""
        layers = enumerate(self.resized_layers)
        return tuple(i for i, layer in layers if not (self.remove_empty_layers and layer.is_deletable))

    @cached_property
    def shape_after(self) -> ModelShape:
        """The shape of the cut model."""
        return replace(self.shape, layers=tuple(self.resized_layers[i] for i in self.kept_layers))

    @cached_property
    def removed_parameters(self) -> np.ndarray:
        """Parameters of the removed groups, [layers, 2] int64: attention, MLP."""
        costs = self.groups.block_costs.reshape(-1, 2)
        return (self.groups.block_sizes.reshape(-1, 2) - self.kept_counts) * costs

    @property
    def target_basis(self) -> str:
        """What the target refers to; see the function of this name."""
        return target_basis(self.settings)

    @cached_property
    def digest(self) -> str:
        """Names what the plan leaves, whatever settings led to it: 16 hexadecimal digits."""
        content = np.packbits(self.kept).tobytes() + bytes([self.remove_empty_layers]) + str(self.fingerprint).encode()
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def actual_ratio(self) -> float:
        """Removed share of all parameters of the model."""
        return 1 - self.shape_after.parameters / self.shape.parameters

    def to_json(self) -> dict:
        """The content of `plan.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "remove_empty_layers": self.remove_empty_layers,
            "parameters": {"before": self.shape.parameters, "after": self.shape_after.parameters},
            "by_hand": name_groups(self.by_hand, self.groups),
            "layers": [
                {"layer_idx": i} | {kind: self.kept_groups(i, kind).tolist() for kind in GROUP_TYPES}
                for i in range(self.shape.num_layers)
            ],
        }

    @classmethod
    def from_json(cls, content: dict, shape: ModelShape, fingerprint: str | None = None, path="plan.json") -> "PruningPlan":
        """The plan a `plan.json` holds, checked against the model it is for; raises PruningError naming the layer."""
        if content.get("format_version") != FORMAT_VERSION:
            raise PruningError("format_version", path=path, found=content.get("format_version"), expected=FORMAT_VERSION)
        found = content.get("fingerprint")
        if found is not None and not isinstance(found, str):
            raise PruningError("file_broken", path=path, reason="its fingerprint is not text")
        if fingerprint and found and found != fingerprint:
            raise PruningError("plan_other_model", path=path, found=found[:12], expected=fingerprint[:12])
        # A config alone has no fingerprint; a plan says how many parameters its model had.
        parameters = content.get("parameters")
        before = parameters.get("before") if isinstance(parameters, dict) else None
        if before not in (None, shape.parameters):
            raise PruningError("plan_other_size", path=path, found=before, expected=shape.parameters)
        settings = _checked_settings(content.get("settings"), path)
        groups = GroupIndex(shape)
        kept = np.zeros(groups.size, dtype=bool)
        for layer_idx, entry in enumerate(_one_entry_per_layer(content.get("layers"), shape.num_layers, path)):
            for kind in GROUP_TYPES:
                kept[groups.slice_of(layer_idx, kind)] = _mask(entry.get(kind), shape, layer_idx, kind, path)
        by_hand = parse_groups(str(content.get("by_hand") or ""), groups)
        return cls(shape, kept, bool(content.get("remove_empty_layers")), found, settings, by_hand)


def _checked_settings(settings, path) -> dict:
    """The settings a plan was made with, each in its type; raises PruningError for one that is none."""
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not is_strategy(settings.get("strategy", DEFAULT_STRATEGY)):
        raise PruningError("file_broken", path=path, reason="its settings are not those of a plan")
    return {name: SETTINGS[name].parse(value) if name in SETTINGS else value for name, value in settings.items()}


def target_basis(settings: dict) -> str:
    """What `pruning_ratio` refers to: `model` all parameters, `selected` those of the layers that may be cut, `prunable`
    attention and MLP of all layers (layer-wise rates, before protection is taken out).
    """
    basis = settings.get("ratio_basis", "model")
    strategy = strategy_of_plan(settings)
    if strategy and strategy.has_layer_rates and basis == "model" and not settings.get("match_target"):
        return "prunable"
    return basis


def _one_entry_per_layer(entries, num_layers: int, path) -> list[dict]:
    well_formed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    found = [entry.get("layer_idx") for entry in entries] if well_formed else None
    if found != list(range(num_layers)):
        raise PruningError("plan_groups", path=path, layer=f"0 to {num_layers - 1}", reason="one entry per layer is needed")
    return entries


def _mask(indices, shape: ModelShape, layer_idx: int, kind: str, path) -> np.ndarray:
    count = shape.layers[layer_idx].group_count(kind)
    mask = np.zeros(count, dtype=bool)
    integers = isinstance(indices, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in indices)
    if not integers or any(not 0 <= i < count for i in indices):
        reason = f"{kind} must be a list of whole numbers from 0 to {count - 1}"
    elif len(set(indices)) != len(indices):
        reason = f"{kind} names a group twice"
    else:
        mask[indices] = True
        return mask
    raise PruningError("plan_groups", path=path, layer=layer_idx, reason=reason)


@dataclass(frozen=True)
class PlanTotals:
    """What a plan takes from the whole model."""

    parameters_after: int
    parameters_removed: int
    bytes_after: int
    bytes_removed: int
    attention_groups_removed: int
    mlp_channels_removed: int
    layers_removed: int


def plan_totals(plan: PruningPlan, bytes_per_parameter: int) -> PlanTotals:
    """Totals of a plan; bytes are those of the weights alone."""
    after = plan.shape_after.parameters
    removed = plan.shape.parameters - after
    groups = plan.groups.block_sizes.reshape(-1, 2).sum(axis=0) - plan.kept_counts.sum(axis=0)
    return PlanTotals(
        parameters_after=after,
        parameters_removed=removed,
        bytes_after=after * bytes_per_parameter,
        bytes_removed=removed * bytes_per_parameter,
        attention_groups_removed=int(groups[0]),
        mlp_channels_removed=int(groups[1]),
        layers_removed=plan.shape.num_layers - len(plan.kept_layers),
    )
