"""One pass through the model, layer by layer: the hidden states before each layer, and the way on from any of them.

    batch -> h_0 -> layer 0 -> h_1 -> layer 1 -> ... -> h_L -> norm, lm_head -> logits

What changes layer l leaves h_0 .. h_l as they were, so that a measurement of it can begin there.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass
class LayerPass:
    """Hidden states before each layer and after the last, [samples, seq_len, H] each, and how each layer was called."""

    hidden_states: list[torch.Tensor]
    arguments: list[dict]


def run_layers(model: PreTrainedModel, batch: torch.Tensor) -> LayerPass:
    """A full pass over `batch`, int64 [samples, seq_len], with everything kept that a way on from any layer needs."""
    passed = LayerPass([], [])

    def before(module, args, kwargs) -> None:
        passed.hidden_states.append(args[0])
        passed.arguments.append(kwargs)

    def after(module, args, output) -> None:
        passed.hidden_states.append(output)

    layers = model.model.layers
    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(after))
    try:
        model.model(input_ids=batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return passed


def continue_from(model: PreTrainedModel, layer_idx: int, hidden: torch.Tensor, arguments: list[dict]) -> torch.Tensor:
    """The last hidden states when `hidden`, [samples, seq_len, H], goes into layer `layer_idx`; `arguments` of all layers."""
    for layer, given in zip(list(model.model.layers)[layer_idx:], arguments[layer_idx:], strict=True):
        hidden = layer(hidden, **given)
    return hidden


def logits_of(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of the last hidden states, [samples, seq_len, vocabulary]."""
    return model.lm_head(model.model.norm(hidden))
