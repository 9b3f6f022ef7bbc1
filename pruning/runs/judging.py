"""What a run records of a model: its perplexity on held-out text, and its folder, saved and checked."""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.perplexity import HeldOutText, perplexity

from ..experiment import CARD_FILE, PLAN_FILE, Experiment, write_whole
from ..export.hugging_face import check_reload, model_card, save_model
from ..export.original import Original
from ..export.own_code import portable
from ..model.calibration import check_window
from ..model.checkpoint import LoadedModel
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.plan import PruningPlan
from .exporting import check_windows, checked
from .report import RunReport


def load_held_out(settings: dict, loaded: LoadedModel) -> HeldOutText:
    """The text that perplexities are reported on; raises PruningError when there is none."""
    check_window(settings["eval_seq_len"], loaded.header.shape.max_position_embeddings, "eval_seq_len")
    return HeldOutText.load(
        loaded.tokenizer, settings["eval_corpus"], settings["eval_seq_len"], settings["eval_windows"], settings["text_column"]
    )


def record_perplexity(
    experiment: Experiment, report: RunReport, stage: str, model: PreTrainedModel, text: HeldOutText, settings: dict
) -> None:
    """Measures the perplexity of a stage (before, after, repaired, recovered) and writes it to metrics.json."""
    # No backward pass here: twice the windows fit, and a person who runs out of memory has one number to lower.
    batch_size = 2 * settings["gradient_batch_size"]
    value = perplexity(model, text.windows, batch_size, on_progress=report.progress)
    basis = text.basis
    experiment.record_perplexity(stage, basis, _finite(value))
    report.say(f"    perplexity {stage}: {value:.2f} ({basis['dataset']}, seq {basis['seq_len']}, {basis['windows']} windows)")


def was_measured(experiment: Experiment, stage: str, text: HeldOutText) -> bool:
    """Whether metrics.json holds the perplexity of a stage, on this text."""
    metrics = experiment.metrics()
    return stage in metrics.get("perplexity", {}) and metrics.get("basis") == text.basis


def save_and_check(
    experiment: Experiment,
    report: RunReport,
    loaded: LoadedModel,
    model: PreTrainedModel,
    settings: dict,
    plan: PruningPlan | None = None,
    changed: Iterable[str] = (),
) -> None:
    """Writes `model/`, loads it again in a fresh process and compares it with `model` and with the files of `loaded`; its card,
    written last, says that it passed.

    `plan` cut what was loaded (None: it is cut already); `changed` names weights of `model` that were repaired or trained.
    """
    folder = experiment.model_folder
    with report.step("save", unit="bytes"):
        dtype, shard = saved_dtype(loaded, settings), settings["max_shard_size"]
        tokenizer = portable_tokenizer(report, loaded.tokenizer)
        save_model(model, tokenizer, folder, shard, dtype, report.progress, loaded.header.folder)
        report.say("    loading it again in a fresh process")
        original = Original(loaded.header.folder, plan, frozenset(changed), loaded.model.dtype)
        check = check_reload(folder, model, tokenizer, check_windows(settings, loaded.header), original)
        report.check_cancelled()
        weight_bytes = CheckpointHeader.read(folder).weight_bytes
        experiment.forget_exports()  # of the model that stood here before
        experiment.update_metrics(export_check={"hf": check}, size_bytes={"after": weight_bytes})
        write_whole(folder / PLAN_FILE, experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
        write_whole(folder / CARD_FILE, model_card(experiment))
        report.say(f"    {checked(check)}")


def portable_tokenizer(report: RunReport, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """The tokenizer as an export brings it; None, which is said, where it cannot do without code of its model."""
    found = portable(tokenizer)
    if found is None:
        report.say("    the tokenizer needs code of the model, which is not passed on: take it from where the model came from")
    return found


def saved_dtype(loaded: LoadedModel, settings: dict) -> torch.dtype:
    """What a model is saved in: as its files were, unless asked otherwise."""
    return loaded.saved_dtype if settings["save_dtype"] == "auto" else getattr(torch, settings["save_dtype"])


def round_as_saved(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Rounds a model's parameters to what files of `dtype` can hold, so that what is judged is what is saved."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None
