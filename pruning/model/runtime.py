"""How a model computes: device, number format, attention code.

Knows nothing about models beyond the sizes that decide which attention code is faster.
"""

import errno

import psutil
import torch

from ..errors import PruningError
from ..words import counted

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL_HEAD_DIM = 16  # up to here, and not in float32, the backward of sdpa on CPU takes twice as long as eager's
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "bad allocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of the GPU; torch, safetensors and Python each say it their own way."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def resolve_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`; raises PruningError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # fails on `meta` too, which computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        choices = f"; this machine has {counted(torch.cuda.device_count(), 'GPU')} and the cpu"
        raise PruningError("device", device=name, choices=choices) from error
    return device


def free_bytes(name: str) -> int:
    """Bytes that are free where a model of this device setting lies: on one GPU, on all of them for `auto`, or in memory."""
    device = resolve_device(name)
    if device.type != "cuda":
        return psutil.virtual_memory().available
    gpus = range(torch.cuda.device_count()) if name == "auto" else [device]
    return sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """float32 on CPU and bfloat16 on GPU for `auto`, else the one named."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return _DTYPES[name]


def resolve_attention(name: str, device: torch.device, head_dim: int, dtype: torch.dtype) -> str:
    """`sdpa` for `auto`, but `eager` for small heads in half precision on CPU; else the one named.

    `dtype` is the one attention computes in. Figures: `python -m benchmarks importance --attention`.
    """
    if name != "auto":
        return name
    slow = device.type == "cpu" and dtype != torch.float32 and head_dim <= _SMALL_HEAD_DIM
    return "eager" if slow else "sdpa"
