"""`apply --stream`: cuts by a file, from safetensors to safetensors, without a model in memory. Nothing is evaluated.

header -> plan -> cut tensor by tensor -> model/        loaded again and compared only where the whole model fits easily
"""

import contextlib

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from ..errors import PruningError
from ..experiment import CARD_FILE, PICTURE_FILE, PLAN_FILE, RESULT_FILE, Experiment, write_whole
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
from .context import open_model
from .export import check_windows, checked
from .permissions import Permissions
from .picture import save_plan_picture
from .progress import RunReport
from .results import describe_cut, portable_tokenizer, say_empty_layers, say_plan

_COMPUTING_BYTES = 4  # float32
_EASILY = 0.25  # of the memory that is free: what streaming is chosen for is not to need it
_AT_MOST = 2 * 10**9  # bytes of the source in float32, however much memory is free


def choose_plan(experiment: Experiment, report: RunReport, settings: dict, header: CheckpointHeader) -> PruningPlan:
    """The plan that the file named in the settings gives, written into the experiment."""
    with report.step("selection"):
        chosen = plan_from_file(header.shape, header.fingerprint, settings, layers_from_file(header, settings))
        for warning in chosen.warnings:
            report.say(f"    {warning}")
        if chosen.table is not None:
            experiment.write_table(chosen.table)
        experiment.write_plan(chosen.plan, chosen.table)
        say_plan(report, chosen.plan)
    return chosen.plan


def apply_streamed(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Cuts by a file into `model/`; what fails leaves nothing of its result."""
    with report.step("load"):
        header = open_model(experiment, report, settings, permissions)
        tokenizer = portable_tokenizer(report, load_tokenizer(header.folder, permissions.trust_remote_code))
    if settings["resume"] and experiment.is_saved:
        report.say("    this run is complete; nothing is left to do")
        return
    for step in ("baseline", "gradients", "group_table"):
        report.skip(step, "no model is in memory")
    plan = choose_plan(experiment, report, settings, header)
    try:
        with report.step("cut", unit="bytes"):
            dtype = _saved_dtype(header, settings)
            needed = plan.shape_after.parameters * dtype.itemsize + SMALL_FILES
            report.say(f"    {room(experiment.folder, needed)}")
            folder, shard = experiment.model_folder, settings["max_shard_size"]
            cut_streamed(header, plan, tokenizer, folder, dtype, shard, report.progress)
        say_empty_layers(report, plan)
        written = CheckpointHeader.read(folder)
        matrices = describe_cut(experiment, report, header, header, written, plan, dtype)
        for step in ("perplexity", "recovery"):
            report.skip(step, "no model is in memory")
        save_plan_picture(plan, experiment.path(PICTURE_FILE))
        with report.step("save"):
            _check(experiment, report, settings, header, written, plan, tokenizer, permissions)
        write_csv(experiment.path(RESULT_FILE), matrices)  # last: it says that the cut is complete
    except BaseException:
        with contextlib.suppress(PruningError):
            experiment.forget_result()
        raise


def _saved_dtype(header: CheckpointHeader, settings: dict) -> torch.dtype:
    if settings["save_dtype"] != "auto":
        return getattr(torch, settings["save_dtype"])
    return SAFETENSORS_DTYPES.get(header.dtype, torch.float32)


def _check(
    experiment: Experiment,
    report: RunReport,
    settings: dict,
    header: CheckpointHeader,
    written: CheckpointHeader,
    plan: PruningPlan,
    tokenizer: PreTrainedTokenizerBase | None,
    permissions: Permissions,
) -> None:
    """Names, shapes and sizes from the headers; logits too where the source is small, and fits into memory many times over."""
    written.check()
    found: dict = {"max_abs_diff": None, "top1": None, "tensors": len(written.tensors)}
    computing = header.shape.parameters * _COMPUTING_BYTES
    if computing <= _AT_MOST and computing < _EASILY * psutil.virtual_memory().available:
        report.say("    loading it again in a fresh process")
        source = load(header, settings | {"dtype": "float32"}, permissions.trust_remote_code).model
        with masked(source, plan):
            found = check_reload(
                written.folder, source, tokenizer, check_windows(settings, header), Original(header.folder, plan)
            )
    experiment.update_metrics(export_check={"hf": found}, size_bytes={"after": written.weight_bytes})
    write_whole(written.folder / PLAN_FILE, experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
    write_whole(written.folder / CARD_FILE, model_card(experiment))
    report.say(f"    {checked(found)}")
