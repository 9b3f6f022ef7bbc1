"""How much each layer matters as a whole: one number per layer (docs/methods.md section 3).

    one full pass, the hidden states before each layer kept
    removal          h_l goes straight into layer l + 1: mean loss then, minus mean loss of the whole model
    activation       mean over tokens of norm(h_out - h_in) / norm(h_in)
    block_influence  1 - mean over tokens of cos(h_in, h_out)                       (ShortGPT 2403.03853)

`removal` begins each pass behind the layer it leaves out, so it costs about half of L full passes. No copy of the model.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import PruningError
from ..planning.layer_importance import LayerImportance
from .layer_pass import LayerPass, continue_from, logits_of, run_layers
from .loss import OnProgress, batches, predicted_tokens, summed_loss_of

REMOVAL, ACTIVATION, BLOCK_INFLUENCE = LAYER_METHODS = ("removal", "activation", "block_influence")


@torch.inference_mode()
def measure_layers(
    method: str,
    model: PreTrainedModel,
    samples: torch.Tensor,
    batch_size: int,
    on_progress: OnProgress = lambda done, total: None,
    source: dict | None = None,
) -> LayerImportance:
    """Importance of every layer on `samples`, int64 [samples, seq_len]; raises PruningError for an unknown method.

    `source` is carried along: what the numbers come from.
    """
    if method not in LAYER_METHODS:
        raise PruningError("method_unknown", method=method, choices=", ".join(LAYER_METHODS))
    totals = np.zeros(len(model.model.layers) + 1)  # one more for the loss of the whole model
    for batch in batches(model, samples, batch_size, on_progress):
        passed = run_layers(model, batch)
        totals += _removal_losses(model, passed, batch) if method == REMOVAL else _change(method, passed)
    if method != REMOVAL:
        mean = totals[:-1] / samples.numel()
        return LayerImportance(method, 1 - mean if method == BLOCK_INFLUENCE else mean, None, source or {})
    losses = totals / predicted_tokens(samples)
    increase = losses[:-1] - losses[-1]
    return LayerImportance(method, increase, np.exp(np.minimum(increase, math.log(1e300))), source or {})


def _removal_losses(model: PreTrainedModel, passed: LayerPass, batch: torch.Tensor) -> np.ndarray:
    """Summed next-token loss without each layer, and of the whole model last, [layers + 1]."""
    losses = []
    for left_out, hidden in enumerate(passed.hidden_states[:-1]):  # the input of a bypassed layer is the input of the next
        losses.append(_loss(model, continue_from(model, left_out + 1, hidden, passed.arguments), batch))
    return np.array([*losses, _loss(model, passed.hidden_states[-1], batch)])


def _loss(model: PreTrainedModel, hidden: torch.Tensor, batch: torch.Tensor) -> float:
    return summed_loss_of(logits_of(model, hidden), batch).double().item()


def _change(method: str, passed: LayerPass) -> np.ndarray:
    """How much each layer changes the hidden states, summed over tokens, [layers + 1] (the last entry unused)."""
    changes = []
    for h_in, h_out in zip(passed.hidden_states[:-1], passed.hidden_states[1:], strict=True):
        h_in, h_out = h_in.float(), h_out.float()
        if method == ACTIVATION:
            per_token = (h_out - h_in).norm(dim=-1) / h_in.norm(dim=-1)
        else:
            per_token = F.cosine_similarity(h_in, h_out, dim=-1)
        changes.append(per_token.double().sum().item())
    return np.array([*changes, 0.0])
