"""What a cut does to the loss, window by window, so that two cuts can be compared on the same text.

    every plan     masked model, all windows                          -> losses [windows]
    one layer      walk layer by layer; each cut begins at its layer  -> losses [windows], for half the passes
    paired         the same windows with and without the cut          -> mean rise and its standard error

Also what single groups do: the loss of every token without one, and the tokens that an MLP channel writes. Nothing is cut:
see masking.py. Knows nothing about experiments.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..model.layer_pass import continue_from, logits_of, run_layers

OnProgress = Callable[[int, int], None]  # (windows done, windows in all); may raise Cancelled
_LARGEST_EXPONENT = 700


@dataclass(frozen=True)
class Rise:
    """Mean loss with a cut minus mean loss without it, nats per token, and the standard error of that mean over windows."""

    mean: float
    error: float

    @classmethod
    def between(cls, before: np.ndarray, after: np.ndarray) -> "Rise":
        """Of paired losses, [windows] each: the same windows in the same order."""
        differences = after - before
        spread = differences.std(ddof=1) if len(differences) > 1 else math.nan
        return cls(float(differences.mean()), float(spread / math.sqrt(len(differences))))

    @property
    def is_clear(self) -> bool:
        """Whether it is more than two standard errors from 0."""
        return abs(self.mean) > 2 * self.error


def perplexity_of(losses: np.ndarray) -> float:
    """exp of the mean loss of windows of one length, [windows]; infinite where that is too large for a number."""
    mean = float(losses.mean())
    return math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf


@torch.inference_mode()
def window_losses(
    model: PreTrainedModel, windows: torch.Tensor, batch_size: int, on_progress: OnProgress = lambda done, total: None
) -> np.ndarray:
    """Mean next-token loss of each window, [windows] float64; `windows` int64 [windows, seq_len]."""
    losses = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size].to(model.device)
        losses.append(_token_losses(model(input_ids=batch, use_cache=False).logits, batch).mean(axis=1))
        on_progress(min(start + batch_size, len(windows)), len(windows))
    return np.concatenate(losses)


class LayerWalk:
    """The hidden states of all windows before one layer, which `forward` takes one layer further.

    `whole` are the losses of the model as it is, [windows]. Memory: windows x seq_len x H numbers, and a batch.
    """

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, windows: torch.Tensor, batch_size: int):
        self._model = model
        self._batches = [batch.to(model.device) for batch in windows.split(batch_size)]
        self._hidden: list[torch.Tensor] = []
        self._arguments: list[list[dict]] = []
        losses = []
        for batch in self._batches:
            passed = run_layers(model, batch)
            self._hidden.append(passed.hidden_states[0])
            self._arguments.append(passed.arguments)
            losses.append(_token_losses(logits_of(model, passed.hidden_states[-1]), batch).mean(axis=1))
        self.whole = np.concatenate(losses)
        self.layer_idx = 0

    @torch.inference_mode()
    def losses(self, on_progress: OnProgress = lambda done, total: None) -> np.ndarray:
        """Mean loss of each window when the model, as it computes now, continues from here, [windows] float64."""
        losses, done = [], 0
        for batch, hidden, arguments in zip(self._batches, self._hidden, self._arguments, strict=True):
            last = continue_from(self._model, self.layer_idx, hidden, arguments)
            losses.append(_token_losses(logits_of(self._model, last), batch).mean(axis=1))
            done += len(batch)
            on_progress(done, len(self.whole))
        return np.concatenate(losses)

    @torch.inference_mode()
    def forward(self) -> None:
        """Goes through one layer."""
        layer = self._model.model.layers[self.layer_idx]
        self._hidden = [
            layer(hidden, **arguments[self.layer_idx]) for hidden, arguments in zip(self._hidden, self._arguments, strict=True)
        ]
        self.layer_idx += 1


@torch.inference_mode()
def token_losses(model: PreTrainedModel, window: torch.Tensor) -> np.ndarray:
    """Loss of each token of one window but the first, [seq_len - 1] float64; `window` int64 [seq_len]."""
    batch = window[None].to(model.device)
    return _token_losses(model(input_ids=batch, use_cache=False).logits, batch)[0]


@torch.inference_mode()
def written_tokens(model: PreTrainedModel, layer_idx: int, channel: int, count: int) -> tuple[list[int], list[float]]:
    """The tokens whose logits an MLP channel raises most, and by how much per unit of its activation.

    lm_head(g * w), w the channel's column of down_proj and g the final norm's weights: what the channel writes reaches the
    head as it is, but for the norm's scale and what later layers add (Geva 2203.14680).
    """
    column = model.model.layers[layer_idx].mlp.down_proj.weight[:, channel]
    raised = (model.lm_head.weight @ (model.model.norm.weight * column)).float()
    best = raised.topk(min(count, len(raised)))
    return best.indices.tolist(), best.values.tolist()


def _token_losses(logits: torch.Tensor, batch: torch.Tensor) -> np.ndarray:
    """Next-token losses, [samples, seq_len - 1] float64."""
    targets = F.pad(batch[:, 1:], (0, 1))  # to cut the last position off would copy all logits
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(batch)
    return losses[:, :-1].double().cpu().numpy()
