"""Makes the other forms of a saved model, each checked in a fresh process before it gets its name.

    export.json: what is wanted  ->  model/ --tensor by tensor--> part --loaded again, compared--> model-F16.gguf, metrics.json

The saved folder is the source: it was compared with the model in memory when it was written.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import PruningError
from ..experiment import CARD_FILE, PLAN_FILE, Experiment, write_whole
from ..export.bin_file import write_bin
from ..export.formats import BIN, GGUF_KINDS, HF, HF_DTYPES, PLAN, file_of, folder_of, needed_bytes, refuse
from ..export.gguf_file import write_gguf
from ..export.hub import push
from ..export.hugging_face import model_card, write_zip
from ..export.original import Original
from ..export.own_code import refuse_foreign
from ..export.reload_check import check_file, check_reload
from ..export.streamed_cut import rewrite
from ..files import read_json, room, written_whole
from ..model.architecture.classes import load_trusted
from ..model.checkpoint import has_tokenizer, load_tokenizer
from ..model.runtime import resolve_device
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.plan import PruningPlan
from ..words import readable_size
from .export_request import ExportRequest, saved_model
from .permissions import Permissions
from .progress import RunReport

CHECK_WINDOWS = 4  # windows on which an exported model must give the logits of the one in memory


def export(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Makes every format that `export.json` asks for."""
    request = ExportRequest.read(experiment)
    if request.is_plan_alone:  # it is in the folder already
        experiment.read_plan()
        report.skip("save", "the plan is there")
        return
    make_formats(experiment, report, settings, request.formats, request.max_shard_size)
    if request.repository:
        _push(experiment, report, request, permissions)


def _push(experiment: Experiment, report: RunReport, request: ExportRequest, permissions: Permissions) -> None:
    """Uploads the saved folder, and the single files among the formats that were asked for."""
    with report.step("save", detail=f"upload to {request.repository}"):
        beside = tuple(name for name in request.formats if name == BIN or name in GGUF_KINDS)
        card = model_card(experiment, place=request.repository, beside=beside)
        files = tuple(experiment.path(file_of(name)) for name in beside)
        folder = saved_model(experiment)
        refuse_foreign(folder)
        url = push(folder, request.repository, permissions.token, card, files, request.private)
        report.say(f"    {url}")


def make_formats(
    experiment: Experiment,
    report: RunReport,
    settings: dict,
    formats: tuple[str, ...],
    max_shard_size: str,
    model: PreTrainedModel | None = None,
) -> None:
    """Makes and checks these formats; `model` is the one in memory, by default what the saved folder gives.

    Raises PruningError with the first one that cannot be made; those before it are kept.
    """
    folder = saved_model(experiment)
    header = CheckpointHeader.read(folder)
    source = _Source(folder, header, settings, max_shard_size, model)
    for name in formats:
        refuse(name, header)
        if name not in (HF, PLAN):
            source.require_memory()
        with report.step("save", unit="bytes", detail=name):
            needed = needed_bytes(name, header)
            report.say(f"    {room(experiment.folder, needed)}")
            report.progress(0, needed)
            _make(experiment, report, source, name, needed)
    write_whole(folder / CARD_FILE, model_card(experiment))  # it says which formats were checked


@dataclass
class _Source:
    """The saved folder, and the model that exports are compared with, loaded when the first one needs it."""

    folder: Path
    header: CheckpointHeader
    settings: dict
    max_shard_size: str
    loaded: PreTrainedModel | None

    @property
    def model(self) -> PreTrainedModel:
        if self.loaded is None:
            device = resolve_device(self.settings["device"])
            self.loaded = load_trusted(self.folder, dtype=torch.float32).to(device).eval()
        return self.loaded

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.folder)

    @property
    def tokenizer_if_there(self) -> PreTrainedTokenizerBase | None:
        """None where the model's own is code, which was not passed on."""
        return self.tokenizer if has_tokenizer(self.folder) else None

    def require_memory(self) -> None:
        """Raises PruningError when checking would not fit: a fresh process holds the model in float32, beside the one here."""
        on_cpu = resolve_device(self.settings["device"]).type == "cpu"  # else the one here leaves the memory again
        copies = 2 if self.loaded is None and on_cpu else 1
        needed, free = copies * self.header.shape.parameters * 4, psutil.virtual_memory().available
        if needed > free:
            raise PruningError("export_memory", needed=readable_size(needed), free=readable_size(free))

    @property
    def windows(self) -> torch.Tensor:
        return check_windows(self.settings, self.header)


