"""Weight files written one tensor at a time, byte for byte as safetensors writes them; no model is in memory.

    source tensor --2 MiB of rows--> rows / columns that stay --> number format --> model-00001-of-00004.safetensors

What stays of a tensor is said by planning/kept_indices.py.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from math import prod
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

import numpy as np
import torch
from huggingface_hub import split_torch_state_dict_into_shards

from ..planning.checkpoint_header import BYTES_PER_PARAMETER, INDEX_FILE, TensorHeader
from ..planning.kept_indices import TensorCut

Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise Cancelled
_CHUNK = 2 * 2**20  # stays in the processor's cache on its way: 64 MiB take three times as long
_AHEAD = 8 * _CHUNK
_QUEUED = 2  # pieces made ahead of what is written
_TELL_EVERY = 256 * 2**20  # telling writes a file of its own, which waits in line behind all that is being written
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_TORCH = {name: dtype for dtype, name in _NAMES.items()}
_UNSIGNED = {8: np.uint64, 4: np.uint32, 2: np.uint16}


def write_shards(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    content: Callable[[str], Iterator[np.ndarray]],
    max_shard_size: int | str,
    on_progress: Progress | None = None,
) -> None:
    """Writes the tensors of `shapes`, in their order, as one safetensors file or shards with their index.

    `content` gives the bytes of a tensor piece by piece.
    """
    split = split_torch_state_dict_into_shards(
        {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}, max_shard_size=max_shard_size
    )
    total = sum(map(prod, shapes.values())) * dtype.itemsize
    files = {file: sorted(names) for file, names in split.filename_to_tensors.items()}  # as safetensors orders one dtype
    done = told = 0
    with _ahead(piece for names in files.values() for name in names for piece in content(name)) as pieces:
        for file, names in files.items():
            with (folder / file).open("wb") as shard:
                shard.write(_header({name: shapes[name] for name in names}, dtype))
                end = done + sum(prod(shapes[name]) for name in names) * dtype.itemsize
                while done < end:
                    piece = next(pieces)
                    shard.write(piece)
                    done += piece.nbytes
                    if on_progress and (done - told >= _TELL_EVERY or done == total):
                        told = done
                        on_progress(done, total)
    if split.is_sharded:
        write_index(folder, split.tensor_to_filename, total)


@contextmanager
def _ahead(pieces: Iterator[np.ndarray]) -> Iterator[Iterator[np.ndarray]]:
    """Has a thread make the next pieces while one is written: reading and writing keep a processor busy each."""
    made: Queue = Queue(_QUEUED)
    left = Event()

    def put(item) -> None:
        while not left.is_set():
            with suppress(Full):
                return made.put(item, timeout=0.1)

    def make() -> None:
        try:
            for piece in pieces:
                put(piece)
                if left.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    def take() -> Iterator[np.ndarray]:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    maker = Thread(target=make, daemon=True)
    maker.start()
    try:
        yield take()
    finally:
        left.set()
        maker.join()


def write_index(folder: Path, file_of: dict[str, str], total: int) -> None:
    """Writes the index that says in which file each tensor is; `total` is in bytes."""
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def kept_pieces(tensor: TensorHeader, cut: TensorCut, dtype: torch.dtype) -> Iterator[np.ndarray]:
    """What `cut` leaves of a stored tensor, in `dtype`, a piece of the rows at a time."""
    for first, rows in _row_pieces(tensor):
        if cut.dim == 0 and cut.kept is not None:
            begin, end = np.searchsorted(cut.kept, (first, first + len(rows)))
            rows = rows[cut.kept[begin:end] - first]
        elif cut.dim == 1:
            rows = np.take(rows, cut.kept, axis=1)
        if len(rows):
            yield _converted(rows, tensor.dtype, dtype)


def _row_pieces(tensor: TensorHeader) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first row, rows), as unsigned integers of the values' width; a piece is soon replaced by a later one."""
    width = BYTES_PER_PARAMETER[tensor.dtype]
    columns = prod(tensor.shape[1:])
    count = max(_CHUNK // (columns * width), 1)
    # One is filled, one waits to be put, one is written, the others are queued.
    buffers = [np.empty((min(count, tensor.shape[0]), columns), _UNSIGNED[width]) for _ in range(_QUEUED + 3)]
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        for first, buffer in zip(range(0, tensor.shape[0], count), cycle(buffers)):
            _read_ahead(file)
            rows = buffer[: tensor.shape[0] - first]
            view = memoryview(rows).cast("B")
            while len(view):
                if not (read := file.readinto(view)):
                    raise OSError(f"{tensor.file} ends early")
                view = view[read:]
            yield first, rows


def _read_ahead(file) -> None:
    """Has the system fetch what comes next while this piece is written: without, a cut takes three times as long."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), file.tell() + _CHUNK, _AHEAD, os.POSIX_FADV_WILLNEED)


def _converted(rows: np.ndarray, stored: str, dtype: torch.dtype) -> np.ndarray:
    if _NAMES[dtype] == stored:
        return np.ascontiguousarray(rows)
    signed = torch.from_numpy(np.ascontiguousarray(rows).view(f"i{rows.itemsize}"))
    changed = signed.view(_TORCH[stored]).to(dtype)
    return changed.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).numpy()


def _header(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    entries: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
