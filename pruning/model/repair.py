"""Repair without training: what is left of `o_proj` and `down_proj` takes over what the removed columns did.

    least squares over calibration tokens X, G = X'X + lambda I:     W_K  <-  W_K + W_P G_PK inv(G_KK)

    layer by layer, first to last, hidden states from the layers that are cut and repaired already:
      h -> attention of the source, uncut -> Gram of o_proj's inputs    -> repair the cut o_proj
      h -> cut attention, repaired -> MLP of the source, uncut -> Gram of down_proj's inputs -> repair the cut down_proj
      h -> cut layer -> h of the next

K are the columns that stay, P those that went. Needs the source and the cut model side by side (they share what was not
cut). Beyond them memory holds one Gram matrix (float32, inputs x inputs) with the kept part of it twice, or one layer's
activations for one batch. The hidden states of all calibration tokens are in a temporary file (tokens x hidden size, in the
model's number format: 0.5 GiB for 65,536 tokens of an 8B model), which saves running all earlier layers again for each
layer. Knows nothing about why a column went.
"""

import contextlib
import functools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import PruningError
from ..planning.kept_indices import input_columns
from ..planning.plan import PruningPlan
from ..planning.shape import ATTENTION, MLP
from ..words import readable_size
from .loss import OnProgress

DAMPING = 0.01  # lambda in units of the mean diagonal of G: the ridge pulls towards the weights as they were
_LARGER, _MOST = 10, 1e3  # where the solution fails
_BATCHES_TIMED = 3
_Work = Callable[[torch.Tensor], torch.Tensor | None]


