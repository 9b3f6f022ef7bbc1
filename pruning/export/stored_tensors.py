"""The tensors of a model folder one by one, so that a model of any size can be turned into another format.

model-00001-of-00004.safetensors --memory map--> one tensor --> its writer
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from safetensors import SafetensorError, safe_open

from ..errors import PruningError, first_line
from ..planning.checkpoint_header import CheckpointHeader


class StoredTensors:
    """`stored[name]` is a tensor as the file has it, mapped into memory; nothing is kept."""

    def __init__(self, header: CheckpointHeader, files: dict):
        self._header = header
        self._files = files

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._files[self._header.tensors[name].file].get_tensor(name)


@contextmanager
def stored_tensors(header: CheckpointHeader) -> Iterator[StoredTensors]:
    """Opens the safetensors files of a folder; raises PruningError for a folder without any, or one that cannot be read."""
    if not header.tensors:
        raise PruningError("needs_safetensors", folder=header.folder)
    with ExitStack() as stack:
        try:
            files = {file: stack.enter_context(safe_open(file, "pt")) for file in header.weight_files}
        except (OSError, SafetensorError) as error:
            raise PruningError("file_broken", path=header.folder, reason=first_line(error)) from error
        yield StoredTensors(header, files)
