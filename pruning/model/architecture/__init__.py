"""The code that travels in the folder of a model whose layers differ in size, and the classes it defines.

`configuration_pruned.py` and `modeling_pruned.py` are copied into the folder as they are, so they import nothing of this
project.
"""

from pathlib import Path

from transformers import PreTrainedModel

from ...planning.families import FAMILIES
from . import configuration_pruned, modeling_pruned

CODE_FILES = (Path(configuration_pruned.__file__), Path(modeling_pruned.__file__))

PRUNED_MODELS: dict[str, type[PreTrainedModel]] = {
    name: getattr(modeling_pruned, family.own) for name, family in FAMILIES.items()
}


def auto_map(family: str) -> dict[str, str]:
    """The entry of config.json that leads AutoConfig, AutoModel and AutoModelForCausalLM to the two files."""
    causal_lm = PRUNED_MODELS[family]
    model = causal_lm.__name__.removesuffix("ForCausalLM") + "Model"
    return {
        "AutoConfig": f"{CODE_FILES[0].stem}.{causal_lm.config_class.__name__}",
        "AutoModel": f"{CODE_FILES[1].stem}.{model}",
        "AutoModelForCausalLM": f"{CODE_FILES[1].stem}.{causal_lm.__name__}",
    }
