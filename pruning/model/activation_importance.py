"""Group importance from what flows through the model: `wanda` (forward only), `gate` and `fisher` (backward to
activations only, no weight gradients).

    wanda          norm of every input feature x size of the weights that read it
    gate, fisher   a_s = sum over tokens of <x_t, dL_s/dx_t>, x the group's columns at the input of o_proj / down_proj
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..planning.groups import GroupIndex
from ..planning.shape import ModelShape
from .grouped_parameters import grouped_parameters
from .loss import Calibration, gradients_for, summed_loss

Collect = Callable[[slice, torch.Tensor], None]


@torch.no_grad()
def wanda(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = sum of abs(W_ij) * rms(X_j) over the weights of u, [groups] float64; X_j input feature j (Wanda 2306.11695).

    rms over all calibration tokens; biases read no feature and do not count. Independent of the batch size.
    """
    weights = grouped_parameters(model, shape, calibration.layers, with_biases=False)
    with _input_squares(g.module for g in weights) as squares:
        for batch in calibration.batches(model):
            model.model(input_ids=batch, use_cache=False)
    importance = np.zeros(GroupIndex(shape).size)
    for g in weights:
        rms = (squares[g.module] / calibration.samples.numel()).sqrt()  # [in_features]
        importance[g.positions] += g.sum_per_group(g.parameter.float().abs() * rms)
    return importance


@contextlib.contextmanager
def _input_squares(linears: Iterable[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Sums the squares of every input feature of these maps while the model runs, [in_features] each.

    q, k, v read one tensor, gate and up another: its squares are summed once and shared.
    """
    squares: dict[nn.Module, torch.Tensor] = {}
    last_input, last_sum = None, None

    def add(linear: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal last_input, last_sum
        if inputs[0] is not last_input:
            last_input = inputs[0]
            last_sum = inputs[0].detach().float().square().sum(dim=(0, 1))
        if linear in squares:
            squares[linear] += last_sum
        else:
            squares[linear] = last_sum.clone()  # q, k and v are added to one by one

    with contextlib.ExitStack() as hooks:
        for linear in linears:
            hooks.callback(linear.register_forward_pre_hook(add).remove)
        yield squares


def gate(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = mean over samples of abs(a_s), [groups] float64 (Michel 2019). Independent of the batch size."""
    return gate_and_fisher(model, shape, calibration)[0]


def fisher(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """I(u) = 1/2 mean over samples of a_s^2, [groups] float64 (Theis 2018; Kwon 2204.09656). Independent of the batch size."""
    return gate_and_fisher(model, shape, calibration)[1]


def gate_and_fisher(model: PreTrainedModel, shape: ModelShape, calibration: Calibration) -> np.ndarray:
    """Both of these from one pass, [2, groups] float64."""
    importance = np.zeros((2, GroupIndex(shape).size))

    def collect(positions: slice, a: torch.Tensor) -> None:  # [samples in the batch, groups of a block]
        importance[0, positions] += a.abs().sum(0).cpu().numpy()
        importance[1, positions] += a.square().sum(0).cpu().numpy() / 2

    with _gate_products(model, shape, calibration.layers, collect):
        for batch in calibration.batches(model):
            # Each sample's own mean loss: what flows back into a sample then comes from that sample alone.
            (summed_loss(model, batch) / (batch.shape[1] - 1)).backward()
    return importance / len(calibration.samples)


@contextlib.contextmanager
def _gate_products(model: PreTrainedModel, shape: ModelShape, layers: range | None, collect: Collect) -> Iterator[None]:
    """While active, a backward pass hands every block's a_s, [samples, groups] float64, to `collect`.

    Weights collect no gradients; the graph begins at the embeddings' output.
    """
    with gradients_for(model, []), contextlib.ExitStack() as hooks:
        embeddings = model.get_input_embeddings()
        hooks.callback(embeddings.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True)).remove)
        for g in grouped_parameters(model, shape, layers):
            if g.reads_groups:
                hooks.callback(g.module.register_forward_pre_hook(_product_hook(g.positions, collect)).remove)
        yield


def _product_hook(positions: slice, collect: Collect):
    count = positions.stop - positions.start

    def on_input(module: nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        # Not inputs[0] itself: a tensor whose own hook holds it is a cycle, and the batch's graph would outlive the batch.
        x = inputs[0].detach()  # [samples, seq_len, features]

        def on_gradient(gradient: torch.Tensor) -> None:
            products = torch.einsum("stf,stf->sf", x.float(), gradient.float())
            collect(positions, products.double().unflatten(1, (count, -1)).sum(2))

        inputs[0].register_hook(on_gradient)

    return on_input
