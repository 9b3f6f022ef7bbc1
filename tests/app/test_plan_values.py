"""What the Plan page's widgets hold survives the way into a link or into settings and back."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.planning.planner import protection_from_settings
from pruning.settings import PLAN_SETTINGS, SETTINGS, Settings, resolve
from ui.plan.values import (
    AUTO,
    HIGHEST_RATIO,
    LARGEST_WEIGHT,
    LOWEST_RATIO,
    MULTIPLES,
    SPLITS,
    default_values,
    from_link,
    layers_key,
    mlp_layers_key,
    settings_of,
    to_link,
    values_of,
)

NUM_LAYERS = 32


def ranges(num_layers: int):
    ends = st.integers(0, num_layers - 1)
    return st.tuples(ends, ends).map(sorted).map(tuple)


def numbers(lowest: float, highest: float):
    return st.floats(lowest, highest, allow_nan=False) | st.integers(round(100 * lowest), round(100 * highest)).map(
        lambda hundredths: hundredths / 100
    )


def values_for(num_layers: int, texts=st.text(max_size=12)):
    """Everything that the widgets can hold for a model of this depth."""
    return st.fixed_dictionaries(
        {
            "strategy": st.sampled_from(("global", "layer", "uniform")),
            "ratio": numbers(LOWEST_RATIO, HIGHEST_RATIO),
            "basis": st.sampled_from(SETTINGS["ratio_basis"].choices),
            "match": st.booleans(),
            "freeze": st.integers(0, 50),
            layers_key(num_layers): ranges(num_layers),
            mlp_layers_key(num_layers): ranges(num_layers),
            "apart": st.booleans(),
            "protect": texts,
            "split": st.sampled_from((AUTO, *SPLITS)),
            "shares": st.sampled_from(SPLITS),
            "layer_rates": st.sampled_from(SETTINGS["pruning_strategy"].choices),
            "weight": numbers(0, LARGEST_WEIGHT),
            "bounds": st.tuples(numbers(0, 1), numbers(0, 1)).map(sorted).map(tuple),
            "floor_kv": st.integers(1, 8),
            "floor_mlp": st.integers(1, 14336),
            "multiple": st.sampled_from(MULTIPLES),
            "empty": st.booleans(),
            "keep": texts,
            "cut": texts,
        }
    )


@given(st.integers(1, 80).flatmap(lambda depth: st.tuples(st.just(depth), values_for(depth))))
def test_a_link_says_all_that_the_widgets_hold(drawn):
    num_layers, values = drawn
    defaults = default_values(num_layers)
    assert set(values) == set(defaults)
    link = to_link(values, defaults)
    assert all(isinstance(text, str) for text in link.values())
    assert defaults | from_link(link, defaults) == values


def test_defaults_need_no_words():
    assert to_link(default_values(NUM_LAYERS), default_values(NUM_LAYERS)) == {}


@example(default_values(NUM_LAYERS) | {"layers32": (0, 0)}, "0-2,30")
@given(values_for(NUM_LAYERS, st.just("")), st.sampled_from(("", "17", "0-2,30", "none")))
def test_saved_settings_open_as_the_same_plan(values, protect):
    """values -> settings -> values -> settings: the second settings ask for the same plan as the first."""
    values = values | {"protect": protect, "keep": "3a1", "cut": "5m20-29"}
    try:
        first = settings_of(values, NUM_LAYERS)
    except PruningError:
        return  # the page says why; nothing was saved
    again = settings_of(values_of(first, NUM_LAYERS), NUM_LAYERS)
    free = {"block_attention_layer_start", "block_attention_layer_end", "block_mlp_layer_start", "block_mlp_layer_end"}
    compared = {"strategy", *PLAN_SETTINGS} - free - {"protected_layers", "freeze_top_n_layers"}
    if values["strategy"] == "global":  # what only layer-wise rates know is kept, too
        compared |= {"layer_min_pruning_rate"}
    assert again.of(compared) == first.of(compared)
    assert protection_of(again) == protection_of(first)


def protection_of(settings: Settings):
    """Which blocks may be cut, as lists, or the fault that is said of it."""
    try:
        shape = type("Deep", (), {"num_layers": NUM_LAYERS})
        return protection_from_settings(shape, replace(settings, freeze_top_n_layers=0)).cuttable(NUM_LAYERS).tolist()
    except PruningError as error:
        return error.code


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *[("ratio", text) for text in ("abc", "", "7", "-1", "nan", "inf", "0", "1")],
        *[("layers32", text) for text in ("3", "5-99", "29-3", "a-b", "-1-4", "3-", "3-4-5")],
        ("mlp_layers32", "0-32"),
        ("strategy", "magic"),
        ("basis", "prunable"),
        ("layer_rates", "steep"),
        *[("split", text) for text in ("2-8", "0:0", "3:8", "")],
        ("shares", "auto"),
        *[("bounds", text) for text in ("0.5-0.15", "0.1", "0.1-1.1", "0.1-nan")],
        *[("weight", text) for text in ("-1", "6", "heavy")],
        *[("freeze", text) for text in ("-1", "1.5", "many")],
        *[("floor_kv", text) for text in ("0", "-3", "x")],
        *[("multiple", text) for text in ("3", "64.0")],
        *[("match", text) for text in ("yes", "2")],
    ],
)
def test_a_link_value_that_is_none_is_left_at_its_default(key, text):
    defaults = default_values(NUM_LAYERS)
    assert (defaults | from_link({key: text, "experiment": "first"}, defaults))[key] == defaults[key]


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"protected_layers": "none"}, {"layers32": (0, 31), "protect": ""}),
        ({"layer_start": 4, "layer_end": 20}, {"layers32": (4, 19), "mlp_layers32": (4, 19), "apart": False}),
        ({"block_mlp_layer_start": 10}, {"layers32": (3, 29), "mlp_layers32": (10, 29), "apart": True}),
        ({"pruning_ratio": 0.004}, {"ratio": LOWEST_RATIO}),
        ({"importance_weight": 8.0}, {"weight": LARGEST_WEIGHT}),
        ({"mlp_multiple": 3}, {"multiple": 1}),
        ({"pruning_distribution": "1:1"}, {"split": AUTO, "shares": "2:8"}),
        ({"protected_layers": "99"}, {"layers32": (3, 29), "protect": "99"}),
    ],
)
def test_settings_of_the_command_line_find_their_widgets(settings, shown):
    values = values_of(resolve(settings), NUM_LAYERS)
    assert {key: values[key] for key in shown} == shown
