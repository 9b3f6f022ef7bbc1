"""Which classes of transformers a config stands for: stock ones of a family, our own for layers of differing sizes.

Loading runs no code of the model unless it is trusted, and refuses weights that do not fit the class."""

from pathlib import Path

import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ...errors import PruningError
from ...planning.checkpoint_header import read_config
from ...planning.families import FAMILIES, PRUNED_PREFIX
from . import PRUNED_MODELS


def config_from(values: dict) -> PreTrainedConfig:
    """The config that a config.json of this project describes; raises PruningError for another architecture."""
    model_type = str(values.get("model_type"))
    family = model_type.removeprefix(PRUNED_PREFIX)
    if family not in FAMILIES:
        raise PruningError("architecture", found=model_type, supported=", ".join(FAMILIES))
    found = stock_model(family) if family == model_type else PRUNED_MODELS[family]
    return found.config_class.from_dict(values)


def stock_model(family: str) -> type[PreTrainedModel]:
    """The class of transformers for this family."""
    return getattr(transformers, FAMILIES[family].stock)


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that holds models of this config."""
    if config.model_type.startswith(PRUNED_PREFIX):
        return PRUNED_MODELS[config.model_type.removeprefix(PRUNED_PREFIX)]
    return stock_model(config.model_type)


def load_trusted(folder: Path, **options):
    """The model of a folder that this project wrote, `options` as for `from_pretrained`; runs no code of the folder.

    Layers of different sizes are built by the classes of this program. Raises PruningError for another architecture.
    """
    model_type = read_config(Path(folder)).get("model_type")
    family = str(model_type).removeprefix(PRUNED_PREFIX)
    if family not in FAMILIES:
        raise PruningError("architecture", found=model_type, supported=", ".join(FAMILIES))
    if family == model_type:
        return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
    return PRUNED_MODELS[family].from_pretrained(folder, **options)


def refuse_unless_all_fitted(info: dict) -> None:
    """Raises PruningError for the first weight that `from_pretrained` missed, had no place for, or found of another shape.

    `info` is what it gives with `output_loading_info`.
    """
    for code, names in (("weights_missing", info["missing_keys"]), ("weights_unexpected", info["unexpected_keys"])):
        if names:
            raise PruningError(code, name=min(names), more="")
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise PruningError("weights_mismatch", name=name, found=list(found), expected=list(expected))
