"""Groups by name, for a person to read and type: `3a1,5m20-29`.

3a1      attention group 1 of layer 3          5m20-29  MLP channels 20 to 29 of layer 5
"""

import re

import numpy as np

from ..errors import PruningError
from .groups import GroupIndex
from .shape import ATTENTION, MLP

_LETTERS = {"a": ATTENTION, "m": MLP}
_NAMED = re.compile(r"(\d+)\s*([am])\s*(\d+)(?:\s*-\s*(\d+))?", re.IGNORECASE)


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
