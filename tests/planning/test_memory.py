"""Memory estimates: sums of sizes for each method, and near what a measurement really takes."""

import pytest

from benchmarks._case import DEMO, Case, run_alone
from pruning.methods import BACKWARD, BACKWARD_TO_ACTIVATIONS, FORWARD, PASSES, WEIGHTS_ONLY
from pruning.model.model_source import DEMO_FOLDER
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.memory import (
    activation_bytes,
    gradient_bytes,
    measuring_bytes,
    weight_bytes,
)
from pruning.planning.shape import ModelShape
from pruning.runs.environment import WORKER_ENVIRONMENT

LLAMA_3_8B = ModelShape.from_config(
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
)


def test_an_8b_model_needs_what_its_config_says():
    """Weights 8,030,261,248; prunable 32 x (41,943,040 + 176,160,768); docs/methods.md section 1."""
    weights, prunable = 4 * 8_030_261_248, 4 * 32 * 218_103_808
    assert weight_bytes(LLAMA_3_8B, 4) == weights
    assert gradient_bytes(LLAMA_3_8B, BACKWARD, 4) == prunable
    for passes in (BACKWARD_TO_ACTIVATIONS, FORWARD, WEIGHTS_ONLY):
        assert gradient_bytes(LLAMA_3_8B, passes, 4) == 0
    assert measuring_bytes(LLAMA_3_8B, "l1", 4, 1024) - weights == 4 * 4096 * 14336  # abs of the largest matrix


def test_activations_grow_with_tokens_and_with_what_flows_back():
    small, large = ({passes: activation_bytes(LLAMA_3_8B, passes, 2, tokens) for passes in PASSES} for tokens in (1024, 4096))
    assert all(large[passes] == 4 * small[passes] for passes in PASSES)
    assert small[WEIGHTS_ONLY] == 0 < small[FORWARD] < small[BACKWARD_TO_ACTIVATIONS] < small[BACKWARD]
    assert small[BACKWARD] - small[BACKWARD_TO_ACTIVATIONS] == 32 * 2 * 4096 * 1024 * 2


@pytest.mark.parametrize(("method", "seq_len"), [("taylor_2nd", 128), ("taylor", 256)])
def test_the_estimate_is_near_the_measured_peak(method, seq_len):
    """In a process of its own, beyond the loaded weights; float32."""
    shape = ModelShape.from_config(CheckpointHeader.read(DEMO_FOLDER).config)
    case = Case((method,), DEMO, samples=8, seq_len=seq_len)
    found = run_alone(case, WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "2"}).peak_bytes
    estimated = measuring_bytes(shape, method, 4, case.batch_size * seq_len) - weight_bytes(shape, 4)
    assert found / 1.3 < estimated < found * 1.3
