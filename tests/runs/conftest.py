"""A tiny model folder and a text, made once for each test file."""

from pathlib import Path

import pytest

from tests.runs.quick_runs import save_tiny_model, write_text


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "values.txt")
