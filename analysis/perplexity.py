"""Perplexity: exp of the mean negative log-likelihood over all predicted tokens of windows of a text.

    stride = seq_len   windows side by side, each on its own: T - 1 predictions of T tokens
    stride < seq_len   windows overlap; of each but the first only the new tokens count, the last `stride` of them

Sums are in float64, so the result does not depend on the batch size. Every value carries its basis. Knows nothing about
experiments.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.model.calibration import check_window
from pruning.model.held_out import _BATCH_SIZE, HeldOutText, perplexity
from pruning.model.runtime import resolve_device


class PPLMetric(Mapping):
    """Perplexity of a model on each dataset: a mapping that prints as `{'wikitext2 (wikitext-2-raw-v1)': 58.9}`.

    `datasets` are named as the setting `corpus` is; `windows` of each, spread evenly (0: all). `stride` None is `seq_len`.
    The model is moved to `device`. `basis` has under each key what its value refers to. Raises PruningError for a dataset
    or a device that is not there, and for windows longer than the model sees.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        datasets: Sequence[str] = ("wikitext2",),
        seq_len: int = 128,
        device: str = "cuda",
        stride: int | None = None,
        windows: int = 0,
        batch_size: int = _BATCH_SIZE,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        target = resolve_device(device)
        if model.device.type != target.type or target.index not in (None, model.device.index):
            model.to(target)
        check_window(seq_len, getattr(model.config, "max_position_embeddings", None))
        self._values: dict[str, float] = {}
        self.basis: dict[str, dict] = {}
        for name in datasets:
            text = HeldOutText.load(tokenizer, name, seq_len, windows, stride=stride)
            self._values[text.corpus.key] = perplexity(model, text.windows, batch_size, on_progress, text.context)
            self.basis[text.corpus.key] = text.basis

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)
