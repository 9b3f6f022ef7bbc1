"""Perplexity: exp of the mean negative log-likelihood over all predicted tokens of non-overlapping windows.

Each window stands on its own, T - 1 predictions of T tokens, sums in float64; so the result does not depend on the batch
size. Every value carries its basis. Knows nothing about experiments.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pruning.model.calibration import HELD_OUT, Corpus, even_windows, load_corpus
from pruning.model.importance import summed_loss

_BATCH_SIZE = 16


@dataclass(frozen=True)
class HeldOutText:
    """Evaluation windows (int64 [windows, seq_len]) and where they come from."""

    corpus: Corpus
    windows: torch.Tensor

    @classmethod
    def load(cls, tokenizer, corpus: str, seq_len: int, count: int, text_column: str = "text") -> "HeldOutText":
        """`count` windows (0: all) spread evenly over the held-out part of a corpus."""
        text = load_corpus(corpus, HELD_OUT, text_column)
        return cls(text, even_windows(text, tokenizer, seq_len, count))

    @property
    def basis(self) -> dict:
        """What a perplexity on this text refers to, for metrics.json."""
        windows, seq_len = self.windows.shape
        return {
            "dataset": self.corpus.key,
            "corpus_sha256": self.corpus.sha256,
            "python": platform.python_version(),
            "seq_len": seq_len,
            "windows": windows,
            "predicted_tokens": windows * (seq_len - 1),
        }


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    windows: torch.Tensor,
    batch_size: int = _BATCH_SIZE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> float:
    """Perplexity of `model` on `windows`, int64 [windows, seq_len]; infinite or NaN losses come back as `math.inf`."""
    total = 0.0
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size].to(model.device)
        total += summed_loss(model, batch).double().item()
        on_progress(min(start + batch_size, len(windows)), len(windows))
    mean = total / (windows.shape[0] * (windows.shape[1] - 1))
    return math.exp(mean) if math.isfinite(mean) and mean < 700 else math.inf
