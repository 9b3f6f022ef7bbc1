"""Numbers in words: bytes, and what agrees with a count. Durations: analysis/test_duration.py."""

import pytest

from analysis.commands.perplexity import basis_sentence
from pruning.errors import PruningError
from pruning.planning.matrices import Check
from pruning.words import FORMATTER, counted, readable_size


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


def test_a_counted_noun_agrees():
    assert [counted(count, "layer") for count in (0, 1, 2, 1000)] == ["0 layers", "1 layer", "2 layers", "1,000 layers"]
    assert [counted(count, "matrix", "matrices") for count in (1, 2)] == ["1 matrix", "2 matrices"]
    basis = {"seq_len": 2, "windows": 1, "predicted_tokens": 1, "corpus_sha256": "0" * 64}
    assert basis_sentence(basis) == "seq 2, 1 window, 1 predicted token, text 000000000000"


@pytest.mark.parametrize(("count", "words"), [(1, "layer goes"), (1.0, "layer goes"), ("1", "layer goes"), (0, "layers go")])
def test_a_sentence_chooses_by_the_count(count, words):
    assert FORMATTER.format("{count:layer goes|layers go}", count=count) == words


def test_errors_and_checks_agree_with_their_counts():
    unknown = {"name": "`cut_groups`", "layer": 3, "kind": "attention"}
    assert "layer 3 has 1 group of kind" in str(PruningError("group_unknown", count=1, **unknown))
    assert "layer 3 has 8 groups of kind" in str(PruningError("group_unknown", count=8, **unknown))
    check = {"key": "check.whole", "passed": False, "values": {"layers": 1}}
    assert Check(**check, layers=(3,)).sentence().endswith("kept every size (1 layer); at fault: layer 3")
    assert Check(**check, layers=(3, 4)).sentence().endswith("at fault: layers 3, 4")