def _make(experiment: Experiment, report: RunReport, source: _Source, name: str, needed: int) -> None:
    target = experiment.path(file_of(name))
    if name == HF:
        pack_model(experiment, report)
    elif name == PLAN:
        _record(experiment, report, name, _check_plan(experiment))
    elif name in HF_DTYPES:
        _make_folder(experiment, report, source, name, needed)
    else:
        with written_whole(target, needed) as part:
            if name == BIN:
                write_bin(source.folder, part, report.progress)
            else:
                write_gguf(source.folder, source.tokenizer, part, GGUF_KINDS[name], report.progress)
            report.say("    loading it again in a fresh process")
            check = check_file(part, GGUF_KINDS.get(name, BIN), source.folder, source.model, source.windows)
            report.check_cancelled()
            _record(experiment, report, name, check)


def pack_model(experiment: Experiment, report: RunReport) -> None:
    """Packs the saved folder as `model.zip`; raises PruningError where it holds what this program did not write."""
    folder = saved_model(experiment)
    refuse_foreign(folder)
    write_zip(folder, experiment.path(file_of(HF)), report.progress)


def _make_folder(experiment: Experiment, report: RunReport, source: _Source, name: str, needed: int) -> None:
    """The folder in another number format, which replaces an older one after its check, and its zip."""
    target = experiment.path(folder_of(name))
    dtype = getattr(torch, HF_DTYPES[name])
    with written_whole(target, needed) as folder:
        rewrite(source.header, source.tokenizer_if_there, folder, dtype, source.max_shard_size, report.progress)
        report.say("    loading it again in a fresh process")
        check = check_reload(folder, source.model, source.tokenizer_if_there, source.windows, Original(source.folder))
        report.check_cancelled()
        write_whole(folder / PLAN_FILE, experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
        _record(experiment, report, name, check)
        write_whole(folder / CARD_FILE, model_card(experiment, name))
    write_zip(target, experiment.path(file_of(name)), report.progress)


def _check_plan(experiment: Experiment) -> dict:
    """That the file alone, and the shape of the model before the cut, give the shape of the saved model."""
    plan = PruningPlan.from_json(read_json(experiment.path(PLAN_FILE), None), experiment.shape(), path=PLAN_FILE)
    saved = CheckpointHeader.read(experiment.model_folder).shape
    if plan.fingerprint is None or plan.shape_after.layers != saved.layers:
        raise PruningError("plan_not_this_model", path=experiment.path(PLAN_FILE))
    return {"parameters": saved.parameters}


def _record(experiment: Experiment, report: RunReport, name: str, check: dict) -> None:
    """Writes what the check found into metrics.json, replacing what an earlier one found."""
    experiment.update_metrics(export_check={name: None})
    experiment.update_metrics(export_check={name: check})
    report.say(f"    {checked(check)}")


def checked(check: dict) -> str:
    """What a check found, in words."""
    if check.get("max_abs_diff") is None:
        return "names, shapes and sizes agree"
    words = f"largest difference of logits {check['max_abs_diff']:.1e}, top-1 agreement {check['top1']:.2%}"
    if "original_diff" in check:
        told = f"{check['original_diff']:.1e} of the largest logit"
        words += f"; from the original files with what the plan removes set to zero: {told}"
    if found := check.get("llama_cpp"):
        words += f"; llama.cpp: {found['equal']} of {found['tokens']} greedy tokens equal"
    return words


def check_windows(settings: dict, header: CheckpointHeader) -> torch.Tensor:
    """Random token ids, the same every time, [4, seq_len] int64."""
    limit = header.shape.max_position_embeddings
    seq_len = min(settings["seq_len"], limit) if limit else settings["seq_len"]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(header.shape.vocab_size, (CHECK_WINDOWS, seq_len), generator=generator)


def pack(experiment: Experiment, report: RunReport, settings: dict, permissions: Permissions = Permissions()) -> None:
    """Packs the saved, checked model folder as `model.zip`."""
    with report.step("save", unit="bytes"):
        pack_model(experiment, report)
