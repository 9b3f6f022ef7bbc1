"""One measurement in a process of its own: memory allocator, waiting threads and peak memory belong to a process.

run_alone(Case(...), environment)  ->  python -m benchmarks._case '{...}'  ->  one line of JSON  ->  Measured

Work is either a bare pass (`BARE`, `FORWARD`: what any user of the model would write) or a method of importance by its name.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from pruning.methods import IMPORTANCE_METHODS

BARE, FORWARD = "bare forward + backward", "bare forward"
LAYER_METHOD = "activation"
DEMO = "demo"
_OF_THE_PROCESS = ("MALLOC_", "OMP_", "GOMP_")
_RESET_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True)
class Case:
    """`work` names what goes over all samples, in turn, `runs` times; random token ids, float32."""

    work: tuple[str, ...]
    model: str = DEMO  # or the head dim of a random model
    attention: str = "auto"
    samples: int = 128
    seq_len: int = 128
    batch_size: int = 8
    runs: int = 1


@dataclass(frozen=True)
class Measured:
    """Per kind of work one figure for each run over all samples; of the process its memory."""

    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]
    page_faults: dict[str, list[int]]
    peak_bytes: int  # beyond what the process held with the model loaded
    gradient_bytes: int  # one gradient for each prunable parameter
    description: str


def run_alone(case: Case, environment: dict[str, str]) -> Measured:
    """Measures in a fresh process with these variables set and no others of their kind."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_PROCESS)}
    command = [sys.executable, "-m", "benchmarks._case", json.dumps(asdict(case))]
    root = Path(__file__).parents[1]
    output = subprocess.run(command, cwd=root, env=inherited | environment, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(output.stdout.splitlines()[-1]))


def measure(case: Case) -> Measured:
    """Measures in this process, which has done nothing else before."""
    import torch

    from pruning.model.grouped_parameters import grouped_parameters
    from pruning.planning.shape import ModelShape

    model = _demo_model(case.attention) if case.model == DEMO else _random_model(int(case.model), case.attention)
    shape = ModelShape.from_config(model.config.to_dict())
    work = _work(model, shape, case.batch_size)
    samples = torch.randint(4096, (case.samples, case.seq_len), generator=torch.Generator().manual_seed(0))
    held_before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    for name in case.work:
        work[name](samples[: case.batch_size])  # warm-up
    rows = {name: [] for name in case.work}
    for index in range(case.runs):
        for name in case.work if index % 2 == 0 else case.work[::-1]:  # neither always follows the other
            rows[name].append(_timed(work[name], samples))
    seconds, cpu_seconds, page_faults = ({name: [row[i] for row in rows[name]] for name in rows} for i in range(3))
    gradient_bytes = sum(g.parameter.nbytes for g in grouped_parameters(model, shape))
    return Measured(seconds, cpu_seconds, page_faults, _memory("VmHWM") - held_before, gradient_bytes, _describe(model, shape))


def _work(model, shape, batch_size: int) -> dict[str, Callable]:
    import torch

    from pruning.model.grouped_parameters import grouped_parameters
    from pruning.model.importance import function_of
    from pruning.model.layer_importance import measure_layers
    from pruning.model.loss import Calibration, gradients_for

    def bare(samples: torch.Tensor) -> None:
        with gradients_for(model, [g.parameter for g in grouped_parameters(model, shape)]):
            for batch in samples.split(batch_size):
                model(input_ids=batch, labels=batch, use_cache=False).loss.backward()

    @torch.inference_mode()
    def forward(samples: torch.Tensor) -> None:
        for batch in samples.split(batch_size):
            model(input_ids=batch, use_cache=False)

    def groups(method: str, samples: torch.Tensor) -> None:
        function_of(method)(model, shape, Calibration(samples, batch_size))

    def layers(samples: torch.Tensor) -> None:
        measure_layers(LAYER_METHOD, model, samples, batch_size)

    return {BARE: bare, FORWARD: forward, LAYER_METHOD: layers} | {name: partial(groups, name) for name in IMPORTANCE_METHODS}


def _demo_model(attention: str):
    from pruning.model.checkpoint import load, open_checkpoint
    from pruning.settings import resolve

    settings = resolve({"base_model": DEMO, "attn_implementation": attention, "device": "cpu"})
    return load(open_checkpoint(DEMO), settings).model


def _random_model(head_dim: int, attention: str):
    """Four layers, hidden size 1024, four query heads per KV head."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from pruning.model.runtime import resolve_attention

    heads = 1024 // head_dim
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        head_dim=head_dim,
    )
    torch.manual_seed(0)
    implementation = resolve_attention(attention, torch.device("cpu"), head_dim, torch.float32)
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


def _timed(work: Callable, samples) -> tuple[float, float, int]:
    """Seconds, seconds on all cores together, page faults."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work(samples)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu_seconds, after.ru_minflt - before.ru_minflt


def _memory(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def _describe(model, shape) -> str:
    import torch
    import transformers

    sizes = f"{shape.parameters:,} parameters, {shape.num_layers} layers, head dim {shape.layers[0].head_dim}"
    return (
        f"{sizes}, float32, {model.config._attn_implementation} attention; "
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