class SpilledTensors:
    """A list of tensors on the disk, in the folder for temporary files; gone when the block ends.

    Give the bytes that will be needed: raises PruningError where there is no room for them.
    """

    def __init__(self, needed: int):
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise PruningError("disk_full", folder=folder, needed=readable_size(needed), free=readable_size(free))
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the block ends
        self._places: list[tuple[int, torch.Size, torch.dtype]] = []
        self._end = 0

    def __enter__(self) -> "SpilledTensors":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def append(self, tensor: torch.Tensor) -> None:
        """Adds a tensor of any device."""
        self._places.append((self._end, tensor.shape, tensor.dtype))
        self._end += tensor.nbytes
        self[-1] = tensor

    def __setitem__(self, index: int, tensor: torch.Tensor) -> None:
        """Replaces a tensor by another of the same shape and number format."""
        start, shape, dtype = self._places[index]
        assert (tensor.shape, tensor.dtype) == (shape, dtype)
        self._file.seek(start)
        self._file.write(_bytes_of(tensor.cpu().contiguous()))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The tensor, on the CPU."""
        start, shape, dtype = self._places[index]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(start)
        self._file.readinto(_bytes_of(tensor))
        return tensor

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


@dataclass(frozen=True)
class RepairedMatrix:
    """One matrix of the source layer `layer_idx`. Errors: norm of the change of its output over the norm of its output,
    on the calibration tokens, with the removed columns gone and with the others repaired.
    """

    layer_idx: int
    matrix: str
    error_before: float
    error_after: float
    damping: float


@torch.no_grad()
def repair(
    model: PreTrainedModel,
    pruned: PreTrainedModel,
    plan: PruningPlan,
    samples: torch.Tensor,
    batch_size: int = 8,
    on_progress: OnProgress = lambda done, total: None,
    on_repaired: Callable[[RepairedMatrix], None] = lambda repaired: None,
) -> list[RepairedMatrix]:
    """Repairs `pruned`, which is `cut(model, plan)`, in place, and returns what that did to each matrix that lost columns.

    `samples` are calibration windows, int64 [samples, seq_len]; `on_progress` gets (layers done, layers), 0 first. `model`
    is never changed, and whatever is raised, `pruned` is the cut model as it was. Biases stay. Raises PruningError when a Gram
    matrix is not finite.
    """
    was_training = model.training, pruned.training
    model.eval(), pruned.eval()
    try:
        return _through_all_layers(model, pruned, plan, samples, batch_size, on_progress, on_repaired)
    except BaseException:
        undo_repair(model, pruned, plan)
        raise
    finally:
        model.train(was_training[0]), pruned.train(was_training[1])


def seconds_to_repair(
    model: PreTrainedModel, pruned: PreTrainedModel, plan: PruningPlan, samples: torch.Tensor, batch_size: int = 8
) -> float:
    """Seconds that `repair` takes, about: its first layers are timed, on one batch and on three, and it is undone.

    Time grows with the batches in every layer; a layer that lost something also solves, once. All of these count as long as
    the first of them, layers that lost nothing as long as those before it.
    """
    lost = [_lost_some(plan, layer_idx, ATTENTION) or _lost_some(plan, layer_idx, MLP) for layer_idx in plan.kept_layers]
    if not any(lost):
        return 0.0
    first, batches = lost.index(True), math.ceil(len(samples) / batch_size)
    few, more = 1, min(_BATCHES_TIMED, batches)

    def timed(count: int) -> tuple[float, float]:
        return _seconds_of_first_layers(model, pruned, plan, samples[: count * batch_size], batch_size, first)

    timed(few)  # warms up
    of_few, of_more = timed(few), timed(more)
    of_batch = max(of_more[1] - of_few[1], 0.0) / (more - few) if more > few else of_few[1]
    to_solve = max(of_few[1] - few * of_batch, 0.0)
    whole_layer = of_more[0] / (first * more) if first else of_batch
    return sum(lost) * (to_solve + batches * of_batch) + (len(lost) - sum(lost)) * batches * whole_layer


def _seconds_of_first_layers(model, pruned, plan, samples, batch_size, first: int) -> tuple[float, float]:
    """Seconds of the layers before `first`, and of that one."""
    ends = []

    def stop_after_first(done: int, _: int) -> None:
        ends.append(time.perf_counter())
        if done == first + 1:
            raise _Enough()

    with contextlib.suppress(_Enough):
        repair(model, pruned, plan, samples, batch_size, stop_after_first)
    return ends[first] - ends[0], ends[first + 1] - ends[first]


class _Enough(Exception):
    """What was to be timed is over."""


def _through_all_layers(model, pruned, plan, samples, batch_size, on_progress, on_repaired) -> list[RepairedMatrix]:
    arguments = _layer_arguments(model, samples[:1])
    embeddings = pruned.get_input_embeddings()
    report = []
    on_progress(0, len(plan.kept_layers))
    with SpilledTensors(samples.numel() * embeddings.embedding_dim * embeddings.weight.itemsize) as hidden:  # [B, T, H] each
        for batch in samples.split(batch_size):
            hidden.append(embeddings(batch.to(embeddings.weight.device)))
        for place, layer_idx in enumerate(plan.kept_layers):
            source, layer = model.model.layers[layer_idx], pruned.model.layers[place]
            for repaired in _repair_layer(source, layer, arguments[layer_idx], hidden, plan, layer_idx):
                report.append(repaired)
                on_repaired(repaired)
            for i, batch in enumerate(hidden):
                hidden[i] = layer(batch.to(_device(layer)), **arguments[layer_idx])
            on_progress(place + 1, len(plan.kept_layers))
    return report


def _repair_layer(
    source: Any, layer: Any, arguments: dict, hidden: SpilledTensors, plan: PruningPlan, layer_idx: int
) -> Iterator[RepairedMatrix]:
    """Repairs what is left of a layer's attention, then of its MLP, where they lost something."""
    if _lost_some(plan, layer_idx, ATTENTION):
        run = functools.partial(_source_attention, source, arguments)
        gram = _gram(source.self_attn.o_proj, run, hidden)
        yield _repair(source.self_attn.o_proj, layer.self_attn.o_proj, gram, plan, layer_idx, ATTENTION)
        del gram  # not while the next one grows
    if _lost_some(plan, layer_idx, MLP):
        run = functools.partial(_source_mlp, source.mlp, layer, functools.partial(layer, **arguments))
        gram = _gram(source.mlp.down_proj, run, hidden)
        yield _repair(source.mlp.down_proj, layer.mlp.down_proj, gram, plan, layer_idx, MLP)


def _lost_some(plan: PruningPlan, layer_idx: int, group_type: str) -> bool:
    """Whether groups of a block went and others stay; a block that is empty has nothing left to repair."""
    return 0 < len(plan.kept_groups(layer_idx, group_type)) < plan.shape.layers[layer_idx].group_count(group_type)


@torch.no_grad()
def undo_repair(model: PreTrainedModel, pruned: PreTrainedModel, plan: PruningPlan) -> None:
    """Gives the cut matrices the source's columns again: `pruned` is `cut(model, plan)` then."""
    for place, layer_idx in enumerate(plan.kept_layers):
        source, layer = model.model.layers[layer_idx], pruned.model.layers[place]
        for group_type, of_source, of_layer in ((ATTENTION, source.self_attn, layer.self_attn), (MLP, source.mlp, layer.mlp)):
            if _lost_some(plan, layer_idx, group_type):
                name = "o_proj" if group_type == ATTENTION else "down_proj"
                weight = getattr(of_source, name).weight
                kept = torch.from_numpy(input_columns(plan, layer_idx, group_type)).to(weight.device)
                getattr(of_layer, name).weight.copy_(weight[:, kept])


