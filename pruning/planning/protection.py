"""Settings -> which layers may be cut, and which are measured at all."""

import numpy as np

from ..errors import PruningError
from .allocation import Protection
from .layer_importance import LayerImportance
from .shape import GROUP_TYPES, ModelShape

RANGE_SETTINGS = tuple(f"block_{kind}_layer_{end}" for kind in GROUP_TYPES for end in ("start", "end"))


def protection_from_settings(shape: ModelShape, settings: dict, layers: LayerImportance | None = None) -> Protection:
    """Which layers may be cut; raises PruningError when that is none."""
    if settings["strategy"] == "uniform":
        return Protection.none(shape.num_layers)
    ranges = {kind: (settings[f"block_{kind}_layer_start"], settings[f"block_{kind}_layer_end"]) for kind in GROUP_TYPES}
    if (settings["layer_start"], settings["layer_end"]) != (None, None):
        layers_cut = measured_layers(settings, shape.num_layers)
        ranges = dict.fromkeys(GROUP_TYPES, (layers_cut.start, layers_cut.stop))
    protection = Protection.resolve(shape.num_layers, **ranges, protected_layers=settings["protected_layers"])
    frozen = settings["freeze_top_n_layers"]
    if not frozen:
        return protection
    if layers is None:
        raise PruningError("layer_importance_needed", setting=f"freeze_top_n_layers {frozen}")
    most_important = np.argsort(layers.rank)[:frozen]
    return protection.freezing(tuple(int(layer) for layer in most_important), shape.num_layers)


def measured_layers(settings: dict, num_layers: int) -> range:
    """The layers whose groups are scored: all, unless `layer_start` / `layer_end` limit a quick trial."""
    start, end = settings["layer_start"] or 0, settings["layer_end"] or num_layers
    if not 0 <= start < end <= num_layers:
        raise PruningError("layer_range", first="layer_start", second="layer_end", start=start, end=end, layers=num_layers)
    return range(start, end)
