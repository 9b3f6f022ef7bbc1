"""How much each layer matters as a whole, as numbers: one per layer, with what they come from.

Read from and written to `layer_importance_config.json`, together with the rates that a plan made of them. Knows nothing
about how it was measured.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import PruningError
from .layer_rates import LayerRates

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LayerImportance:
    """`importance` [layers] float64; for `removal` also `perplexity_ratio` [layers]: without the layer / whole model.

    `source` says what the numbers come from: fingerprint, calibration.
    """

    method: str
    importance: np.ndarray
    perplexity_ratio: np.ndarray | None
    source: dict

    def __post_init__(self):
        faulty = np.flatnonzero(~np.isfinite(self.importance))
        if len(faulty):
            raise PruningError("layer_importance_not_finite", layer=int(faulty[0]))

    @property
    def rank(self) -> np.ndarray:
        """1 for the most important layer, [layers] int64; ties by layer."""
        rank = np.empty(len(self.importance), dtype=np.int64)
        rank[np.argsort(-self.importance, kind="stable")] = np.arange(1, len(rank) + 1)
        return rank

    @property
    def top_over_median(self) -> float:
        """The most important layer's importance / the median layer's; infinite where the median is not above 0."""
        median = float(np.median(self.importance))
        return float(self.importance.max()) / median if median > 0 else math.inf

    def to_json(self, rates: LayerRates | None = None) -> dict:
        """The content of `layer_importance_config.json`; `rates` adds what a layer-wise plan made of it."""
        layers = []
        for layer_idx, importance in enumerate(self.importance):
            entry = {"layer_idx": layer_idx, "importance": float(importance), "rank": int(self.rank[layer_idx])}
            if self.perplexity_ratio is not None:
                entry["perplexity_ratio"] = float(self.perplexity_ratio[layer_idx])
            if rates is not None:
                entry |= {
                    "rate_computed": float(rates.computed[layer_idx]),
                    "rate_applied": float(rates.applied[layer_idx]),
                }
            layers.append(entry)
        return {"format_version": FORMAT_VERSION, "method": self.method} | self.source | {"layers": layers}

    @classmethod
    def from_json(
        cls, content: dict, num_layers: int, fingerprint: str | None = None, path="layer_importance_config.json"
    ) -> "LayerImportance":
        """What the file holds, checked against the model; raises PruningError naming the fault."""
        if content.get("format_version") != FORMAT_VERSION:
            raise PruningError("format_version", path=path, found=content.get("format_version"), expected=FORMAT_VERSION)
        found = content.get("fingerprint")
        if fingerprint and found and found != fingerprint:
            raise PruningError("plan_other_model", path=path, found=str(found)[:12], expected=fingerprint[:12])
        entries = content.get("layers")
        indices = [e.get("layer_idx") if isinstance(e, dict) else None for e in entries] if isinstance(entries, list) else []
        if indices != list(range(num_layers)):
            raise PruningError("plan_groups", path=path, layer=f"0 to {num_layers - 1}", reason="one entry per layer is needed")
        importance = np.array([_number(entry, "importance", path) for entry in entries])
        ratio = None
        if all("perplexity_ratio" in entry for entry in entries):
            ratio = np.array([_number(entry, "perplexity_ratio", path) for entry in entries])
        source = {name: content[name] for name in ("fingerprint", "calibration", "dtype") if name in content}
        return cls(str(content.get("method", "unknown")), importance, ratio, source)


def _number(entry: dict, name: str, path) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PruningError("plan_groups", path=path, layer=entry["layer_idx"], reason=f"{name} must be a finite number")
    return float(value)
