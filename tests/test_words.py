"""Bytes in words. Durations: analysis/test_duration.py."""

import pytest

from pruning.words import readable_size


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 Bytes"),
        (1, "1 Byte"),
        (1023, "1023 Bytes"),
        (20_582, "20.1 KiB"),
        (2**20 - 1, "1.0 MiB"),  # not 1024.0 KiB
        (13_123_840, "12.5 MiB"),
        (-2_543_616, "-2.4 MiB"),
        (2**30, "1.00 GiB"),
        (16_060_522_496, "14.96 GiB"),
        (3 * 2**40, "3.00 TiB"),
    ],
)
def test_bytes_are_in_powers_of_1024(count, words):
    assert readable_size(count) == words
