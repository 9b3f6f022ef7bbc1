"""The benchmark of `size` and `diff` measures each command, on files that announce 16 GB and take no room."""

import re

from benchmarks.__main__ import main


def test_every_command_is_measured_within_its_memory(capsys):
    main(["analysis", "--runs", "1"])
    printed = capsys.readouterr().out
    announced, held = (
        int(n.replace(",", "")) for n in re.search(r"([\d,]+) bytes announced .* ([\d,]+) on the", printed).groups()
    )
    assert announced > 16e9 and held < 1e6
    peaks = {
        name.strip(): int(peak) for name, peak in re.findall(r"^  (.+?) +median .* peak +(\d+) MB$", printed, re.MULTILINE)
    }
    assert peaks.keys() >= {"size", "diff, two folders", "diff, config alone", "details"}
    assert max(peaks.values()) < 300
