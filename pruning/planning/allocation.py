"""Table + settings -> plan. Which groups go, and for each layer why it was spared.

    protection  which (layer, block) may not be touched       floors  the best groups of each block that must stay
    global      all other groups, lowest score first, the longest prefix whose cost fits the budget
                (the greedy solution of a fractional knapsack: score = importance / cost)

Numpy only; at Llama-3-8B size (458,752 channels) an answer takes milliseconds. Knows nothing about tensors or files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import PruningError
from .group_table import GroupTable
from .groups import GroupIndex
from .plan import TARGET_BASES, PruningPlan
from .shape import GROUP_TYPES, MLP, ModelShape


@dataclass(frozen=True)
class Protection:
    """Which layers may be cut. Ranges are half-open; `named` and `frozen` layers are spared in both blocks.

    `frozen` are the most important layers, the most important first.
    """

    attention: range
    mlp: range
    named: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()

    @classmethod
    def none(cls, num_layers: int) -> "Protection":
        """Every layer may be cut."""
        return cls(range(num_layers), range(num_layers))

    @classmethod
    def resolve(
        cls,
        num_layers: int,
        attention: tuple[int | None, int | None] = (None, None),
        mlp: tuple[int | None, int | None] = (None, None),
        protected_layers: str = "",
    ) -> "Protection":
        """Ranges with their defaults filled in, and the layers named in `protected_layers` (`0-2,17`, or `none`).

        Raises PruningError for reversed ranges, layers the model does not have, and when nothing is left to cut.
        """
        named = parse_layers(protected_layers, num_layers)
        default = range(0, num_layers) if named is None else default_cut_range(num_layers)
        protection = cls(
            _range("block_attention_layer", attention, default, num_layers),
            _range("block_mlp_layer", mlp, default, num_layers),
            named or (),
        )
        return protection._refuse_if_all(num_layers)

    def freezing(self, most_important: tuple[int, ...], num_layers: int) -> "Protection":
        """This protection, and these layers spared too; raises PruningError when nothing is left to cut."""
        return replace(self, frozen=most_important)._refuse_if_all(num_layers)

    def within(self, layers: range, num_layers: int) -> "Protection":
        """This protection, and layers outside `layers` (those that were measured) spared too."""
        attention, mlp = (range(max(one.start, layers.start), min(one.stop, layers.stop)) for one in (self.attention, self.mlp))
        return replace(self, attention=attention, mlp=mlp)._refuse_if_all(num_layers)

    def cuttable(self, num_layers: int) -> np.ndarray:
        """Whether each block may be cut, [layers, 2] bool: attention, MLP."""
        allowed = np.zeros((num_layers, 2), dtype=bool)
        allowed[self.attention.start : self.attention.stop, 0] = True
        allowed[self.mlp.start : self.mlp.stop, 1] = True
        allowed[[*self.named, *self.frozen]] = False
        return allowed

    def _refuse_if_all(self, num_layers: int) -> "Protection":
        if not self.cuttable(num_layers).any():
            raise PruningError("all_protected")
        return self


def default_cut_range(num_layers: int) -> range:
    """Layers that may be cut unless told otherwise: all but the first 3 and last 2, fewer in shallow models."""
    first, last = (3, 2) if num_layers >= 10 else (1, 1) if num_layers >= 4 else (0, 0)
    return range(first, num_layers - last)


def name_layers(layers: Sequence[int]) -> str:
    """Ascending layer indices as `parse_layers` reads them: `0-2,17,30-31`; `none` where there are none."""
    if not len(layers):
        return "none"
    runs = np.split(np.asarray(layers), np.flatnonzero(np.diff(layers) > 1) + 1)
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def parse_layers(text: str, num_layers: int) -> tuple[int, ...] | None:
    """Layers named as `0-2,17,30-31` (inclusive, zero-based), ascending; None for `none`. Raises PruningError."""
    if text.strip().lower() == "none":
        return None
    named: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise PruningError("layer_list", text=text)
        last = int(match[2] or match[1])
        if last >= num_layers:
            raise PruningError("layer_unknown", layer=last, last=num_layers - 1)
        named.update(range(int(match[1]), last + 1))
    return tuple(sorted(named))


def _range(name: str, given: tuple[int | None, int | None], default: range, num_layers: int) -> range:
    start = default.start if given[0] is None else given[0]
    end = default.stop if given[1] is None else given[1]
    if not 0 <= start < end <= num_layers:
        raise PruningError("layer_range", first=f"{name}_start", second=f"{name}_end", start=start, end=end, layers=num_layers)
    return range(start, end)


def parse_split(text: str) -> tuple[float, float] | None:
    """Attention and MLP share of what is removed, summing to 1; None for `auto`."""
    if text == "auto":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)\s*", text)
    if not match or float(match[1]) + float(match[2]) == 0:
        raise PruningError("split", value=text)
    attention, mlp = float(match[1]), float(match[2])
    return attention / (attention + mlp), mlp / (attention + mlp)


@dataclass(frozen=True)
class Floors:
    """How many groups stay in each block; `remove_empty_layers` lifts both floors and deletes emptied layers."""

    min_kv_groups: int = 1
    min_mlp_channels: int = 1
    remove_empty_layers: bool = False

    def per_block(self, shape: ModelShape) -> np.ndarray:
        """Groups that must stay, [layers, 2] int64."""
        floors = np.zeros((shape.num_layers, 2), dtype=np.int64)
        if not self.remove_empty_layers:
            floors[:] = self.min_kv_groups, self.min_mlp_channels
        floors[0, 0] = max(floors[0, 0], 1)  # the cache asks layer 0 for its length
        return np.minimum(floors, GroupIndex(shape).block_sizes.reshape(-1, 2))


def removable(table: GroupTable, protection: Protection, floors: Floors) -> np.ndarray:
    """Positions that may go, lowest score first: measured, unprotected, and not needed for a floor."""
    shape = table.shape
    per_block = floors.per_block(shape).ravel()
    per_block[~protection.cuttable(shape.num_layers).ravel()] = np.iinfo(np.int64).max
    return table.order[table.rank_in_order >= per_block[table.block_in_order]]


def ratio_base(shape: ModelShape, protection: Protection, basis: str) -> int:
    """Parameters that the ratio refers to: `model` all of them, `selected` those of the layers that may be cut."""
    if basis == "model":
        return shape.parameters
    touched = protection.cuttable(shape.num_layers).any(axis=1)
    return sum(layer.parameters for layer, cut in zip(shape.layers, touched, strict=True) if cut)


def largest_ratio(table: GroupTable, protection: Protection, floors: Floors, ratio_basis: str = "model") -> float:
    """The largest share of the basis that can be removed under this protection and these floors."""
    going = removable(table, protection, floors)
    return int(table.groups.cost[going].sum()) / ratio_base(table.shape, protection, ratio_basis)


def unreachable(pruning_ratio: float, ratio_basis: str, largest: float) -> PruningError:
    """The refusal of a ratio, which names the largest one, rounded down so that it can be asked for."""
    return PruningError(
        "ratio_unreachable", ratio=pruning_ratio, basis=TARGET_BASES[ratio_basis], largest=np.floor(largest * 1e4) / 1e4
    )


def allocate_global(
    table: GroupTable,
    pruning_ratio: float,
    protection: Protection,
    floors: Floors = Floors(),
    ratio_basis: str = "model",
    pruning_distribution: str = "auto",
    settings: dict | None = None,
) -> PruningPlan:
    """The plan that removes the lowest-scored groups up to `pruning_ratio` of the basis (methods.md section 4).

    With a split other than `auto` attention and MLP each have a budget of their own. Raises PruningError when the ratio
    (or a part of the split) asks for more than may be removed, naming the largest that can be.
    """
    budget = pruning_ratio * ratio_base(table.shape, protection, ratio_basis)
    candidates = removable(table, protection, floors)
    cost, is_mlp = table.groups.cost, table.groups.is_mlp
    if cost[candidates].sum() < int(budget):
        raise unreachable(pruning_ratio, ratio_basis, largest_ratio(table, protection, floors, ratio_basis))
    split = parse_split(pruning_distribution)
    parts = [(candidates, budget)]
    if split is not None:
        of_kind = [candidates[is_mlp[candidates] == (kind == MLP)] for kind in GROUP_TYPES]
        parts = [(part, share * budget) for part, share in zip(of_kind, split, strict=True)]
        for (part, asked), kind in zip(parts, GROUP_TYPES, strict=True):
            largest = int(cost[part].sum())
            if largest < int(asked):
                raise PruningError(
                    "split_unreachable", split=pruning_distribution, asked=int(asked), kind=kind, largest=largest
                )
    removed = np.concatenate([_longest_prefix(part, cost, part_budget) for part, part_budget in parts])
    if not len(removed):
        first_to_go = [int(cost[part[0]]) for part, part_budget in parts if len(part) and part_budget]
        raise PruningError("nothing_to_cut", ratio=pruning_ratio, cost=min(first_to_go, default=0))
    kept = np.ones(table.groups.size, dtype=bool)
    kept[removed] = False
    return PruningPlan(table.shape, kept, floors.remove_empty_layers, table.source.get("fingerprint"), settings or {})


def _longest_prefix(candidates: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
    """The first candidates whose summed cost is at most `budget`; stops at the first that does not fit."""
    return candidates[: np.searchsorted(np.cumsum(cost[candidates]), budget, side="right")]
