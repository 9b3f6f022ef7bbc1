"""How this process computes: device, number format, attention code, threads, memory allocator.

Knows nothing about models beyond the sizes that decide which attention code is faster.
"""

import contextlib
import ctypes
import errno

import torch

from ..errors import PruningError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL_HEAD_DIM = 16  # below, sdpa's CPU kernel spends its time on overhead (`python -m benchmarks importance`)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "bad allocation")
_ALLOCATOR_BYTES = 32 * 2**20 - 1  # glibc takes no larger mmap threshold


def tune_allocator() -> None:
    """Keeps freed memory in the process, so that large tensors are not paid for in page faults again and again.

    Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _ALLOCATOR_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


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
        choices = f"; there are {torch.cuda.device_count()} GPUs and the cpu"
        raise PruningError("device", device=name, choices=choices) from error
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """float32 on CPU and bfloat16 on GPU for `auto`, else the one named."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return _DTYPES[name]


def resolve_attention(name: str, device: torch.device, head_dim: int) -> str:
    """`eager` for small heads on CPU, else `sdpa`, for `auto`; else the one named."""
    if name != "auto":
        return name
    return "eager" if device.type == "cpu" and head_dim <= _SMALL_HEAD_DIM else "sdpa"
