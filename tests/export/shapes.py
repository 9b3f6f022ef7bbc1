"""Cuts that an export must hold: of one size, of different sizes, without attention, without an MLP, without a layer."""

from pathlib import Path

from pruning.model.surgery import cut
from pruning.planning.shape import ATTENTION, MLP
from tests.tiny_models import plan_without, tiny_model

VOCABULARY = 4096  # the demo tokenizer's
DEMO = Path(__file__).parents[2] / "assets" / "demo_model"
_LAYERS, _HEADS, _CHANNELS = range(5), range(4), range(24)
CUTS = {
    "uniform": {(i, ATTENTION): {i % 4} for i in _LAYERS} | {(i, MLP): range(i, i + 8) for i in _LAYERS},
    "uniform, MLP only": {(i, MLP): range(i, i + 8) for i in _LAYERS},
    "different sizes": {(i, ATTENTION): {i % 4} for i in (0, 2, 3)} | {(1, MLP): range(8), (4, MLP): range(3, 20)},
    "a layer without attention": {(1, ATTENTION): _HEADS, (4, ATTENTION): _HEADS, (2, MLP): range(8)},
    "a layer without MLP": {(0, MLP): _CHANNELS, (2, MLP): _CHANNELS, (4, MLP): _CHANNELS},
    "a layer gone": {(2, ATTENTION): _HEADS, (2, MLP): _CHANNELS},
    "two layers gone, sizes differ": {(i, kind): size for i in (1, 4) for kind, size in ((ATTENTION, _HEADS), (MLP, _CHANNELS))}
    | {(2, ATTENTION): {0, 2}, (3, ATTENTION): _HEADS},
}


def pruned(family: str, removed: dict, remove_empty_layers: bool = True, **options):
    """The plan that removes these groups, and the model it gives."""
    model = tiny_model(family, **{"vocab_size": VOCABULARY} | options)
    plan = plan_without(model, removed, remove_empty_layers)
    return plan, cut(model, plan)
