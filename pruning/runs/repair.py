"""The closed-form repair as part of a run: on which text, in how many seconds, and what repair.json says of it.

How it is computed: model/repair.py."""

import math
import time
from dataclasses import asdict

import torch
from transformers import PreTrainedModel

from ..experiment import REPAIR_FILE, Experiment
from ..model import repair as least_squares
from ..model.calibration import CALIBRATION, Corpus, check_window, draw_samples, load_corpus
from ..model.checkpoint import LoadedModel
from ..model.repair import DAMPING, RepairedMatrix, seconds_to_repair
from ..planning.kept_indices import tensor_cut
from ..planning.plan import PruningPlan
from ..settings import Settings
from ..words import counted
from .context import Run, saved_dtype
from .recovery_settings import repair_asked_for
from .results import round_as_saved
from .train import FORMAT_VERSION


def repair(run: Run, source: LoadedModel, pruned: PreTrainedModel, plan: PruningPlan) -> dict:
    """Repairs the cut model in closed form, to weights as its files can hold; frees the source's. Returns repair.json."""
    corpus = text_of_repair(run.settings, source)
    with run.progress.step("recovery", len(plan.kept_layers), "layers", detail="repair"):
        samples = _windows_of_repair(run.settings, source, corpus)
        # No backward pass: twice the windows of a gradient's batch fit.
        repaired = least_squares.repair(
            source.model,
            pruned,
            plan,
            samples,
            2 * run.settings.gradient_batch_size,
            run.progress.advance,
            lambda matrix: run.progress.say(_in_words(matrix)),
        )
        matrices, tokens = counted(len(repaired), "matrix", "matrices"), counted(samples.numel(), "token")
        run.progress.say(f"    {matrices} repaired on {tokens} of {corpus.key}")
    for parameter in source.model.parameters():
        parameter.data = parameter.new_empty(0)
    round_as_saved(pruned, saved_dtype(source, run.settings))
    calibration = {"corpus": corpus.key, "corpus_sha256": corpus.sha256, "tokens": samples.numel()}
    calibration |= {"seq_len": samples.shape[1], "seed": run.settings.seed}
    matrices = [asdict(matrix) for matrix in repaired]
    return {
        "format_version": FORMAT_VERSION,
        "asked": repair_asked_for(run.settings),
        "calibration": calibration,
        "matrices": matrices,
    }


def repaired_weights(experiment: Experiment) -> set[str]:
    """Names, in the cut model, of the weights that the repair of the experiment changed; none where there was none."""
    if not experiment.has(REPAIR_FILE):
        return set()
    plan, made = experiment.read_plan(), experiment.read(None, REPAIR_FILE)
    blocks = {"o_proj": "self_attn", "down_proj": "mlp"}
    names = [f"model.layers.{m['layer_idx']}.{blocks[m['matrix']]}.{m['matrix']}.weight" for m in made["matrices"]]
    return {tensor_cut(name, plan).name for name in names}


def seconds_of_repair(settings: Settings, source: LoadedModel, pruned: PreTrainedModel, plan: PruningPlan) -> float:
    """Seconds that the repair takes: its text is read, some of its layers are timed; both models stay as they were."""
    started = time.perf_counter()
    samples = _windows_of_repair(settings, source, text_of_repair(settings, source))
    to_read = time.perf_counter() - started
    return to_read + seconds_to_repair(source.model, pruned, plan, samples, 2 * settings.gradient_batch_size)


def text_of_repair(settings: Settings, source: LoadedModel) -> Corpus:
    """What the repair learns from; raises PruningError where there is none, or the model does not see so many tokens."""
    check_window(settings.seq_len, source.header.shape.max_position_embeddings)
    return load_corpus(settings.corpus, CALIBRATION, settings.text_column)  # never held-out text


def _windows_of_repair(settings: Settings, source: LoadedModel, corpus: Corpus) -> torch.Tensor:
    windows = math.ceil(settings.reconstruct_tokens / settings.seq_len)
    return draw_samples(corpus, source.tokenizer, windows, settings.seq_len, settings.seed)


def _in_words(matrix: RepairedMatrix) -> str:
    errors = f"output error {matrix.error_before:.1%} -> {matrix.error_after:.1%}"
    more = f", solved with damping {matrix.damping:g} instead of {DAMPING:g}" if matrix.damping > DAMPING else ""
    return f"    layer {matrix.layer_idx} {matrix.matrix}: {errors}{more}"
