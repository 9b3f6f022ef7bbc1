"""What each way of recovery costs before it is started, as a table; and what was measured of it.

    plan, settings  ->  cost_table      repair, LoRA, full training: parameters trained, memory, steps, tokens, seconds
    recovery_cost.json  ->  Measured    windows of the text, seconds of a step, an evaluation, the repair, bytes that are free

How many windows a text gives shows when it is read: until then steps and tokens of a corpus are the most that there can be,
and those of instructions are not known. Imports no torch. Knows nothing about the screen.
"""

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from pruning.model.corpus_names import FILE, HUB, HUB_CORPORA, kind_of_corpus, text_file
from pruning.planning.memory import weight_bytes
from pruning.planning.plan import PruningPlan
from pruning.planning.recovery_cost import recovery_cost
from pruning.planning.shape import ModelShape
from pruning.runs.measured_cost import Measured
from pruning.settings import SETTINGS, Settings

from .size import computing_bytes

REPAIR = "repair"
EXACT, AT_MOST, UNKNOWN = "exact", "at_most", "unknown"
_TRAININGS = SETTINGS["finetune_method"].choices
COLUMNS = ("way", "is_chosen", "distils", "trained", "share", "memory", "fits", "length", "steps", "tokens", "seconds")
_FLOAT32 = 4
_GRAM_MATRICES = 4  # the Gram matrix, its part that stays, the factor of that, and the solution
_GPU_DRIVERS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")


def computes_in_ram(settings: Settings) -> bool:
    """Whether a model is in the memory of this machine for sure: `device` says so, or there is no GPU to take.

    Without torch, which a page does not load: from its version, and from the drivers.
    """
    if settings.device != "auto":
        return settings.device == "cpu"
    has_driver = sys.platform == "win32" or any(Path(driver).exists() for driver in _GPU_DRIVERS)
    return version("torch").endswith("+cpu") or not has_driver


def cost_table(
    plan: PruningPlan, settings: Settings, is_repaired: bool, memory_here: int | None, measured: Measured | None
) -> pd.DataFrame:
    """A row for each way with the columns COLUMNS: repair unless it was done, and both kinds of training as the settings ask.

    `memory` is the estimated peak in bytes, `fits` whether `memory_here` holds it (None where that is not known); `length`
    says what steps and tokens are: EXACT, AT_MOST so many, or UNKNOWN, and missing; `seconds` are missing where no
    measurement is of this way. Raises PruningError for a text that is not there.
    """
    rows = [] if is_repaired else [_repair(plan, settings, measured)]
    rows += [_training(plan, replace(settings, finetune_method=way), settings, measured) for way in _TRAININGS]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["fits"] = None if memory_here is None else table["memory"] <= memory_here
    table["seconds"] = table["seconds"].astype(float)
    for name in ("steps", "tokens"):
        table[name] = table[name].astype("Int64")
    return table


def tokens_of_batch(settings: Settings) -> int:
    """Tokens of one batch of the training."""
    return settings.finetune_batch_size * (settings.finetune_seq_len or settings.seq_len)


def length_of(settings: Settings, measured: Measured | None) -> str:
    """Whether it is known how many steps a training has: EXACT, AT_MOST or UNKNOWN."""
    if settings.finetune_steps or (measured is not None and measured.is_of_text(settings)):
        return EXACT
    return UNKNOWN if _may_be_instructions(settings.finetune_corpus or settings.corpus) else AT_MOST


def _may_be_instructions(name: str) -> bool:
    """Whether a text may hold instructions, which are packed into as many windows as they fill."""
    kind = kind_of_corpus(name)
    return (kind == FILE and text_file(name).suffix in (".json", ".jsonl")) or (kind == HUB and name not in HUB_CORPORA)


def _training(plan: PruningPlan, settings: Settings, chosen: Settings, measured: Measured | None) -> dict:
    length = length_of(settings, measured)
    is_read = measured is not None and measured.is_of_text(settings)
    windows = measured.windows if is_read else settings.finetune_samples
    cost = recovery_cost(plan.shape_after, plan.shape, settings, windows, computing_bytes(settings.dtype))
    is_timed = length != UNKNOWN and measured is not None and measured.is_of(settings)
    return {
        "way": settings.finetune_method,
        "is_chosen": chosen.finetune and chosen.finetune_method == settings.finetune_method,
        "distils": settings.distill_weight > 0,
        "trained": cost.trained_parameters,
        "share": cost.trained_parameters / cost.parameters,
        "memory": cost.memory_bytes,
        "length": length,
        "steps": None if length == UNKNOWN else cost.steps,
        "tokens": None if length == UNKNOWN else cost.tokens,
        "seconds": measured.of_training(cost.steps, settings.finetune_eval_steps) if is_timed else None,
    }


def _repair(plan: PruningPlan, settings: Settings, measured: Measured | None) -> dict:
    tokens = settings.reconstruct_tokens
    memory = repair_bytes(plan.shape, computing_bytes(settings.dtype))
    is_timed = measured is not None and measured.is_of_repair(settings)
    known = {"length": EXACT, "seconds": measured.of_repair} if is_timed else {"length": AT_MOST, "seconds": None}
    row = {"way": REPAIR, "is_chosen": settings.reconstruct, "distils": False, "trained": 0, "share": 0.0}
    return row | {"memory": memory, "steps": 0, "tokens": tokens} | known


def repair_bytes(shape: ModelShape, bytes_per_parameter: int) -> int:
    """Bytes of a repair at its peak: both models, the Gram matrix of the widest layer and what solving makes of it.

    `shape` is that before the cut; the cut model is counted as if it were as large.
    """
    widest = max(max(layer.intermediate_size, layer.num_attention_heads * layer.head_dim) for layer in shape.layers)
    return 2 * weight_bytes(shape, bytes_per_parameter) + _GRAM_MATRICES * widest**2 * _FLOAT32
