"""How fast a model reads and writes: tokens per second of prefill and decode, and the memory this takes at its peak.

    prompt, all at once  ->  prefill            one token after the other, with the cache  ->  decode

Random tokens: speed does not depend on which they are. Warm-up first, then the median of several rounds.
"""

import contextlib
import ctypes
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True)
class Latency:
    """Medians over `repeats` rounds, tokens per second of the whole batch."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@torch.inference_mode()
def measure_latency(
    model: PreTrainedModel,
    batch_size: int = 1,
    prompt_tokens: int = 64,
    new_tokens: int = 32,
    repeats: int = 5,
) -> Latency:
    """Prefill and decode speed; prompt and new tokens are shortened where the model sees fewer positions."""
    limit = getattr(model.config, "max_position_embeddings", None) or prompt_tokens + new_tokens
    new_tokens = max(1, min(new_tokens, limit // 2))
    prompt_tokens = max(1, min(prompt_tokens, limit - new_tokens))
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(model.config.vocab_size, (batch_size, prompt_tokens), generator=generator).to(model.device)
    _round(model, prompt, new_tokens)  # warm-up
    prefill, decode = zip(*(_round(model, prompt, new_tokens) for _ in range(repeats)), strict=True)
    return Latency(
        batch_size,
        prompt_tokens,
        new_tokens,
        repeats,
        batch_size * prompt_tokens / statistics.median(prefill),
        batch_size * new_tokens / statistics.median(decode),
    )


def _round(model: PreTrainedModel, prompt: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds of one prefill and of one decode of `new_tokens` tokens; `prompt` int64 [batch, tokens]."""
    start = _now(prompt.device)
    output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    read = _now(prompt.device)
    for _ in range(new_tokens):
        token = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
    return read - start, _now(prompt.device) - read


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PeakMemory:
    """The peak since it was made, in bytes: on a GPU what torch allocated there, on a CPU what the process took on top of
    what it held then. None where the system does not tell.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._held = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Memory that was freed but kept for later would serve again, unseen in a peak: back to the system with it.
            with contextlib.suppress(OSError, AttributeError):  # no glibc
                ctypes.CDLL("libc.so.6").malloc_trim(0)
            self._held = _process_memory("VmRSS")
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_RESET_PEAK)

    @property
    def bytes(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(_process_memory("VmHWM") - self._held, 0) or None


def _process_memory(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, bytes; 0 where /proc is not there."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
