"""One thread per test process and no network: set before torch and transformers are imported."""

import os
import tempfile

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# Code of model folders is cached by its hash; two test processes writing one cache get in each other's way.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="hf-modules-")


def pytest_configure(config):
    import torch

    torch.set_num_threads(1)
