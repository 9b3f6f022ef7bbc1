"""Memory and seconds of `apply --stream` on a 16 GB random bfloat16 checkpoint, beside a plain copy of its files.

The checkpoint has the shape of Llama-3-8B and is written shard by shard. A plain copy reads and writes each byte once; its
seconds per byte moved, times the bytes that the cut reads and writes, is what the cut is compared with (bound: 1.5).
Bound of memory: RssAnon below 2 x the largest tensor + 500 MB.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch

from pruning.export.shards import write_shards
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ATTENTION, MLP, ModelShape

from .planning import LLAMA_3_8B, _cpu_name

_ROOT = Path(__file__).parents[1]
_NEEDED_FREE = 45 * 10**9
_TOKENIZER = _ROOT / "assets" / "demo_model"
_CHUNK = 32 * 2**20  # values
_SHARD = "5GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="where the files go; default: the folder for temporary files")
    parser.add_argument("--layers", type=int, default=32, help="fewer layers for a quick look (default 32)")
    parser.add_argument("--force", action="store_true", help="also with less than 45 GB free")


def run(args: argparse.Namespace) -> None:
    """Prints bytes, seconds and memory of the copy and of the cut, and whether the bounds hold."""
    folder = args.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_FREE and not args.force:
        print(f"skipped: {free / 1e9:.0f} GB are free under {folder}, 45 GB are needed. This is not a pass.")
        return
    print(f"machine: {_cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(dir=folder, prefix="export-benchmark-") as temporary:
        source = random_model(Path(temporary) / "source", LLAMA_3_8B | {"num_hidden_layers": args.layers})
        plan = random_plan(source, Path(temporary) / "plan.json")
        size = source.weight_bytes
        print(f"checkpoint: {size:,} bytes in {len(source.weight_files)} files, {source.shape.num_layers} layers")
        first = _seconds_to_copy(source, Path(temporary) / "copy")
        cut_seconds, peak = _cut(source, plan, Path(temporary) / "log")
        written = CheckpointHeader.read(Path(temporary) / "log" / "cut" / "model").weight_bytes
        shutil.rmtree(Path(temporary) / "log")
        second = _seconds_to_copy(source, Path(temporary) / "copy")  # others use this machine too: before and after
        copy_seconds = (first + second) / 2
        print(f"plain copy: {first:.1f} s before, {second:.1f} s after, for {2 * size:,} bytes read and written")
        allowed = 1.5 * copy_seconds * (size + written) / (2 * size)
        largest = max(tensor.end - tensor.start for tensor in source.tensors.values())
        _tell("streamed cut", f"{cut_seconds:.1f} s for {size + written:,} bytes read and written", cut_seconds, allowed, "s")
        bound = 2 * largest + 500e6
        _tell("memory", f"RssAnon {peak / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB", peak / 1e6, bound / 1e6, "MB")


def random_model(folder: Path, config: dict) -> CheckpointHeader:
    """A sharded bfloat16 folder of random finite values, with the demo model's tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16", "architectures": ["LlamaForCausalLM"]}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(_TOKENIZER / name, folder / name)
    shapes = ModelShape.from_config(config).tensor_shapes()
    bits = np.random.Generator(np.random.SFC64(0))

    def content(name: str) -> Iterator[np.ndarray]:
        left = prod(shapes[name])
        while left:
            count = min(left, _CHUNK)
            yield bits.integers(0, 2**16, count, np.uint16) & np.uint16(0xBFFF)  # no infinities, no NaN
            left -= count

    write_shards(folder, shapes, torch.bfloat16, content, _SHARD)
    return CheckpointHeader.read(folder)


def random_plan(source: CheckpointHeader, path: Path) -> Path:
    """Writes a plan that takes a quarter of the channels of every layer, and one or two attention groups of every other."""
    chooser = np.random.default_rng(0)
    plan = PruningPlan.keep_all(source.shape, fingerprint=source.fingerprint)
    for index, layer in enumerate(source.shape.layers):
        channels = chooser.permutation(layer.intermediate_size)[: layer.intermediate_size // 4]
        plan.kept[plan.groups.slice_of(index, MLP)][channels] = False
        if index % 2:
            plan.kept[plan.groups.slice_of(index, ATTENTION)][: 1 + index % 4 // 2] = False
    path.write_text(json.dumps(plan.to_json()))
    return path


def _seconds_to_copy(source: CheckpointHeader, folder: Path) -> float:
    """Seconds of copying every weight file, until it is on the disk."""
    folder.mkdir()
    _forget_pages(source)
    start = time.perf_counter()
    for file in source.weight_files:
        shutil.copyfile(file, folder / file.name)
    _flush(folder)
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def _cut(source: CheckpointHeader, plan: Path, root: Path) -> tuple[float, int]:
    """Seconds of the whole command until its files are on the disk, and the largest RssAnon of its process in bytes."""
    command = [sys.executable, "-m", "pruning", "apply", "--stream", "--base_model", str(source.folder), "--plan", str(plan)]
    command += ["--output_root", str(root), "--experiment_name", "cut", "--max_shard_size", _SHARD]
    _forget_pages(source)
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(0.05)
    _flush(root / "cut" / "model")
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"apply --stream ended with {process.returncode}: {process.stdout.read()}")
    return seconds, peak


def _anonymous_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def _forget_pages(source: CheckpointHeader) -> None:
    """Has the system drop the files from its cache, so that both readers read from the disk."""
    _flush(source.folder)
    for file in source.weight_files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _flush(folder: Path) -> None:
    """Waits until the weight files of a folder are on the disk."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _tell(what: str, measured: str, value: float, bound: float, unit: str) -> None:
    verdict = "within" if value <= bound else "ABOVE"
    print(f"{what}: {measured}; {verdict} the bound of {bound:.0f} {unit} ({value / bound:.0%} of it)")
