"""Makes the other forms of a saved model, each checked in a fresh process before it gets its name.

    what is asked for  ->  model/ --tensor by tensor--> part --loaded again, compared--> model-F16.gguf, metrics.json

The saved folder is the source: it was compared with the model in memory when it was written.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import Cancelled, PruningError
from ..experiment import CARD_FILE, PLAN_FILE, Experiment, write_whole
from ..export.formats import FORMATS, HF, PLAN, Format
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
from ..settings import Settings
from ..words import readable_size
from .context import Run
from .export_request import ExportRequest, saved_model

CHECK_WINDOWS = 4  # windows on which an exported model must give the logits of the one in memory


def export(run: Run) -> None:
    """Makes every format that is asked for, and uploads them where that is."""
    request = ExportRequest.of(run.request)
    if request.is_plan_alone:  # it stands in the folder already
        run.experiment.read_plan()
        run.progress.skip("save", "the plan is there")
        return
    make_formats(run, request.formats, request.max_shard_size)
    if request.repository:
        _push(run, request)


def _push(run: Run, request: ExportRequest) -> None:
    """Uploads the saved folder, and the single files among the formats that were asked for."""
    with run.progress.step("save", detail=f"upload to {request.repository}"):
        beside = tuple(name for name in request.formats if FORMATS[name].is_single_file)
        card = model_card(run.experiment, place=request.repository, beside=beside)
        files = tuple(run.experiment.path(FORMATS[name].file) for name in beside)
        folder = saved_model(run.experiment)
        refuse_foreign(folder)
        url = push(folder, request.repository, run.permissions.token, card, files, request.private)
        run.progress.say(f"    {url}")


def make_formats(run: Run, formats: tuple[str, ...], max_shard_size: str, model: PreTrainedModel | None = None) -> None:
    """Makes and checks these formats; `model` is the one in memory, by default what the saved folder gives.

    The zip of the folder comes last: the card in it says which of the others were checked. Raises PruningError of the first
    one that cannot be made, once the others stand.
    """
    folder = saved_model(run.experiment)
    header = CheckpointHeader.read(folder)
    source = _Source(folder, header, run.settings, max_shard_size, model)
    failed: PruningError | None = None
    for name in sorted(formats, key=lambda name: name == HF):
        try:
            FORMATS[name].refuse(header)
            if name not in (HF, PLAN):
                source.require_memory()
            with run.progress.step("save", unit="bytes", detail=name):
                needed = FORMATS[name].needed_bytes(header)
                run.progress.say(f"    {room(run.experiment.folder, needed)}")
                run.progress.advance(0, needed)
                _make(run, source, FORMATS[name], needed)
        except Cancelled:
            raise
        except PruningError as error:
            run.progress.say(f"    {name}: {error}")
            failed = failed or error
        write_whole(folder / CARD_FILE, model_card(run.experiment))
    if failed is not None:
        raise failed


@dataclass
class _Source:
    """The saved folder, and the model that exports are compared with, loaded when the first one needs it."""

    folder: Path
    header: CheckpointHeader
    settings: Settings
    max_shard_size: str
    loaded: PreTrainedModel | None

    @property
    def model(self) -> PreTrainedModel:
        if self.loaded is None:
            device = resolve_device(self.settings.device)
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
        on_cpu = resolve_device(self.settings.device).type == "cpu"  # else the one here leaves the memory again
        copies = 2 if self.loaded is None and on_cpu else 1
        needed, free = copies * self.header.shape.parameters * 4, psutil.virtual_memory().available
        if needed > free:
            raise PruningError("export_memory", needed=readable_size(needed), free=readable_size(free))

    @property
    def windows(self) -> torch.Tensor:
        return check_windows(self.settings, self.header)


def _make(run: Run, source: _Source, made: Format, needed: int) -> None:
    if made.name == HF:
        pack_model(run)
    elif made.name == PLAN:
        _record(run, made.name, _check_plan(run.experiment))
    elif made.is_single_file:
        _make_file(run, source, made, needed)
    else:
        _make_folder(run, source, made, needed)


def _make_file(run: Run, source: _Source, made: Format, needed: int) -> None:
    tokenizer = source.tokenizer if made.needs_tokenizer else None
    with written_whole(run.experiment.path(made.file), needed) as part:
        made.write(source.folder, tokenizer, part, made.kind, run.progress.advance)
        run.progress.say("    loading it again in a fresh process")
        check = check_file(part, made.name, source.folder, source.model, source.windows)
        run.progress.check_cancelled()
        _record(run, made.name, check)


def pack_model(run: Run) -> None:
    """Packs the saved folder as `model.zip`; raises PruningError where it holds what this program did not write."""
    folder = saved_model(run.experiment)
    refuse_foreign(folder)
    write_zip(folder, run.experiment.path(FORMATS[HF].file), run.progress.advance)


def _make_folder(run: Run, source: _Source, made: Format, needed: int) -> None:
    """The folder in another number format, in place of an older one once it was checked, and its zip."""
    target = run.experiment.path(made.folder)
    dtype = getattr(torch, made.dtype)
    with written_whole(target, needed) as folder:
        rewrite(source.header, source.tokenizer_if_there, folder, dtype, source.max_shard_size, run.progress.advance)
        run.progress.say("    loading it again in a fresh process")
        check = check_reload(folder, source.model, source.tokenizer_if_there, source.windows, Original(source.folder))
        run.progress.check_cancelled()
        write_whole(folder / PLAN_FILE, run.experiment.path(PLAN_FILE).read_text(encoding="utf-8"))
        _record(run, made.name, check)
        write_whole(folder / CARD_FILE, model_card(run.experiment, made.name))
    write_zip(target, run.experiment.path(made.file), run.progress.advance)


def _check_plan(experiment: Experiment) -> dict:
    """That the file alone, and the shape of the model before the cut, give the shape of the saved model."""
    plan = PruningPlan.from_json(read_json(experiment.path(PLAN_FILE), None), experiment.shape(), path=PLAN_FILE)
    saved = CheckpointHeader.read(experiment.model_folder).shape
    if plan.fingerprint is None or plan.shape_after.layers != saved.layers:
        raise PruningError("plan_not_this_model", path=experiment.path(PLAN_FILE))
    return {"parameters": saved.parameters}


def _record(run: Run, name: str, check: dict) -> None:
    """Writes what the check found into metrics.json, in place of what an earlier one did."""
    run.experiment.update_metrics(export_check={name: check})
    run.progress.say(f"    {checked(check)}")


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


def check_windows(settings: Settings, header: CheckpointHeader) -> torch.Tensor:
    """Random token ids, the same every time, [4, seq_len] int64."""
    limit = header.shape.max_position_embeddings
    seq_len = min(settings.seq_len, limit) if limit else settings.seq_len
    generator = torch.Generator().manual_seed(0)
    return torch.randint(header.shape.vocab_size, (CHECK_WINDOWS, seq_len), generator=generator)


def pack(run: Run) -> None:
    """Packs the saved, checked model folder as `model.zip`."""
    with run.progress.step("save", unit="bytes"):
        pack_model(run)
