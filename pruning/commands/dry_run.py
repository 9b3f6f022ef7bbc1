"""`--dry_run`: what a plan would give, and the memory and disk it takes. Reads headers only, changes nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from ..experiment import Experiment
from ..model.runtime import resolve_device, resolve_dtype
from ..plan_from_file import layers_from_file, plan_from_file
from ..planning.allocation import ratio_base
from ..planning.checkpoint_header import BYTES_PER_PARAMETER, OWN_HEAD, CheckpointHeader
from ..planning.layer_importance import LayerImportance
from ..planning.memory import measuring_bytes, weight_bytes
from ..planning.plan import TARGET_BASES, PruningPlan, plan_totals, target_basis
from ..planning.planner import needs_layer_importance, plan_from_settings, plan_of_sizes, protection_from_settings
from ..planning.shape import ModelShape
from ..runs.measure import Measurement
from ..runs.status import BASELINE, MEASURE
from ..settings import Settings, plan_settings
from ..strategies import STRATEGIES
from ..words import counted, readable_size

_BYTES_PER_ROW = 75  # of a group table's CSV, measured on the demo model's
_STREAMING_BYTES = 500 * 10**6  # libraries and parts of a tensor, whatever the model


def show(job: str, header: CheckpointHeader, settings: Settings) -> int:
    """Prints the figures, each with its basis; returns the exit code."""
    layers = counted(header.shape.num_layers, "layer")
    rows = [("model", f"{settings.base_model}, {header.shape.parameters:,} parameters, {layers}")]
    rows += [("head", OWN_HEAD)] if header.keeps_head else []
    plan = None
    if job == BASELINE:
        rows.append(("plan", "none: without --pruning_ratio the model as it is is measured, and nothing else"))
    elif job != MEASURE:
        plan, basis = _plan(job, header, settings)
        rows += _of_plan(plan, basis, header, settings) if plan else [("plan", _most_that_can_go(header.shape, settings))]
    rows += [_memory(job, header, settings), *([] if job == BASELINE else [_disk(plan, header, settings)])]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    return 0


def _plan(job: str, header: CheckpointHeader, settings: Settings) -> tuple[PruningPlan | None, str]:
    """The plan and what it rests on: a file, the table that would be measured, or sizes. None where it needs scores."""
    layers = layers_from_file(header, settings)
    if job == "apply":
        return plan_from_file(header.shape, header.fingerprint, settings, layers).plan, "the file"
    experiment = Experiment.at(settings.output_root, settings.experiment_name)
    has_groups, layers = _measured(experiment, header, settings, layers)
    if needs_layer_importance(settings) and layers is None:
        return None, ""
    if has_groups:
        return plan_from_settings(experiment.read_table(), settings, layers).plan, f"the table of {experiment.name}"
    if STRATEGIES[settings.strategy].compares_layers:
        return None, ""
    return plan_of_sizes(header.shape, settings, layers), "sizes alone: which groups go needs scores"


def _measured(
    experiment: Experiment, header: CheckpointHeader, settings: Settings, layers: LayerImportance | None
) -> tuple[bool, LayerImportance | None]:
    """Whether the experiment holds the table that these settings ask for; `layers`, or else what it holds of them."""
    if not experiment.is_measured or experiment.description()["fingerprint"] != header.fingerprint:
        return False, layers
    measurement = Measurement(experiment, settings, header, layers_where_needed=True)
    return measurement.has_groups(), layers or measurement.measured_layers_of(experiment)


def _of_plan(plan: PruningPlan, basis: str, header: CheckpointHeader, settings: Settings) -> list[tuple[str, str]]:
    totals = plan_totals(plan, BYTES_PER_PARAMETER.get(header.dtype, 2))
    target = f"{settings.pruning_ratio:.2%} of {TARGET_BASES[plan.target_basis]}"
    cut = (
        counted(totals.attention_groups_removed, "attention group"),
        counted(totals.mlp_channels_removed, "MLP channel"),
        counted(totals.layers_removed, "layer"),
    )
    asked = f", asked {target}" if "pruning_ratio" in plan.settings else ""
    return [
        ("plan", f"from {basis}"),
        ("ratio", f"{plan.actual_ratio:.2%} of all parameters{asked}"),
        ("parameters", f"{header.shape.parameters:,} -> {totals.parameters_after:,}"),
        ("cut", ", ".join(cut)),
    ]


def _most_that_can_go(shape: ModelShape, settings: Settings) -> str:
    """A bound that holds whatever a measurement will say."""
    protection = protection_from_settings(shape, replace(settings, freeze_top_n_layers=0))
    prunable = np.array([layer.attention_parameters + layer.mlp_parameters for layer in shape.layers])
    basis, ratio = target_basis(plan_settings(settings)), settings.pruning_ratio
    most = ratio * (prunable.sum() if basis == "prunable" else ratio_base(shape, protection, basis))
    asked, told = f"asked {ratio:.2%} of {TARGET_BASES[basis]}", "which groups go needs a measurement"
    if STRATEGIES[settings.strategy].has_layer_rates:
        cuttable = prunable[protection.cuttable(shape.num_layers).any(axis=1)].sum()
        least, largest = (settings.layer_min_pruning_rate, settings.layer_max_pruning_rate)
        most = min(max(most, least * cuttable), largest * cuttable)
        asked, told = f"{asked}, no layer loses more than {largest:.2%}", "the rates of layers need a measurement"
    elif settings.pruning_distribution == "auto":
        told = "which groups go, and how attention and MLP share the cut, needs a measurement"
    return f"at most {most / shape.parameters:.2%} of all parameters, {int(most):,} ({asked}); {told}"


def _memory(job: str, header: CheckpointHeader, settings: Settings) -> tuple[str, str]:
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    present = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if settings.stream:
        fits = _fits(_STREAMING_BYTES, present)
        return (
            "memory",
            f"{readable_size(_STREAMING_BYTES)} for cutting from file to file, {readable_size(present)} free: {fits}",
        )
    if job in ("apply", BASELINE):
        needed, what = weight_bytes(header.shape, dtype.itemsize), "weights"
    else:
        what, tokens = settings.importance_method, settings.gradient_batch_size * settings.seq_len
        needed = measuring_bytes(header.shape, what, dtype.itemsize, tokens)
    basis = f"{what} in {str(dtype).removeprefix('torch.')}"
    return (
        "memory",
        f"{readable_size(needed)} for {basis}, {readable_size(present)} free on {device.type}: {_fits(needed, present)}",
    )


def _disk(plan: PruningPlan | None, header: CheckpointHeader, settings: Settings) -> tuple[str, str]:
    groups = sum(layer.num_key_value_heads + layer.intermediate_size for layer in header.shape.layers)
    needed, what = groups * _BYTES_PER_ROW, "table"
    if settings.save_model or settings.stream:
        after = plan.shape_after if plan else header.shape
        needed += weight_bytes(after, BYTES_PER_PARAMETER.get(header.dtype, 2))
        what = "table and model" if plan else "table and model, at most"
    folder = Path(settings.output_root).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return "disk", f"{readable_size(needed)} for {what}, {readable_size(free)} free: {_fits(needed, free)}"


def _fits(needed: int, present: int) -> str:
    return "fits" if needed < present else "does not fit"
