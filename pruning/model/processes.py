"""Several processes that train one model together (`accelerate launch`): the first writes, all of them agree.

Alone, a process is the first, and nothing is sent. Knows nothing about models.
"""

import os
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import distributed

_PATIENCE = timedelta(hours=12)  # the first repairs and evaluates while the others wait


def were_launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes files; by the launcher's word, before `join` too."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: str) -> None:
    """Connects the launched processes: over gloo on `cpu`, else over the backend of the accelerator."""
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    PartialState(cpu=on_cpu, timeout=_PATIENCE, **({"backend": "gloo"} if on_cpu else {}))


def device(name: str) -> str:
    """The device of this process: where several were launched on GPUs, each has its own; else `name`."""
    if not _joined() or name == "cpu" or not torch.cuda.is_available():
        return name
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def count() -> int:
    return distributed.get_world_size() if _joined() else 1


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if _joined():
        distributed.all_reduce(value)
    return value


def from_first(value):
    """The first process's value, in all of them; must be something that can be pickled."""
    if not _joined():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def together(do: Callable[[], None], otherwise: Callable[[], BaseException]) -> None:
    """The first process does it; where that raises, the others raise `otherwise()`, so that none waits for ever."""
    error = None
    if is_first():
        try:
            do()
        except BaseException as raised:
            error = raised
    failed = from_first(error is not None)
    if error is not None:
        raise error
    if failed:
        raise otherwise()


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
