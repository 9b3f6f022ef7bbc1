"""Names, shapes and dtypes of the tensors in a pytorch_model.bin, read without running its pickle and without torch.

    pytorch_model.bin = zip:  <name>/data.pkl   the state dict, tensors by reference      <name>/data/0, 1, ...   their bytes

The opcodes of data.pkl are walked with a stack of plain values. Nothing is imported and nothing is called: a name that is
not one of those below (an old pickled module, code) ends the reading with an error.
"""

import pickletools
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from ..errors import PruningError, first_line
from .tensor_header import DTYPE_BYTES, TensorHeader

# Storage classes and dtypes as torch names them -> dtype as safetensors writes it, bytes.
_DTYPES = {
    **{f"torch {name}Storage": dtype for name, dtype in (("Float", "F32"), ("Half", "F16"), ("BFloat16", "BF16"))},
    **{f"torch {name}Storage": dtype for name, dtype in (("Double", "F64"), ("Long", "I64"), ("Int", "I32"), ("Byte", "U8"))},
    **{f"torch {name}": dtype for name, dtype in (("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16"))},
    **{"torch BoolStorage": "BOOL", "torch CharStorage": "I8", "torch ShortStorage": "I16"},
}
_REBUILD = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3")
_PARAMETER = "torch._utils _rebuild_parameter"
_DICT = ("collections OrderedDict", "builtins dict")
_PLAIN = ("torch Size",)
_KNOWN = {*_DTYPES, *_REBUILD, _PARAMETER, *_DICT, *_PLAIN, "torch.storage UntypedStorage", "torch UntypedStorage"}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINFLOAT")
_INTEGERS = ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4")
_MEMO_PUT, _MEMO_GET = ("BINPUT", "LONG_BINPUT", "PUT"), ("BINGET", "LONG_BINGET", "GET")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()
_LOCAL_HEADER, _LOCAL_LENGTHS = 30, 26  # bytes of a zip entry before its name; of them, those before the two lengths


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names; it is never looked up."""

    text: str


def read_bin_header(file: Path) -> dict[str, TensorHeader]:
    """Tensor name -> dtype, shape and bytes.

    Raises PruningError for a file that is no zip of torch, is cut short, or holds anything but a state dict.
    """
    try:
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(pickles) != 1:
                raise PruningError("weights_truncated", file=file, reason="it holds no state dict of torch")
            content = archive.read(pickles[0])
            starts = _storage_starts(archive, stream, pickles[0].removesuffix("data.pkl") + "data/")
    except FileNotFoundError as error:
        raise PruningError("file_missing", path=file) from error
    except (zipfile.BadZipFile, struct.error) as error:
        raise PruningError("weights_truncated", file=file, reason="it is no archive as torch writes it since 1.6") from error
    except OSError as error:
        raise PruningError("weights_truncated", file=file, reason=first_line(error)) from error
    try:
        tensors = dict(_tensors(_walk(content, file)))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, StopIteration, RecursionError) as error:
        raise PruningError("weights_truncated", file=file, reason="its list of tensors cannot be read") from error
    if not tensors:
        raise PruningError("weights_truncated", file=file, reason="it names no tensor")
    headers, seen = {}, set()
    for name, tensor in tensors.items():
        width = DTYPE_BYTES[tensor.dtype]
        start = starts.get(tensor.storage, 0) + tensor.offset * width
        end = start + prod(tensor.shape) * width
        headers[name] = TensorHeader(tensor.dtype, tensor.shape, file, start, end, is_alias=tensor in seen)
        seen.add(tensor)
    return headers


def _storage_starts(archive: zipfile.ZipFile, stream: BinaryIO, prefix: str) -> dict[str, int]:
    """Name of each block of bytes -> where it begins in the file; torch does not compress them."""
    starts = {}
    for entry in archive.infolist():
        if entry.filename.startswith(prefix):
            # The list at the end of a zip does not know how far torch padded the entry itself.
            stream.seek(entry.header_offset + _LOCAL_LENGTHS)
            lengths = struct.unpack("<HH", stream.read(4))
            starts[entry.filename.removeprefix(prefix)] = entry.header_offset + _LOCAL_HEADER + sum(lengths)
    return starts


def _tensors(value):
    """(name, tensor) of all tensors, those of nested dictionaries too."""
    for name, entry in value.items():
        if isinstance(entry, dict):
            yield from _tensors(entry)
        elif isinstance(entry, _Tensor):
            yield name, entry


@dataclass(frozen=True)
class _Tensor:
    """Two that are equal are the same numbers: `storage` names the block of bytes, `offset` counts elements in it."""

    dtype: str
    shape: tuple[int, ...]
    storage: str
    offset: int


def _walk(content: bytes, file: Path):
    """What the pickle describes, tensors as `_Tensor`."""
    stack: list = []
    memo: dict = {}
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name == "STOP":
            return stack[-1]
        if name in _MEMO_PUT:
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _MEMO_GET:
            stack.append(memo[int(argument)])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_known(argument if name == "GLOBAL" else " ".join(_pop(stack, 2)), file))
        elif not _push(name, argument, stack) and not _combine(name, stack, file):
            raise PruningError("pickle_refused", file=file)
    raise ValueError("no end")


def _known(text: str, file: Path) -> _Name:
    if text not in _KNOWN:
        raise PruningError("pickle_refused", file=file)
    return _Name(text)


def _push(name: str, argument, stack: list) -> bool:
    """Opcodes that put one value on the stack, or nothing."""
    if name in _VALUES:
        stack.append(_VALUES[name])
    elif name in _LITERALS or name in _INTEGERS:
        stack.append(argument)
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
    elif name == "MARK":
        stack.append(_MARK)
    else:
        return name in ("PROTO", "FRAME")
    return True


def _combine(name: str, stack: list, file: Path) -> bool:
    """Opcodes that make one value of several; False for one that a state dict does not need."""
    if name in _TUPLES:
        stack.append(tuple(_pop(stack, _TUPLES[name])))
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name == "APPENDS":
        entries = _since_mark(stack)
        stack[-1].extend(entries)
    elif name == "APPEND":
        entry = stack.pop()
        stack[-1].append(entry)
    elif name in ("SETITEM", "SETITEMS"):
        entries = _pop(stack, 2) if name == "SETITEM" else _since_mark(stack)
        stack[-1].update(zip(entries[::2], entries[1::2], strict=True))
    elif name == "BINPERSID":
        stack.append(("storage", stack.pop()))
    elif name == "REDUCE":
        called, arguments = _pop(stack, 2)
        stack.append(_reduced(called, arguments, file))
    elif name == "BUILD" and isinstance(stack[-2], dict):
        stack.pop()  # attributes of the dictionary, as torch's _metadata
    else:
        return False
    return True


def _reduced(called, arguments: tuple, file: Path):
    """What a call would give, for the calls that tensors and dictionaries are made of."""
    text = called.text if isinstance(called, _Name) else None
    if text in _REBUILD:
        (_, storage), shape = arguments[0], arguments[2]
        kind = arguments[6] if text.endswith("v3") else storage[1]
        return _Tensor(_DTYPES[kind.text], tuple(int(size) for size in shape), str(storage[2]), int(arguments[1]))
    if text == _PARAMETER or text in _PLAIN:
        return arguments[0]
    if text in _DICT:
        return dict(*arguments)
    raise PruningError("pickle_refused", file=file)


def _pop(stack: list, count: int) -> list:
    taken = stack[-count:]
    del stack[-count:]
    return taken


def _since_mark(stack: list) -> list:
    start = len(stack) - 1 - next(i for i, value in enumerate(reversed(stack)) if value is _MARK)
    taken = stack[start + 1 :]
    del stack[start:]
    return taken
