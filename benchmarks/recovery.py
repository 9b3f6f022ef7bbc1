"""Peak memory of closed-form repair beyond the two models, beside the bound that its method gives; and its time.

    bound = the larger of: one Gram matrix, its solution and the weights at work | one Gram matrix and one batch's activations

A random model of two layers, half of whose columns go, on the CPU. Runs in a process of its own, which gives freed memory
back at once; what a first, short repair sets up once is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HIDDEN, WINDOW, BATCH = 256, 64, 8
_LAYERS, _HEADS = 2, 8
_FLOAT32 = 4
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Repair:
    """One repair: its calibration tokens, the inputs of down_proj, bytes beyond the models, seconds."""

    tokens: int
    inputs: int
    peak_bytes: int
    seconds: float

    @property
    def bound_bytes(self) -> int:
        gram = _FLOAT32 * self.inputs**2
        # Half of the columns stay: a quarter of the Gram matrix, and the factor of it; the weights and their change.
        solving = gram * 3 // 2 + 4 * _FLOAT32 * HIDDEN * self.inputs
        collecting = gram + _FLOAT32 * BATCH * WINDOW * (6 * self.inputs + 8 * HIDDEN)
        return max(solving, collecting)  # however many tokens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=_numbers, default=[2048, 8192, 65536], help="default 2048,8192,65536")
    parser.add_argument("--inputs", type=_numbers, default=[2048, 4096], help="MLP widths, default 2048,4096")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Prints a row for each width and number of tokens."""
    if args.here:
        print(json.dumps([vars(_measured(tokens, inputs)) for inputs in args.inputs for tokens in args.tokens]))
        return
    print(f"{'inputs':>8s}{'tokens':>9s}{'peak MiB':>10s}{'bound MiB':>11s}{'seconds':>9s}")
    for inputs in args.inputs:
        for repair in measured(args.tokens, [inputs]):
            peak, bound = repair.peak_bytes / 2**20, repair.bound_bytes / 2**20
            print(f"{repair.inputs:8d}{repair.tokens:9d}{peak:10.1f}{bound:11.1f}{repair.seconds:9.1f}")


def measured(tokens: list[int], inputs: list[int]) -> list[Repair]:
    """Repairs in a fresh process, one for each number of tokens at each width."""
    command = [sys.executable, "-m", "benchmarks", "recovery", "--here", "--inputs", ",".join(map(str, inputs))]
    command += ["--tokens", ",".join(map(str, tokens))]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=os.environ | _ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return [Repair(**entry) for entry in json.loads(done.stdout)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _measured(tokens: int, inputs: int) -> Repair:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pruning.model.repair import repair
    from pruning.model.surgery import cut
    from pruning.planning.plan import PruningPlan
    from pruning.planning.shape import ModelShape

    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": inputs, "num_hidden_layers": _LAYERS, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=_HEADS, num_key_value_heads=_HEADS)).eval()
    plan = PruningPlan.keep_all(ModelShape.from_config(model.config.to_dict()))
    plan.kept[::2] = False
    windows = torch.randint(64, (tokens // WINDOW, WINDOW))
    repair(model, cut(model, plan), plan, windows[:BATCH], BATCH)  # what is loaded and set up once
    pruned = cut(model, plan)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = _memory("VmRSS"), time.perf_counter()
    repair(model, pruned, plan, windows, BATCH)
    return Repair(tokens, inputs, _memory("VmHWM") - before, time.perf_counter() - started)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
