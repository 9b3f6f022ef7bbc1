"""How a process that computes is set up: how long idle threads wait, how freed memory is kept.

The C libraries read this once, when they are loaded: a worker is started with it, the command line sets it before torch is
imported. Knows nothing about torch.
"""

import contextlib
import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * 2**20 - 1  # glibc takes no larger mmap threshold
_NEVER = 2**31 - 1

# Figures: `python -m benchmarks importance --processes`.
WORKER_ENVIRONMENT = {
    # Between two operations a thread of libgomp spins for milliseconds. Beside any other busy process it spins its time on
    # the core away, and the rest then waits for it: a batch took 10 s and more instead of 0.3 s.
    "GOMP_SPINCOUNT": "1000",
    # Freed tensors stay in the process, so that the next batch does not pay for them in page faults again.
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(_NEVER),
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare_this_process() -> None:
    """Sets up the running process as a worker is; what the person has set stays. Call before torch is imported."""
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(OSError, AttributeError):  # no glibc: nothing to set
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, int(os.environ["MALLOC_MMAP_THRESHOLD_"]))
        libc.mallopt(_M_TRIM_THRESHOLD, int(os.environ["MALLOC_TRIM_THRESHOLD_"]))
