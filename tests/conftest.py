"""One thread per test process and no network: set before torch and transformers are imported."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# Code of model folders is cached by its hash; two test processes writing one cache get in each other's way.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="hf-modules-")


def pytest_configure(config):
    import hypothesis
    import torch

    # How long an example takes says more of what else runs than of the code.
    hypothesis.settings.register_profile("steady", parent=hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("steady")

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model folder and a text."""
    from tests.runs.quick_runs import save_tiny_model, write_text

    folder = tmp_path_factory.mktemp("source")
    return save_tiny_model(folder / "model"), write_text(folder / "text.txt")
