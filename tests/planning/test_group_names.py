"""Groups by name: what a person types is what is meant, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.planning.groups import GroupIndex, name_groups, parse_groups
from tests.planning.examples import shapes, small_shape

GROUPS = GroupIndex(small_shape())  # 4 layers: positions 0-1 attention, 2-7 MLP of layer 0; 8-9, 10-15 of layer 1; ...


@given(shape=shapes(), chosen=st.sets(st.integers(0, 119)))
def test_names_are_read_back(shape, chosen):
    groups = GroupIndex(shape)
    positions = sorted(p for p in chosen if p < groups.size)
    assert parse_groups(name_groups(np.array(positions), groups), groups).tolist() == positions


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("", []),
        ("0a0", [0]),
        ("0a1,0m0", [1, 2]),
        ("1m2-4", [12, 13, 14]),
        (" 1 M 2 - 4 , 1A0 ", [8, 12, 13, 14]),
        ("1m2,1m2-3,1m2", [12, 13]),
        ("3m5,0a0,", [0, 31]),
        ("2a1-1", [17]),
    ],
)
def test_what_names_mean(text, positions):
    assert parse_groups(text, GROUPS).tolist() == positions


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        ([], ""),
        ([9, 8], "1a0-1"),
        ([1, 2], "0a1,0m0"),  # neighbours in two blocks are no range
        ([7, 8], "0m5,1a0"),
        ([2, 3, 4, 6], "0m0-2,0m4"),
    ],
)
def test_names_are_the_shortest(positions, text):
    assert name_groups(np.array(positions), GROUPS) == text


@pytest.mark.parametrize("text", ["3", "a1", "3b1", "3a", "3a1-", "3a2-1", "3a1;4a1", "-1a0", "3a1.5", "3a1 4a1", "0x3a1"])
def test_what_is_no_name_is_shown(text):
    with pytest.raises(PruningError) as caught:
        parse_groups(text, GROUPS)
    assert caught.value.code == "group_list" and repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("4a0", "There is no layer 4: this model has the layers 0 to 3."),
        ("3a2", "3a2 names a group that is not there: layer 3 has 2 groups of kind attention, from 0."),
        ("3m0-6", "3m0-6 names a group that is not there: layer 3 has 6 groups of kind mlp, from 0."),
    ],
)
def test_groups_the_model_does_not_have_are_named(text, sentence):
    with pytest.raises(PruningError) as caught:
        parse_groups(text, GROUPS)
    assert str(caught.value) == sentence
