"""Next-token loss over windows of tokens, batch by batch, and its gradients: what every measurement is made of.

Knows nothing about what is measured.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

_NO_TARGET = -100
OnProgress = Callable[[int, int], None]  # (samples done, samples in all); may raise Cancelled


def batches(model: PreTrainedModel, samples: torch.Tensor, batch_size: int, on_progress: OnProgress) -> Iterator[torch.Tensor]:
    """`samples`, int64 [samples, seq_len], on the model's device in batches; reports each when the work on it is done."""
    for start in range(0, len(samples), batch_size):
        yield samples[start : start + batch_size].to(model.device)
        on_progress(min(start + batch_size, len(samples)), len(samples))


@dataclass(frozen=True)
class Calibration:
    """What a measurement runs on: `samples`, int64 [samples, seq_len], in batches; only groups of `layers` (None: all)."""

    samples: torch.Tensor
    batch_size: int
    on_progress: OnProgress = lambda done, total: None
    layers: range | None = None

    def batches(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """The samples in batches on the model's device."""
        return batches(model, self.samples, self.batch_size, self.on_progress)

    @property
    def predicted_tokens(self) -> int:
        return predicted_tokens(self.samples)


def predicted_tokens(samples: torch.Tensor) -> int:
    """Predictions that full windows give: all tokens but the first of each."""
    return samples.shape[0] * (samples.shape[1] - 1)


def summed_loss(model: PreTrainedModel, batch: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood summed over a batch of full windows, scalar; `batch` int64 [samples, seq_len]."""
    return summed_loss_of(model(input_ids=batch, use_cache=False).logits, batch)


def summed_loss_of(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """The same from logits that are there already, [samples, seq_len, vocabulary]."""
    targets = F.pad(batch[:, 1:], (0, 1), value=_NO_TARGET)  # to cut the last position off would copy all logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_NO_TARGET, reduction="sum")


@contextlib.contextmanager
def gradients_for(model: PreTrainedModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Only these parameters collect gradients; afterwards every flag is as it was and no gradient is left."""
    before = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
