"""What a plan or a ratio would do to a model, from its config alone: per layer, in total, and in memory. No model is loaded."""

import argparse

import pandas as pd

from pruning.errors import PruningError
from pruning.planning.checkpoint_header import BYTES_PER_PARAMETER
from pruning.planning.matrices import layer_table
from pruning.planning.memory import measuring_bytes
from pruning.planning.plan import TARGET_BASES, PruningPlan, plan_totals
from pruning.planning.shape import ModelShape
from pruning.words import counted, readable_size

from ..model_files import ModelFiles, experiment_named, from_config, open_files, source_of
from ..size import component_table
from .arguments import MODEL, add_json, add_output_root, add_plan_flags, has_plan, plan_of
from .output import as_json, count, percent, text_table

_CACHE_TOKENS = 1024
_TOKENS = 1024  # in a batch: 8 windows of 128, the defaults of measuring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = f"{MODEL[0].upper()}{MODEL[1:]}; of an experiment, the model before its cut, and its plan unless another is given."
    parser.add_argument("model", nargs="?", metavar="MODEL", help=what)
    parser.add_argument("--config", metavar="FILE", help="A config.json instead of MODEL.")
    add_output_root(parser)
    add_json(parser)
    add_plan_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what would happen; returns the exit code."""
    model, plan = _model_and_plan(args)
    layers = layer_table(plan)
    content = {"model": model.name, "target": _target(plan), "actual_ratio": plan.actual_ratio} | _sizes(model, plan)
    if args.json:
        print(as_json(content | {"layers": layers, "components": component_table(model.shape)}))
        return 0
    print(f"{model.name}: {model.shape.parameters:,} parameters, {counted(model.shape.num_layers, 'layer')}\n")
    print(text_table(component_table(model.shape), {"parameters": count, "share": percent}) + "\n")
    print(text_table(_shown(layers), {"sparsity": percent, "before": count, "after": count}))
    print(f"\ntarget      {content['target'] or 'none: the plan stands for itself'}")
    print(f"actual      {plan.actual_ratio:.2%} of all parameters")
    for name, (before, after) in content["totals"].items():
        print(f"{name:<12}{before:,} -> {after:,}" + (f"  (-{before - after:,})" if before > after else ""))
    print(f"\nmemory, {model.header.dtype}, from sizes alone:")
    for name, (before, after) in content["memory_bytes"].items():
        print(f"  {name:<38}{readable_size(before)} -> {readable_size(after)}")
    print(f"  {f'measuring with taylor, {_TOKENS} tokens':<38}{readable_size(content['measuring_bytes'])}")
    return 0


def _model_and_plan(args: argparse.Namespace) -> tuple[ModelFiles, PruningPlan]:
    if bool(args.model) == bool(args.config):
        raise PruningError("analysis_arguments", message="Give one of MODEL and --config")
    if args.config:
        model, plan = from_config(args.config), None
    else:
        model, plan = _named(args.model, args.output_root)
    if model.shape is None:
        raise PruningError("no_config", folder=model.header.folder)
    if has_plan(args):
        return model, plan_of(args, model)
    if plan is None:
        raise PruningError("analysis_arguments", message="Give --plan, or settings such as --pruning_ratio 0.25")
    return model, plan


def _named(name: str, output_root: str) -> tuple[ModelFiles, PruningPlan | None]:
    experiment = experiment_named(name, output_root)
    if experiment is None:
        return open_files(name, output_root), None
    return source_of(experiment), experiment.read_plan() if experiment.is_planned else None


def _sizes(model: ModelFiles, plan: PruningPlan) -> dict:
    """Pairs before / after: parameters, groups, layers; bytes of weights and of the cache of keys and values."""
    width = model.bytes_per_parameter
    totals = plan_totals(plan, width)
    before, after = plan.shape, plan.shape_after
    groups = plan.groups.block_sizes.reshape(-1, 2).sum(axis=0)
    removed = (totals.attention_groups_removed, totals.mlp_channels_removed)
    kept = [(int(n), int(n) - gone) for n, gone in zip(groups, removed, strict=True)]
    return {
        "totals": {
            "parameters": (before.parameters, after.parameters),
            "KV heads": kept[0],
            "MLP width": kept[1],
            "layers": (before.num_layers, after.num_layers),
        },
        "memory_bytes": {
            "weights": (before.parameters * width, totals.bytes_after),
            f"keys and values, {_CACHE_TOKENS:,} tokens": (_cache_bytes(before, width), _cache_bytes(after, width)),
        },
        "measuring_bytes": measuring_bytes(before, "taylor", BYTES_PER_PARAMETER.get(model.header.dtype, 2), _TOKENS),
    }


def _cache_bytes(shape: ModelShape, width: int) -> int:
    return _CACHE_TOKENS * width * sum(2 * layer.num_key_value_heads * layer.head_dim for layer in shape.layers)


def _target(plan: PruningPlan) -> str | None:
    ratio = plan.settings.get("pruning_ratio")
    return None if ratio is None else f"{ratio:.2%} of {TARGET_BASES[plan.target_basis]}"


def _shown(layers: pd.DataFrame) -> pd.DataFrame:
    def pair(before: str, after: str) -> list[str]:
        return [f"{a} -> {b}" if a != b else str(a) for a, b in zip(layers[before], layers[after], strict=True)]

    return pd.DataFrame(
        {
            "layer": layers["layer_idx"],
            "query heads": pair("query_heads_before", "query_heads_after"),
            "KV heads": pair("attention_groups_before", "attention_groups_kept"),
            "MLP width": pair("mlp_channels_before", "mlp_channels_kept"),
            "before": layers["params_before"],
            "after": layers["params_after"],
            "sparsity": layers["sparsity"],
        }
    )
