"""How much each layer matters as a whole: one number per layer (docs/methods.md section 3).

    one full pass, the hidden states before each layer kept
    removal          h_l goes straight into layer l + 1: mean loss then, minus mean loss of the whole model
    activation       mean over tokens of norm(h_out - h_in) / norm(h_in)
    block_influence  1 - mean over tokens of cos(h_in, h_out)                       (ShortGPT 2403.03853)

`removal` begins each pass behind the layer it leaves out, so it costs about half of L full passes. No copy of the model.
"""

import math
import pkgutil
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import PruningError
from ..methods import LAYER_METHODS
from ..planning.layer_importance import LayerImportance
from .layer_pass import LayerPass, continue_from, logits_of, run_layers
from .loss import OnProgress, batches, predicted_tokens, summed_loss_of


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
    record = LAYER_METHODS[method]
    of_batch = pkgutil.resolve_name(f"{__package__}.{record.function}")
    total = sum(of_batch(model, run_layers(model, batch), batch) for batch in batches(model, samples, batch_size, on_progress))
    if not record.is_loss:
        return LayerImportance(method, total / samples.numel(), None, source or {})
    losses = total / predicted_tokens(samples)
    increase = losses[:-1] - losses[-1]
    return LayerImportance(method, increase, np.exp(np.minimum(increase, math.log(1e300))), source or {})


def removal_losses(model: PreTrainedModel, passed: LayerPass, batch: torch.Tensor) -> np.ndarray:
    """Summed next-token loss without each layer, and of the whole model last, [layers + 1]."""
    losses = []
    for left_out, hidden in enumerate(passed.hidden_states[:-1]):  # the input of a bypassed layer is the input of the next
        losses.append(_loss(model, continue_from(model, left_out + 1, hidden, passed.arguments), batch))
    return np.array([*losses, _loss(model, passed.hidden_states[-1], batch)])


def _loss(model: PreTrainedModel, hidden: torch.Tensor, batch: torch.Tensor) -> float:
    return summed_loss_of(logits_of(model, hidden), batch).double().item()


def relative_change(model: PreTrainedModel, passed: LayerPass, batch: torch.Tensor) -> np.ndarray:
    """norm(h_out - h_in) / norm(h_in), summed over tokens, [layers]."""
    return _per_layer(passed, lambda h_in, h_out: (h_out - h_in).norm(dim=-1) / h_in.norm(dim=-1))


def turn(model: PreTrainedModel, passed: LayerPass, batch: torch.Tensor) -> np.ndarray:
    """1 - cos(h_in, h_out), summed over tokens, [layers]."""
    return _per_layer(passed, lambda h_in, h_out: 1 - F.cosine_similarity(h_in, h_out, dim=-1).double())


def _per_layer(passed: LayerPass, per_token: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> np.ndarray:
    pairs = pairwise(passed.hidden_states)
    return np.array([per_token(h_in.float(), h_out.float()).double().sum().item() for h_in, h_out in pairs])
