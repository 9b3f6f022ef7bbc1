"""One thread per test process and no network: set before torch and transformers are imported."""

import os

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def pytest_configure(config):
    import torch

    torch.set_num_threads(1)
