"""How much each prunable group matters: one number per group, measured on calibration samples (methods.md section 2).

    samples -> batches -> gradients, summed over all batches -> abs(theta * gradient), summed over each group

A method is a function (model, shape, samples, ...) -> importance [groups]; `IMPORTANCE_METHODS` names them.
Knows nothing about plans.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import PruningError
from ..planning.groups import GroupIndex, type_names
from ..planning.kept_indices import group_axis
from ..planning.shape import ModelShape

_NO_TARGET = -100
OnProgress = Callable[[int, int], None]  # (samples done, samples in all); may raise Cancelled


def taylor(
    model: PreTrainedModel,
    shape: ModelShape,
    samples: torch.Tensor,
    batch_size: int,
    on_progress: OnProgress = lambda done, total: None,
) -> np.ndarray:
    """I(u) = sum over theta in u of abs(theta * g_bar), [groups] float64 over the positions of GroupIndex(shape).

    g_bar is the gradient of the mean next-token loss over all of `samples` (int64 [samples, seq_len]). First-order Taylor
    importance (Molchanov 2019), element by element as in LLM-Pruner (2305.11627). Independent of the batch size.
    """
    parameters = group_parameters(model, shape)
    with gradients_for(model, [p for _, p, _ in parameters]):
        accumulate_gradients(model, samples, batch_size, on_progress)
        importance = np.zeros(GroupIndex(shape).size)
        for positions, parameter, (dim, width) in parameters:
            importance[positions] += _sum_per_group((parameter.detach() * parameter.grad).abs_(), dim, width)
            parameter.grad = None
    return importance


IMPORTANCE_METHODS: dict[str, Callable[..., np.ndarray]] = {"taylor": taylor}


def measure(
    method: str,
    model: PreTrainedModel,
    shape: ModelShape,
    samples: torch.Tensor,
    batch_size: int,
    on_progress: OnProgress = lambda done, total: None,
) -> np.ndarray:
    """Importance of every group by the named method, [groups] float64; raises PruningError for an unknown one."""
    if method not in IMPORTANCE_METHODS:
        raise PruningError("method_unknown", method=method, choices=", ".join(IMPORTANCE_METHODS))
    importance = IMPORTANCE_METHODS[method](model, shape, samples, batch_size, on_progress)
    refuse_unless_finite(importance, shape)
    return importance


def refuse_unless_finite(importance: np.ndarray, shape: ModelShape) -> None:
    """Raises PruningError naming the first group whose importance is infinite or not a number."""
    faulty = np.flatnonzero(~np.isfinite(importance))
    if len(faulty):
        groups, at = GroupIndex(shape), int(faulty[0])
        kind = str(type_names(groups.is_mlp[at]))
        raise PruningError(
            "scores_not_finite", layer=int(groups.layer_idx[at]), group_type=kind, group=int(groups.group_idx[at])
        )


def group_parameters(model: PreTrainedModel, shape: ModelShape) -> list[tuple[slice, nn.Parameter, tuple[int, int]]]:
    """Every parameter that is cut by groups: positions of its groups, the parameter, (dimension, rows or columns each)."""
    groups, found = GroupIndex(shape), []
    for layer_idx, layer in enumerate(model.model.layers):
        for name, parameter in layer.named_parameters():
            axis = group_axis(name, shape.layers[layer_idx])
            if axis is not None:
                group_type, dim, width = axis
                found.append((groups.slice_of(layer_idx, group_type), parameter, (dim, width)))
    return found


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


def accumulate_gradients(model: PreTrainedModel, samples: torch.Tensor, batch_size: int, on_progress: OnProgress) -> None:
    """Adds up the gradient of the mean next-token loss over all samples, batch by batch, into `.grad`."""
    predicted = samples.shape[0] * (samples.shape[1] - 1)
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size].to(model.device)
        (summed_loss(model, batch) / predicted).backward()
        on_progress(min(start + batch_size, len(samples)), len(samples))


def summed_loss(model: PreTrainedModel, batch: torch.Tensor) -> torch.Tensor:
    """Next-token negative log-likelihood summed over a batch of full windows, scalar; `batch` int64 [samples, seq_len]."""
    logits = model(input_ids=batch, use_cache=False).logits  # [samples, seq_len, vocabulary]
    targets = F.pad(batch[:, 1:], (0, 1), value=_NO_TARGET)  # to cut the last position off would copy all logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_NO_TARGET, reduction="sum")


def _sum_per_group(values: torch.Tensor, dim: int, width: int) -> np.ndarray:
    """Sums `values` over all but the groups along `dim`, `width` rows or columns each, [groups] float64."""
    per_index = values.flatten(1).sum(1 - dim, dtype=torch.float32) if values.dim() > 1 else values
    return per_index.double().view(-1, width).sum(1).cpu().numpy()
