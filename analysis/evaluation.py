"""One model measured from all sides, in a process of its own, so that memory and speed are its own too.

Evaluation (what to measure)  ->  evaluate: load, perplexity, zero-shot tasks, speed  ->  one row of the comparison
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass

from pruning.errors import PruningError


@dataclass(frozen=True)
class Evaluation:
    """What is measured of every model. No datasets: no perplexity; no batch sizes: no speed; no tasks: no zero-shot."""

    datasets: tuple[str, ...] = ("python-stdlib",)
    seq_len: int = 128
    stride: int | None = None
    windows: int = 256
    batch_sizes: tuple[int, ...] = (1, 8)
    prompt_tokens: int = 64
    new_tokens: int = 32
    repeats: int = 5
    tasks: tuple[str, ...] = ()
    task_limit: int | None = None
    device: str = "auto"
    dtype: str = "auto"


def evaluate_all(folders: dict[str, str], wanted: Evaluation) -> Iterator[dict]:
    """One result per model (name -> folder), each from a fresh process. Raises PruningError."""
    for name, folder in folders.items():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            try:
                yield {"model": name} | executor.submit(evaluate, folder, wanted).result()
            except BrokenProcessPool as error:
                raise PruningError("worker_died", reason="it ended while it measured") from error


def evaluate(folder: str, wanted: Evaluation) -> dict:
    """What the model in `folder` is and does: parameters, perplexity with its basis, latency, peak memory in bytes."""
    from pruning.model.checkpoint import load, open_checkpoint
    from pruning.model.runtime import is_out_of_memory, resolve_device
    from pruning.settings import resolve

    from .latency import PeakMemory, measure_latency
    from .perplexity import PPLMetric
    from .zero_shot import zero_shot

    device = resolve_device(wanted.device)
    peak = PeakMemory(device)
    try:
        header = open_checkpoint(folder)
        loaded = load(header, resolve({"base_model": folder, "device": wanted.device, "dtype": wanted.dtype}))
        result: dict = {
            "parameters": loaded.model.num_parameters(),
            "weight_bytes": header.weight_bytes,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "device": str(loaded.model.device),
        }
        result["latency"] = [
            asdict(measure_latency(loaded.model, size, wanted.prompt_tokens, wanted.new_tokens, wanted.repeats))
            for size in wanted.batch_sizes
        ]
        if wanted.batch_sizes:
            result["peak_bytes"] = peak.bytes  # before perplexity: its batches are larger, and would hide the model's own
        if wanted.datasets:
            metric = PPLMetric(
                loaded.model,
                loaded.tokenizer,
                wanted.datasets,
                wanted.seq_len,
                str(loaded.model.device),
                wanted.stride,
                wanted.windows,
            )
            result |= {"perplexity": dict(metric), "basis": metric.basis}
        if wanted.tasks:
            result["tasks"] = zero_shot(loaded.model, loaded.tokenizer, list(wanted.tasks), limit=wanted.task_limit)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise PruningError("out_of_memory", doing=f"measuring {folder}") from error
        raise
    return result
