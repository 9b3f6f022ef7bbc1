"""`apply --stream`: cuts by a file, from safetensors to safetensors, without a model in memory. Nothing is evaluated.

header -> plan -> cut tensor by tensor -> model/        loaded again and compared only where the whole model fits easily
"""

import contextlib
from dataclasses import replace

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from ..errors import PruningError
from ..experiment import CARD_FILE, PICTURE_FILE, PLAN_FILE, RESULT_FILE, write_whole
from ..export.formats import SMALL_FILES
from ..export.hugging_face import model_card
from ..export.original import Original
from ..export.reload_check import check_reload
from ..export.streamed_cut import cut_streamed
from ..files import room, write_csv
from ..model.checkpoint import SAFETENSORS_DTYPES, load, load_tokenizer
from ..model.masking import masked
from ..plan_from_file import layers_from_file, plan_from_file
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.plan import PruningPlan
from .context import Run, open_model
from .export import check_windows, checked
from .picture import save_plan_picture
from .results import describe_cut, portable_tokenizer, say_empty_layers, say_plan

_COMPUTING_BYTES = 4  # float32
_EASILY = 0.25  # of the memory that is free: what streaming is chosen for is not to need it
_AT_MOST = 2 * 10**9  # bytes of the source in float32, however much memory is free


def choose_plan(run: Run, header: CheckpointHeader) -> PruningPlan:
    """The plan that the file named in the settings gives, written into the experiment."""
    with run.progress.step("selection"):
        chosen = plan_from_file(header.shape, header.fingerprint, run.settings, layers_from_file(header, run.settings))
        for warning in chosen.warnings:
            run.progress.say(f"    {warning}")
        if chosen.table is not None:
            run.experiment.write_table(chosen.table)
        run.experiment.write_plan(chosen.plan, chosen.table)
        say_plan(run.progress, chosen.plan)
    return chosen.plan


def apply_streamed(run: Run) -> None:
    """Cuts by a file into `model/`; what fails leaves nothing of its result."""
    with run.progress.step("load"):
        header = open_model(run)
        tokenizer = portable_tokenizer(run.progress, load_tokenizer(header.folder, run.permissions.trust_remote_code))
    if run.settings.resume and run.experiment.is_saved:
        run.progress.say("    this run came to its end; nothing is left to do")
        return
    for step in ("baseline", "gradients", "group_table"):
        run.progress.skip(step, "no model is in memory")
    plan = choose_plan(run, header)
    try:
        with run.progress.step("cut", unit="bytes"):
            asked = run.settings.save_dtype
            dtype = SAFETENSORS_DTYPES.get(header.dtype, torch.float32) if asked == "auto" else getattr(torch, asked)
            needed = plan.shape_after.parameters * dtype.itemsize + SMALL_FILES
            run.progress.say(f"    {room(run.experiment.folder, needed)}")
            folder, shard = run.experiment.model_folder, run.settings.max_shard_size
            cut_streamed(header, plan, tokenizer, folder, dtype, shard, run.progress.advance)
        say_empty_layers(run.progress, plan)
        written = CheckpointHeader.read(folder)
        matrices = describe_cut(run, header, header, written, plan, dtype)
        for step in ("perplexity", "recovery"):
            run.progress.skip(step, "no model is in memory")
        save_plan_picture(plan, run.experiment.path(PICTURE_FILE))
        with run.progress.step("save"):
            _check(run, header, written, plan, tokenizer)
        write_csv(run.experiment.path(RESULT_FILE), matrices)  # last: it says that the cut came to its end
    except BaseException:
        with contextlib.suppress(PruningError):
            run.experiment.forget_result()
        raise


def _check(
    run: Run, header: CheckpointHeader, written: CheckpointHeader, plan: PruningPlan, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Names, shapes and sizes from the headers; logits too where the source is small, and fits into memory many times over."""
    written.check()
    found: dict = {"max_abs_diff": None, "top1": None, "tensors": len(written.tensors)}
    computing = header.shape.parameters * _COMPUTING_BYTES
    if computing <= _AT_MOST and computing < _EASILY * psutil.virtual_memory().available:
        run.progress.say("    loading it again in a fresh process")
        source = load(header, replace(run.settings, dtype="float32"), run.permissions.trust_remote_code).model
        with masked(source, plan):
            found = check_reload(
                written.folder, source, tokenizer, check_windows(run.settings, header), Original(header.folder, plan)
            )
    run.experiment.update_metrics(export_check={"hf": found}, size_bytes={"after": written.weight_bytes})
    write_whole(written.folder / PLAN_FILE, run.experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
    write_whole(written.folder / CARD_FILE, model_card(run.experiment))
    run.progress.say(f"    {checked(found)}")
