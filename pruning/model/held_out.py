"""Held-out text and its perplexity: exp of the mean negative log-likelihood over all predicted tokens of windows of a text.

    stride = seq_len   windows side by side, each on its own: T - 1 predictions of T tokens
    stride < seq_len   windows overlap; of each but the first only the new tokens count, the last `stride` of them

Sums are in float64, so the result does not depend on the batch size. Every value carries its basis. Knows nothing about
experiments."""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import PruningError
from .calibration import HELD_OUT, Corpus, even_windows, load_corpus, token_stream, windows

_BATCH_SIZE = 16
_NOT_COUNTED = -100


@dataclass(frozen=True)
class HeldOutText:
    """Evaluation windows (int64 [windows, seq_len]) and where they come from.

    `context` says how many tokens at the head of each window are not counted, int64 [windows]; None: the first one only.
    """

    corpus: Corpus
    windows: torch.Tensor
    context: torch.Tensor | None = None
    stride: int | None = None

    @classmethod
    def load(
        cls, tokenizer, corpus: str, seq_len: int, count: int, text_column: str = "text", stride: int | None = None
    ) -> "HeldOutText":
        """`count` windows (0: all) spread evenly over the held-out part of a corpus; `stride` None: side by side."""
        text = load_corpus(corpus, HELD_OUT, text_column)
        if stride is None or stride == seq_len:
            return cls(text, even_windows(text, tokenizer, seq_len, count))
        if not 1 <= stride < seq_len:
            raise PruningError(
                "setting_range", name="stride", value=stride, expected=f"a whole number from 1 to seq_len ({seq_len})"
            )
        stream = token_stream(text.documents, tokenizer)
        windows(stream, seq_len, text.name)  # raises when there is not even one
        pool = stream.unfold(0, seq_len, stride)
        context = torch.full((len(pool),), seq_len - stride)
        context[0] = 1
        chosen = torch.arange(len(pool))
        if 0 < count < len(pool):
            chosen = torch.linspace(0, len(pool) - 1, count, dtype=torch.float64).round().long()
        return cls(text, pool[chosen], context[chosen], stride)

    @property
    def predicted_tokens(self) -> int:
        return _predicted(self.windows, self.context)

    @property
    def basis(self) -> dict:
        """What a perplexity on this text refers to, for metrics.json."""
        count, seq_len = self.windows.shape
        return {
            "dataset": self.corpus.key,
            "corpus_sha256": self.corpus.sha256,
            "python": platform.python_version(),
            "seq_len": seq_len,
            "windows": count,
            "predicted_tokens": self.predicted_tokens,
        } | ({"stride": self.stride} if self.stride else {})


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    windows: torch.Tensor,
    batch_size: int = _BATCH_SIZE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    context: torch.Tensor | None = None,
) -> float:
    """Perplexity of `model` on `windows`, int64 [windows, seq_len]; infinite or NaN losses come back as `math.inf`.

    The first `context` tokens of each window are read but not counted, int64 [windows]; None: the first one only.
    """
    total = 0.0
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size].to(model.device)
        targets = F.pad(batch[:, 1:], (0, 1), value=_NOT_COUNTED)  # to cut the last position off would copy all logits
        if context is not None:
            places = torch.arange(1, batch.shape[1] + 1, device=batch.device)
            targets[places < context[start : start + batch_size, None].to(batch.device)] = _NOT_COUNTED
        logits = model(input_ids=batch, use_cache=False).logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_NOT_COUNTED, reduction="none")
        total += losses.double().sum().item()
        on_progress(min(start + batch_size, len(windows)), len(windows))
    mean = total / _predicted(windows, context)
    return math.exp(mean) if math.isfinite(mean) and mean < 700 else math.inf


def _predicted(windows: torch.Tensor, context: torch.Tensor | None) -> int:
    count, seq_len = windows.shape
    return count * (seq_len - 1) if context is None else int((seq_len - context.clamp(min=1)).sum())
