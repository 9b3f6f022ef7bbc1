"""What a cut took away, told and written down: the plan's share, empty layers, sizes, the table of every matrix."""

import pandas as pd
import torch

from analysis import diff

from ..errors import PruningError
from ..experiment import Experiment
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.plan import PruningPlan
from .report import RunReport


def say_plan(report: RunReport, plan: PruningPlan) -> None:
    attention, mlp = plan.removed_parameters.sum(axis=0)
    report.say(f"    {plan.actual_ratio:.2%} of all parameters go: attention {attention:,}, MLP {mlp:,}")


def say_empty_layers(report: RunReport, plan: PruningPlan) -> None:
    if not plan.remove_empty_layers:
        report.skip("empty_layers")
        return
    with report.step("empty_layers"):
        gone = plan.shape.num_layers - len(plan.kept_layers)
        report.say(f"    {gone} layers removed, {len(plan.kept_layers)} left")


def describe_cut(
    experiment: Experiment,
    report: RunReport,
    source: CheckpointHeader,
    before: CheckpointHeader,
    after_cut: CheckpointHeader,
    plan: PruningPlan,
    dtype: torch.dtype,
) -> pd.DataFrame:
    """Records sizes and ratio, and returns the table of every matrix before and after.

    `source` are the files, `before` and `after_cut` the tensors held against each other, `dtype` what is saved.
    """
    with report.step("statistics"):
        matrices = diff.actual_matrix_table(before, after_cut, plan)
        after = plan.shape_after.parameters
        experiment.update_metrics(
            fingerprint=source.fingerprint,
            parameters={"before": plan.shape.parameters, "after": after},
            ratio={
                "target": plan.settings.get("pruning_ratio"),
                "target_basis": plan.target_basis,
                "actual": plan.actual_ratio,
            },
            size_bytes={"before": source.weight_bytes, "after": after * dtype.itemsize},
        )
        others = diff.other_tensors(after_cut, plan)
        failed = [check.key for check in diff.checks(plan, matrices, others) if not check.passed]
        report.say(f"    {plan.shape.parameters:,} -> {after:,} parameters ({plan.actual_ratio:.2%} removed)")
        if failed:
            raise PruningError("unexpected", reason=f"the cut does not keep its promises: {', '.join(failed)}")
    return matrices
