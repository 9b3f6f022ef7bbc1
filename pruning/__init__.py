"""Prune Llama-family models: whole attention groups and MLP channels.

import pruning
model = pruning.load_bin("pytorch_model.bin")      # a model that this project exported
"""


def load_bin(path):
    """The model that a pytorch_model.bin of this project holds, with its layers at their own sizes, in eval mode.

    Raises PruningError for a file that cannot be read, holds pickled objects, or does not say what model it is.
    """
    from .export.bin_file import load_bin  # torch loads only for those who ask

    return load_bin(path)
