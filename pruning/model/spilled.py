"""Tensors that wait in a temporary file instead of in memory, read back one at a time."""

import shutil
import tempfile
from collections.abc import Iterator

import torch

from ..errors import PruningError


class SpilledTensors:
    """A list of tensors on the disk, in the folder for temporary files; gone when the block ends.

    Give the bytes that will be needed: raises PruningError where there is no room for them.
    """

    def __init__(self, needed: int):
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < needed:
            sizes = {"needed": f"{needed / 2**30:.2f} GiB", "free": f"{free / 2**30:.2f} GiB"}
            raise PruningError("disk_full", folder=folder, **sizes)
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
        """Puts a tensor of the same shape and number format in the place of another."""
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
