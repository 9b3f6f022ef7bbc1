"""One number per prunable group: layer 0 attention groups, layer 0 MLP channels, layer 1 attention groups, ...

    position   0 1 2 3 | 4 ............ 387 | 388 ..
    block      0 attn  | 0 mlp              | 1 attn ..

Tables, plans and masks are flat arrays over these positions, so that a slider's change is array arithmetic.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import PruningError
from .shape import ATTENTION, GROUP_TYPES, MLP, ModelShape

_LETTERS = {"a": ATTENTION, "m": MLP}
_NAMED = re.compile(r"(\d+)\s*([am])\s*(\d+)(?:\s*-\s*(\d+))?", re.IGNORECASE)


@dataclass(frozen=True)
class GroupIndex:
    """Positions of all groups of a model."""

    shape: ModelShape

    @cached_property
    def block_sizes(self) -> np.ndarray:
        """Groups per block, [2 * layers] int64: attention and MLP of layer 0, of layer 1, ..."""
        return np.array([layer.group_count(kind) for layer in self.shape.layers for kind in GROUP_TYPES], dtype=np.int64)

    @cached_property
    def block_costs(self) -> np.ndarray:
        """Parameters of one group of each block, [2 * layers] int64."""
        return np.array([layer.group_cost(kind) for layer in self.shape.layers for kind in GROUP_TYPES], dtype=np.int64)

    @cached_property
    def block_starts(self) -> np.ndarray:
        """First position of each block and the total at the end, [2 * layers + 1] int64."""
        return np.concatenate([[0], np.cumsum(self.block_sizes)])

    @cached_property
    def block(self) -> np.ndarray:
        """Block of each position, [groups] int32."""
        return np.repeat(np.arange(len(self.block_sizes), dtype=np.int32), self.block_sizes)

    @cached_property
    def group_idx(self) -> np.ndarray:
        """Index within its block of each position, [groups] int32."""
        return (np.arange(self.size) - self.block_starts[self.block]).astype(np.int32)

    @property
    def layer_idx(self) -> np.ndarray:
        """Layer of each position, [groups] int32."""
        return self.block // 2

    @property
    def is_mlp(self) -> np.ndarray:
        """Whether each position is an MLP channel, [groups] bool."""
        return self.block % 2 == 1

    @cached_property
    def cost(self) -> np.ndarray:
        """Parameters of each group, [groups] int64."""
        return self.block_costs[self.block]

    @property
    def size(self) -> int:
        return int(self.block_starts[-1])

    def slice_of(self, layer_idx: int, group_type: str) -> slice:
        """Positions of one layer's attention groups or MLP channels."""
        block = block_of(layer_idx, group_type)
        return slice(int(self.block_starts[block]), int(self.block_starts[block + 1]))


def block_of(layer_idx, group_type: str):
    """Block number of a layer's attention or MLP; takes arrays too."""
    return layer_idx * 2 + (group_type == MLP)


def type_names(is_mlp: np.ndarray) -> np.ndarray:
    """`attention` / `mlp` for each entry."""
    return np.where(is_mlp, MLP, ATTENTION)


def parse_groups(text: str, groups: GroupIndex) -> np.ndarray:
    """Positions of the named groups, ascending int64; raises PruningError for one that the model does not have."""
    positions: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = _NAMED.fullmatch(part)
        if not match or int(match[4] or match[3]) < int(match[3]):
            raise PruningError("group_list", text=part)
        layer, kind, first, last = int(match[1]), _LETTERS[match[2].lower()], int(match[3]), int(match[4] or match[3])
        layers = groups.shape.num_layers
        if layer >= layers:
            raise PruningError("layer_unknown", layer=layer, last=layers - 1)
        block = groups.slice_of(layer, kind)
        if block.start + last >= block.stop:
            raise PruningError("group_unknown", name=part, layer=layer, count=block.stop - block.start, kind=kind)
        positions.update(range(block.start + first, block.start + last + 1))
    return np.array(sorted(positions), dtype=np.int64)


def name_groups(positions: np.ndarray, groups: GroupIndex) -> str:
    """The shortest text from which `parse_groups` reads these positions."""
    names = []
    ordered = np.unique(np.asarray(positions, dtype=np.int64))
    if not len(ordered):
        return ""
    breaks = np.flatnonzero((np.diff(ordered) > 1) | (np.diff(groups.block[ordered]) > 0)) + 1
    for run in np.split(ordered, breaks):
        letter = "m" if groups.is_mlp[run[0]] else "a"
        first, last = int(groups.group_idx[run[0]]), int(groups.group_idx[run[-1]])
        names.append(f"{int(groups.layer_idx[run[0]])}{letter}{first}" + (f"-{last}" if last > first else ""))
    return ",".join(names)
