"""Settings -> which layers may be cut, and which are measured at all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import PruningError


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
