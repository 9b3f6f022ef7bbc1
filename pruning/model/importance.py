"""How much each prunable group matters: one number per group, measured on calibration samples (docs/methods.md section 2).

    taylor      abs(theta * g_bar)                              gradients, added up over all batches
    taylor_2nd  abs(theta * g_bar) + 1/2 theta^2 h              and each batch's own, squared
    l1, l2      abs(theta); theta^2                             weights alone
    wanda, gate, fisher                                         see activation_importance.py

A method is a function (model, shape, calibration) -> importance [groups], 0 for groups of other layers than
`calibration.layers`; `IMPORTANCE_METHODS` of methods.py names them. Knows nothing about plans.
"""

import contextlib
import functools
import math
import pkgutil
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import PruningError
from ..methods import IMPORTANCE_METHODS
from ..planning.groups import GroupIndex, type_names
from ..planning.shape import ModelShape
from .grouped_parameters import GroupedParameter, grouped_parameters
from .loss import Calibration, OnProgress, gradients_for, summed_loss


def taylor(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = sum over theta in u of abs(theta * g_bar), [groups] float64 over the positions of GroupIndex(shape).

    g_bar is the gradient of the mean next-token loss over all samples. First-order Taylor importance (Molchanov 2019),
    element by element as in LLM-Pruner (2305.11627). Independent of the batch size.
    """
    grouped = grouped_parameters(model, shape, calibration.layers)
    importance = np.zeros(GroupIndex(shape).size)
    with gradients_for(model, [g.parameter for g in grouped]):
        for batch in calibration.batches(model):
            (summed_loss(model, batch) / calibration.predicted_tokens).backward()
        for g in grouped:
            importance[g.positions] += g.sum_per_group((g.parameter.detach() * g.parameter.grad).abs_())
            g.parameter.grad = None
    return importance


def taylor_2nd(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = sum over theta in u of abs(theta * g_bar) + 1/2 theta^2 h, [groups] float64 (LLM-Pruner 2305.11627)."""
    return taylor_both(model, shape, calibration)[1]


def taylor_both(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """`taylor` and `taylor_2nd` from one pass, [2, groups] float64.

    h is the mean over batches of the squared gradient of the batch's mean loss (diagonal Fisher), so the result depends
    on the batch size. The second term is linear in h: each batch is folded into the scores at once, no h is kept.
    """
    grouped = grouped_parameters(model, shape, calibration.layers)
    batch_count = math.ceil(len(calibration.samples) / calibration.batch_size)
    first, second = np.zeros((2, GroupIndex(shape).size))
    g_bar: dict[nn.Parameter, torch.Tensor] = {}  # as it adds up
    share_of_all = 1.0  # of the samples, in the batch under way

    def fold(parameter: nn.Parameter, g: GroupedParameter) -> None:
        """Runs when the batch's gradient of a parameter is complete: its part of the loss over all samples."""
        part = parameter.grad
        squared = (parameter.detach().float() * part.float()).square_().mul_(0.5 / share_of_all**2 / batch_count)
        second[g.positions] += g.sum_per_group(squared)
        g_bar[parameter] = g_bar[parameter].add_(part) if parameter in g_bar else part
        parameter.grad = None  # the next batch's gradient takes this one's memory

    with gradients_for(model, [g.parameter for g in grouped]), contextlib.ExitStack() as hooks:
        for g in grouped:
            hooks.callback(g.parameter.register_post_accumulate_grad_hook(functools.partial(fold, g=g)).remove)
        for batch in calibration.batches(model):
            share_of_all = len(batch) / len(calibration.samples)
            (summed_loss(model, batch) / calibration.predicted_tokens).backward()
        for g in grouped:
            first[g.positions] += g.sum_per_group((g.parameter.detach() * g_bar.pop(g.parameter)).abs_())
    return np.stack([first, first + second])


@torch.no_grad()
def l1(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = sum over theta in u of abs(theta), [groups] float64; weights only, no samples."""
    importance = np.zeros(GroupIndex(shape).size)
    for g in grouped_parameters(model, shape, calibration.layers):
        importance[g.positions] += g.sum_per_group(g.parameter.abs())
    return importance


@torch.no_grad()
def l2(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = sqrt(sum over theta in u of theta^2), [groups] float64; weights only, no samples."""
    squares = np.zeros(GroupIndex(shape).size)
    for g in grouped_parameters(model, shape, calibration.layers):
        squares[g.positions] += g.sum_per_group(g.parameter.float().square())
    return np.sqrt(squares)


def measure_groups(
    method: str,
    model: PreTrainedModel,
    shape: ModelShape,
    samples: torch.Tensor,
    batch_size: int,
    on_progress: OnProgress = lambda done, total: None,
    layers: range | None = None,
) -> np.ndarray:
    """Importance of every group by the named method, [groups] float64; NaN for groups of other layers than `layers`.

    `samples` int64 [samples, seq_len] are not looked at by methods that read weights alone. Raises PruningError for an unknown
    method, and when a score is not finite.
    """
    [importance] = measure_at_once((method,), model, shape, samples, batch_size, on_progress, layers)
    return importance


def shared_passes(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """The methods in their order, those together that one pass gives all of."""
    left, found = list(methods), []
    while left:
        together = IMPORTANCE_METHODS[left[0]].together
        of_one_pass = tuple(name for name, each in IMPORTANCE_METHODS.items() if together and each.together == together)
        at_once = of_one_pass if of_one_pass and set(of_one_pass) <= set(left) else (left[0],)
        found.append(at_once)
        left = [method for method in left if method not in at_once]
    return found


def function_of(*methods: str) -> Callable[..., np.ndarray]:
    """What computes this method, or these that one pass gives; raises PruningError for an unknown one."""
    if unknown := [method for method in methods if method not in IMPORTANCE_METHODS]:
        raise PruningError("method_unknown", method=unknown[0], choices=", ".join(IMPORTANCE_METHODS))
    first = IMPORTANCE_METHODS[methods[0]]
    return pkgutil.resolve_name(f"{__package__}.{first.function if len(methods) == 1 else first.together}")


def measure_at_once(
    methods: tuple[str, ...],
    model: PreTrainedModel,
    shape: ModelShape,
    samples: torch.Tensor,
    batch_size: int,
    on_progress: OnProgress = lambda done, total: None,
    layers: range | None = None,
) -> np.ndarray:
    """`measure_groups` by one method, or by several that `shared_passes` gives together, [methods, groups] float64."""
    importance = np.atleast_2d(function_of(*methods)(model, shape, Calibration(samples, batch_size, on_progress, layers)))
    for of_method in importance:
        refuse_unless_finite(of_method, shape)
    if layers is not None:
        importance[:, ~np.isin(GroupIndex(shape).layer_idx, np.array(layers))] = np.nan
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
