"""Cuts a model for real: removed heads and channels leave the weight matrices, emptied layers leave the model.

    source weights --tensor_cut--> kept rows / columns --assign--> cut model, built without memory of its own
    one size for all layers: the stock class of the family        sizes differ: the classes of `architecture`

Which rows and columns stay is the rule of planning/kept_indices.py. Knows nothing about why, or about files.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
)

from ..planning.families import FAMILIES
from ..planning.kept_indices import tensor_cut
from ..planning.plan import PruningPlan
from ..planning.shape import LayerShape, ModelShape
from .architecture import PRUNED_MODELS
from .architecture.classes import model_class, stock_model

# Values that say what the source was, not what the cut model is; `layer_types` is set again below.
_OF_THE_SOURCE = ("model_type", "architectures", "auto_map", "per_layer_config", "transformers_version", "_name_or_path")


def cut(model: PreTrainedModel, plan: PruningPlan, release_source: bool = False) -> PreTrainedModel:
    """The model that `plan` describes, same dtype, device, attention implementation, generation settings and mode.

    Weights of which all stays share their memory with `model`. `release_source` empties `model`: each of its weights is
    freed as soon as it is cut, so that at most one matrix is held twice.
    """
    config = cut_config(model.config, plan)
    with torch.device("meta"):
        pruned = model_class(config)(config)
    pruned.load_state_dict(dict(_cut_weights(model, plan, release_source)), strict=False, assign=True)
    pruned.tie_weights()
    _copy_buffers(model, pruned)
    pruned.generation_config = copy.deepcopy(model.generation_config)
    return pruned.train(model.training)


def cut_config(config: PreTrainedConfig, plan: PruningPlan) -> PreTrainedConfig:
    """The config of the cut model: of the family's stock class if its layers can be of one size, else of our own."""
    values = config.to_dict()
    for name in _OF_THE_SOURCE:
        values.pop(name, None)
    shape = plan.shape_after
    values |= {
        "num_hidden_layers": shape.num_layers,
        "head_dim": shape.layers[0].head_dim,  # always explicit: hidden_size / heads no longer gives it
        "name_or_path": config.name_or_path,
        "attn_implementation": config._attn_implementation,
    }
    if values.get("layer_types"):
        # Masks ask the first layer of each kind how long its cache is, so that must be one with attention, as layer 0 is: a
        # layer without attention takes the kind of layer 0.
        kept = zip(plan.kept_layers, shape.layers, strict=True)
        values["layer_types"] = [values["layer_types"][i if layer.num_key_value_heads else 0] for i, layer in kept]
    family = _stock_family(shape)
    if family is None:
        overrides = {i: _override(layer) for i, layer in enumerate(shape.layers)}
        own: Any = PRUNED_MODELS[shape.family].config_class
        return own(**values, per_layer_config=overrides)
    values |= _sizes(shape.layers[0])
    if family != shape.family:
        values |= {"sliding_window": None}
        for name in ("attention_bias", "mlp_bias", "pretraining_tp"):
            values.pop(name, None)
    return stock_model(family).config_class(**values)


def _stock_family(shape: ModelShape) -> str | None:
    """The family whose stock class holds this shape; None when there is none."""
    if not shape.is_uniform:
        return None
    layer, family = shape.layers[0], FAMILIES[shape.family]
    if not family.heads_divide_hidden or shape.hidden_size % layer.num_attention_heads == 0:
        return shape.family
    return None if layer.o_bias or layer.mlp_bias else family.twin


def _override(layer: LayerShape) -> dict:
    """The entry of one layer in `per_layer_config`."""
    skip = [name for name, size in (("self_attn", layer.num_key_value_heads), ("mlp", layer.intermediate_size)) if not size]
    return {name: size for name, size in _sizes(layer).items() if size} | ({"skip": skip} if skip else {})


def _sizes(layer: LayerShape) -> dict[str, int]:
    return {
        "num_attention_heads": layer.num_attention_heads,
        "num_key_value_heads": layer.num_key_value_heads,
        "intermediate_size": layer.intermediate_size,
    }


def _cut_weights(model: PreTrainedModel, plan: PruningPlan, release_source: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Name in the cut model and what stays, for each parameter; tied ones come once."""
    for name, parameter in list(model.named_parameters()):
        rule = tensor_cut(name, plan)
        if rule is not None:
            kept = parameter.detach()
            if rule.kept is not None:
                kept = kept.index_select(rule.dim, torch.from_numpy(rule.kept).to(kept.device))
            yield rule.name, kept
        if release_source:
            parameter.data = parameter.new_empty(0)


def _copy_buffers(model: PreTrainedModel, pruned: PreTrainedModel) -> None:
    """Gives `pruned` the source's rotary frequencies: they are in no state dict, and head_dim is unchanged."""
    buffers = dict(model.named_buffers())
    for name, _ in list(pruned.named_buffers()):
        module_name, _, buffer_name = name.rpartition(".")
        # A long text may have changed `inv_freq` (dynamic, longrope); a new model starts with the original.
        source = f"{module_name}.original_inv_freq" if buffer_name == "inv_freq" else name
        setattr(pruned.get_submodule(module_name), buffer_name, buffers[source].clone())
