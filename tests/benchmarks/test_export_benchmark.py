"""The benchmark of streamed cutting measures the real command, and a skipped run is no pass."""

import re
from types import SimpleNamespace

from benchmarks import export
from benchmarks.__main__ import main

TINY = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096}


def test_it_holds_time_and_memory_against_a_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "LLAMA_3_8B", export.LLAMA_3_8B | TINY)
    main(["export", "--layers", "3", "--force", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert re.search(r"checkpoint: [\d,]+ bytes in 1 files, 3 layers", printed)
    assert re.search(r"plain copy: .* s before, .* s after", printed)
    assert re.search(r"streamed cut: .* bound of .* s", printed)
    assert "within the bound of 501 MB" in printed or re.search(r"memory: RssAnon \d+ MB.*within", printed)
    assert not list(tmp_path.iterdir())


def test_too_little_disk_skips_it_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.shutil, "disk_usage", lambda folder: SimpleNamespace(free=44e9))
    main(["export", "--folder", str(tmp_path)])
    assert "skipped: 44 GB are free" in capsys.readouterr().out and not list(tmp_path.iterdir())
