"""One tensor as a weight file describes it, and whether two of them hold the same numbers. Knows nothing about torch."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

# Bytes of one value, by the dtype as safetensors writes it.
DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_CHUNK = 2**20  # values


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a weight file; `start` and `end` are bytes from the beginning of the file.

    `is_alias`: a tensor named before it is the same numbers in the file, as the head of a tied model saved by torch.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int
    is_alias: bool = False


def same_values(first: TensorHeader, second: TensorHeader) -> bool:
    """Whether two tensors hold the same numbers, whatever their dtypes; reads no further than the first that differs.

    Raises OSError when a file cannot be read.
    """
    if first.shape != second.shape:
        return False
    if (first.file, first.start, first.dtype) == (second.file, second.start, second.dtype):
        return True
    return _same_values(first, second, tuple((t.file.stat().st_mtime_ns, t.file.stat().st_size) for t in (first, second)))


@lru_cache(maxsize=16)
def _same_values(first: TensorHeader, second: TensorHeader, stamps: tuple) -> bool:
    """`stamps` say which state of the files the answer holds for: an equal copy of a large head takes seconds to read."""
    with first.file.open("rb") as one, second.file.open("rb") as other:
        one.seek(first.start)
        other.seek(second.start)
        for start in range(0, prod(first.shape), _CHUNK):
            count = min(_CHUNK, prod(first.shape) - start)
            left, right = (f.read(count * DTYPE_BYTES.get(t.dtype, 1)) for f, t in ((one, first), (other, second)))
            if (first.dtype != second.dtype or left != right) and not np.array_equal(
                _numbers(left, first.dtype), _numbers(right, second.dtype)
            ):
                return False
    return True


def _numbers(content: bytes, dtype: str) -> np.ndarray:
    """The values of float tensors; of others their bytes."""
    values = np.frombuffer(content, _FLOATS.get(dtype, "u1"))
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values