# the layers -----------------------------------------------------------------------------------------------------------


def _layer_arguments(model: PreTrainedModel, window: torch.Tensor) -> list[dict]:
    """What the model hands to each layer beside hidden states (mask, positions), seen on one window, [1, seq_len]."""
    seen: list[dict] = []

    def see(module: nn.Module, inputs: tuple, arguments: dict) -> None:
        seen.append({name: value for name, value in arguments.items() if name != "hidden_states"})

    with contextlib.ExitStack() as hooks:
        for layer in model.model.layers:
            hooks.callback(layer.register_forward_pre_hook(see, with_kwargs=True).remove)
        model.model(input_ids=window.to(model.device), use_cache=False)
    return seen


def _source_attention(source: nn.Module, arguments: dict, hidden: torch.Tensor) -> None:
    source.self_attn(hidden_states=source.input_layernorm(hidden), **arguments)


def _source_mlp(mlp: nn.Module, layer: nn.Module, run_layer: _Work, hidden: torch.Tensor) -> None:
    """Runs the source's MLP on what the cut layer's own MLP gets."""
    with _inputs_of(layer.mlp) as inputs:
        run_layer(hidden)
    mlp(inputs.pop())


@contextlib.contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What goes into a module while the block runs."""
    inputs: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


# the least squares ----------------------------------------------------------------------------------------------------


def _gram(projection: nn.Linear, run: _Work, hidden: SpilledTensors) -> torch.Tensor:
    """X'X over the inputs of `projection`, float32 [inputs, inputs], while `run` works through the hidden states."""
    size, device = projection.in_features, projection.weight.device
    gram = torch.zeros(size, size, dtype=torch.float32, device=device)
    for batch in hidden:
        with _inputs_of(projection) as inputs:
            run(batch.to(device))
        x = inputs.pop().flatten(0, 1).float()  # [tokens, inputs]
        gram.addmm_(x.T, x)
    return gram


def _repair(
    source: nn.Linear, projection: nn.Linear, gram: torch.Tensor, plan: PruningPlan, layer_idx: int, group_type: str
) -> RepairedMatrix:
    """Writes the repaired columns into `projection`; `source` holds all columns as they were."""
    matrix = "o_proj" if group_type == ATTENTION else "down_proj"
    kept = torch.from_numpy(input_columns(plan, layer_idx, group_type)).to(gram.device)
    removed = torch.ones(len(gram), dtype=torch.bool, device=gram.device).index_fill_(0, kept, False).nonzero().flatten()
    weight = source.weight.float()  # [outputs, inputs]
    change = weight.clone()  # of the output's weights: W - W', 0 for a column that stays as it is
    change[:, kept] = 0
    size_of_output, before = _norm(weight, gram), _norm(change, gram)
    right_side = gram[kept[:, None], removed] @ weight[:, removed].T  # G_KP W_P', [K, outputs]
    solution, damping = _solve(gram[kept[:, None], kept], right_side, gram.diagonal().mean().item())
    if solution is None:
        raise PruningError("repair_not_finite", layer=layer_idx, matrix=matrix)
    projection.weight.copy_(weight[:, kept] + solution.T)
    change[:, kept] = weight[:, kept] - projection.weight.float()  # as it is held, rounded to its format
    after = _norm(change, gram)
    share = 1 / size_of_output if size_of_output else 0.0
    return RepairedMatrix(layer_idx, matrix, before * share, after * share, damping)


def _solve(gram: torch.Tensor, right_side: torch.Tensor, mean_diagonal: float) -> tuple[torch.Tensor | None, float]:
    """inv(gram + damping * mean_diagonal * I) @ right_side and the damping that made it possible; None where none does.

    The diagonal of `gram` is overwritten.
    """
    damping, diagonal = DAMPING, gram.diagonal().clone()
    while damping <= _MOST:
        gram.diagonal().copy_(diagonal + damping * mean_diagonal)
        factor, fault = torch.linalg.cholesky_ex(gram)
        if not fault.item():
            half = torch.linalg.solve_triangular(factor, right_side, upper=False)
            solution = torch.linalg.solve_triangular(factor.mT, half, upper=True)  # cholesky_solve would copy the factor
            if solution.isfinite().all():
                return solution, damping
        damping *= _LARGER
    return None, damping


def _norm(weight: torch.Tensor, gram: torch.Tensor) -> float:
    """Norm of the outputs that `weight` gives on the tokens of `gram`: sqrt(trace(W G W'))."""
    return ((weight @ gram) * weight).sum(dtype=torch.float64).clamp(min=0).sqrt().item()
