import pytest

from pruning.words import readable_duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (0.96, "1.0 s"), (44.6, "45 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_the_two_largest_units(seconds, words):
    assert readable_duration(seconds) == words
