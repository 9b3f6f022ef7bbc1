"""Shapes and tables that the planning tests share: Llama-3-8B's, small ones, and random ones for hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pruning.planning.families import FAMILIES
from pruning.planning.group_table import GroupTable
from pruning.planning.groups import GroupIndex
from pruning.planning.plan import PruningPlan
from pruning.planning.shape import ModelShape

LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}


def small_config(**values) -> dict:
    """Four layers of 2 KV heads, 4 query heads and 6 MLP channels."""
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
    return {"model_type": "llama"} | sizes | heads | values


def small_shape(**values) -> ModelShape:
    return ModelShape.from_config(small_config(**values))


def random_table(shape: ModelShape, seed: int = 0) -> GroupTable:
    """Lognormal scores."""
    groups = GroupIndex(shape)
    importance = np.random.default_rng(seed).lognormal(0, 1, groups.size) * groups.cost
    return GroupTable(shape, importance, {"fingerprint": "abc", "method": "random"})


@st.composite
def shapes(draw) -> ModelShape:
    """Any family, 1 to 6 layers, with and without biases, tied or not, more often than not with several groups."""
    kv_heads = draw(st.integers(1, 4))
    return ModelShape.from_config(
        {
            "model_type": draw(st.sampled_from(tuple(FAMILIES))),
            "vocab_size": draw(st.integers(1, 40)),
            "hidden_size": draw(st.sampled_from([4, 8, 12])),
            "intermediate_size": draw(st.integers(1, 16)),
            "num_hidden_layers": draw(st.integers(1, 6)),
            "num_attention_heads": kv_heads * draw(st.integers(1, 3)),
            "num_key_value_heads": kv_heads,
            "head_dim": draw(st.sampled_from([2, 4])),
            "attention_bias": draw(st.booleans()),
            "mlp_bias": draw(st.booleans()),
            "tie_word_embeddings": draw(st.booleans()),
        }
    )


@st.composite
def tables(draw) -> GroupTable:
    """A table with ties, zeros and groups that were not measured."""
    shape = draw(shapes())
    values = st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0, 1e-30, 7e5, float("nan")]) | st.floats(0, 1e6)
    importance = draw(st_numpy.arrays(np.float64, GroupIndex(shape).size, elements=values, fill=st.nothing()))
    return GroupTable(shape, importance, {"fingerprint": "abc"})


@st.composite
def plans(draw) -> PruningPlan:
    """Any groups may be gone, whole blocks too, but for one attention group of layer 0."""
    shape = draw(shapes())
    plan = PruningPlan.keep_all(shape)
    kept = np.array(draw(st.lists(st.booleans(), min_size=plan.groups.size, max_size=plan.groups.size)))
    kept[draw(st.integers(0, shape.layers[0].num_key_value_heads - 1))] = True
    return PruningPlan(shape, kept, draw(st.booleans()), "abc", {"pruning_ratio": 0.25})
