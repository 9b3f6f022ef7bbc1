"""What a run records of a model: its perplexity on held-out text, and its folder, saved and checked."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import PruningError
from ..experiment import CARD_FILE, PLAN_FILE, Experiment, write_whole
from ..export.hugging_face import check_reload, model_card, save_model
from ..export.original import Original
from ..export.own_code import portable
from ..model.checkpoint import LoadedModel
from ..model.held_out import HeldOutText, perplexity
from ..planning.checkpoint_header import CheckpointHeader, TensorHeader
from ..planning.matrices import actual_matrix_table, checks, other_tensors
from ..planning.plan import PruningPlan
from ..words import counted
from .context import Run, saved_dtype
from .export import check_windows, checked
from .progress import Progress


def record_perplexity(run: Run, stage: str, model: PreTrainedModel, text: HeldOutText) -> None:
    """Measures the perplexity of a stage (before, after, repaired, recovered) and writes it to metrics.json."""
    # No backward pass here: twice the windows fit, and a person who runs out of memory has one number to lower.
    batch_size = 2 * run.settings.gradient_batch_size
    value = perplexity(model, text.windows, batch_size, on_progress=run.progress.advance)
    basis = text.basis
    run.experiment.record_perplexity(stage, basis, _finite(value))
    windows = counted(basis["windows"], "window")
    run.progress.say(f"    perplexity {stage}: {value:.2f} ({basis['dataset']}, seq {basis['seq_len']}, {windows})")


def was_measured(experiment: Experiment, stage: str, text: HeldOutText) -> bool:
    """Whether metrics.json holds the perplexity of a stage, on this text."""
    metrics = experiment.metrics()
    return stage in metrics.get("perplexity", {}) and metrics.get("basis") == text.basis


def save_and_check(
    run: Run, loaded: LoadedModel, model: PreTrainedModel, plan: PruningPlan | None = None, changed: Iterable[str] = ()
) -> None:
    """Writes `model/`, loads it again in a fresh process and compares it with `model` and with the files of `loaded`; its card,
    written last, says that it passed.

    `plan` cut what was loaded (None: it is cut already); `changed` names weights of `model` that were repaired or trained.
    """
    folder = run.experiment.model_folder
    with run.progress.step("save", unit="bytes"):
        dtype, shard = saved_dtype(loaded, run.settings), run.settings.max_shard_size
        tokenizer = portable_tokenizer(run.progress, loaded.tokenizer)
        save_model(model, tokenizer, folder, shard, dtype, run.progress.advance, loaded.header.folder)
        run.progress.say("    loading it again in a fresh process")
        original = Original(loaded.header.folder, plan, frozenset(changed), loaded.model.dtype)
        check = check_reload(folder, model, tokenizer, check_windows(run.settings, loaded.header), original)
        run.progress.check_cancelled()
        weight_bytes = CheckpointHeader.read(folder).weight_bytes
        run.experiment.forget_exports()  # of the model that stood here before
        run.experiment.update_metrics(export_check={"hf": check}, size_bytes={"after": weight_bytes})
        write_whole(folder / PLAN_FILE, run.experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
        write_whole(folder / CARD_FILE, model_card(run.experiment))
        run.progress.say(f"    {checked(check)}")


def portable_tokenizer(progress: Progress, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """The tokenizer as an export brings it; None, which is said, where it cannot do without code of its model."""
    found = portable(tokenizer)
    if found is None:
        progress.say(
            "    the tokenizer needs code of the model, which is not passed on: take it from where the model came from"
        )
    return found


def round_as_saved(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Rounds a model's parameters to what files of `dtype` can hold, so that what is judged is what is saved."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None


def say_plan(progress: Progress, plan: PruningPlan) -> None:
    attention, mlp = plan.removed_parameters.sum(axis=0)
    progress.say(f"    {plan.actual_ratio:.2%} of all parameters go: attention {attention:,}, MLP {mlp:,}")


def say_empty_layers(progress: Progress, plan: PruningPlan) -> None:
    if not plan.remove_empty_layers:
        progress.skip("empty_layers")
        return
    with progress.step("empty_layers"):
        gone = plan.shape.num_layers - len(plan.kept_layers)
        progress.say(f"    {counted(gone, 'layer')} removed, {len(plan.kept_layers)} left")


def describe_cut(
    run: Run,
    source: CheckpointHeader,
    before: CheckpointHeader,
    after_cut: CheckpointHeader,
    plan: PruningPlan,
    dtype: torch.dtype,
) -> pd.DataFrame:
    """Records sizes and ratio, and returns the table of every matrix before and after.

    `source` are the files, `before` and `after_cut` the tensors that are compared, `dtype` what is saved.
    """
    with run.progress.step("statistics"):
        matrices = actual_matrix_table(before, after_cut, plan)
        after = plan.shape_after.parameters
        run.experiment.update_metrics(
            fingerprint=source.fingerprint,
            parameters={"before": plan.shape.parameters, "after": after},
            ratio={
                "target": plan.settings.get("pruning_ratio"),
                "target_basis": plan.target_basis,
                "actual": plan.actual_ratio,
            },
            size_bytes={"before": source.weight_bytes, "after": after * dtype.itemsize},
        )
        others = other_tensors(after_cut, plan)
        failed = [check.key for check in checks(plan, matrices, others) if not check.passed]
        run.progress.say(f"    {plan.shape.parameters:,} -> {after:,} parameters ({plan.actual_ratio:.2%} removed)")
        if failed:
            raise PruningError("unexpected", reason=f"the cut model is not what the plan says: {', '.join(failed)}")
    return matrices


def header_of(model: PreTrainedModel, loaded: LoadedModel) -> CheckpointHeader:
    """What the files of a model in memory hold or will hold."""
    dtype = loaded.saved_dtype
    tensors = {
        name: TensorHeader(str(dtype), tuple(tensor.shape), Path(), 0, tensor.numel() * dtype.itemsize)
        for name, tensor in model.named_parameters()
    }
    return CheckpointHeader(Path(), model.config.to_dict(), tensors, ())
