"""A matrix with zeros in it, and the same matrix made smaller: bytes, and the measured time of a product with each.

unstructured  the smallest weights are 0, the matrix has its size       structured  whole rows are gone
"""

import time
from statistics import median

import numpy as np
import torch

_TOKENS, _REPEATS, _WARM_UP = 256, 21, 3
_SHOWN = 48  # rows and columns of the corner that is drawn


@torch.inference_mode()
def compare(weight: torch.Tensor, kept_rows: np.ndarray) -> dict:
    """{dense, zeros, smaller} of one matrix, [out, in]: shape, share of zeros, bytes, milliseconds for 256 tokens.

    As many weights become 0 (those of least size, wherever they are) as the rows that do not stay hold. `corner` has sizes of
    weights for a picture, [48, 48] at most: 0 where a weight is 0, None where a row is gone.
    """
    gone = weight.numel() - len(kept_rows) * weight.shape[1]
    zeros = weight.flatten().clone()
    zeros[weight.abs().flatten().argsort()[:gone]] = 0  # not by a threshold: in half precision many weights are equal
    zeros = zeros.view_as(weight)
    smaller = weight[torch.from_numpy(kept_rows)].contiguous()
    tokens = torch.randn(_TOKENS, weight.shape[1], dtype=weight.dtype, device=weight.device)
    matrices = {"dense": weight, "zeros": zeros, "smaller": smaller}
    times = _milliseconds(tokens, matrices)
    return {name: _described(matrix) | {"milliseconds": times[name]} for name, matrix in matrices.items()} | {
        "tokens": _TOKENS,
        "corner": {name: matrix[:_SHOWN, :_SHOWN].abs().float().cpu().tolist() for name, matrix in matrices.items()},
        "kept_rows": [int(row) for row in kept_rows if row < _SHOWN],
    }


def _described(matrix: torch.Tensor) -> dict:
    return {
        "shape": list(matrix.shape),
        "zeros": int((matrix == 0).sum()),
        "bytes": matrix.numel() * matrix.element_size(),
    }


def _milliseconds(tokens: torch.Tensor, matrices: dict[str, torch.Tensor]) -> dict[str, float]:
    """Median over interleaved repeats, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in matrices}
    for repeat in range(_WARM_UP + _REPEATS):
        for name, matrix in matrices.items():
            began = time.perf_counter()
            torch.nn.functional.linear(tokens, matrix)
            if tokens.is_cuda:
                torch.cuda.synchronize()
            if repeat >= _WARM_UP:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: median(measured) for name, measured in times.items()}
