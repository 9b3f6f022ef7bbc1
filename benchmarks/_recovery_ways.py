"""Ways to win quality back after a cut of the demo model, each to a perplexity on windows that chose nothing.

    reconstruct            closed-form repair of the cut model
    iterative              the same share in rounds, measured again       iterative_reconstruct    and repaired
    lora_cut               LoRA from the cut model                        lora, lora_distill       from the repaired model

Calibration and training text are of one corpus; its held-out windows are reported, others of them choose the best state.
"""

import argparse
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pruning.model.calibration import Corpus, draw_samples, windows_left_out
from pruning.model.checkpoint import LoadedModel
from pruning.model.held_out import HeldOutText, perplexity
from pruning.model.importance import measure_groups
from pruning.model.masking import masked
from pruning.model.repair import repair
from pruning.model.surgery import cut
from pruning.model.training import Training, train
from pruning.model.training_text import load_training_text
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.rounds import plan_in_rounds
from pruning.runs.results import round_as_saved
from pruning.settings import LORA_TARGETS, Settings

REPAIR, ITERATIVE, ITERATIVE_REPAIR = "reconstruct", "iterative", "iterative_reconstruct"
LORA_FROM_CUT, LORA, DISTILLED = "lora_cut", "lora", "lora_distill"
WAYS = (REPAIR, ITERATIVE, ITERATIVE_REPAIR, LORA_FROM_CUT, LORA, DISTILLED)
_ITERATIVE, _TRAINED, _NOT_REPAIRED = (
    (ITERATIVE, ITERATIVE_REPAIR),
    (LORA_FROM_CUT, LORA, DISTILLED),
    (ITERATIVE, LORA_FROM_CUT),
)
_SEED, _BATCH_SIZE, _VALIDATION_WINDOWS = 0, 8, 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=65536, help="calibration tokens for the repair (default 65536)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of iterative cutting (default 4)")
    parser.add_argument("--finetune_samples", type=int, default=500, help="training windows (default 500)")
    parser.add_argument("--finetune_lr", type=float, default=1e-3, help="learning rate of LoRA (default 1e-3)")
    parser.add_argument("--distill_weight", type=float, default=0.5, help="weight of distillation (default 0.5)")


class Recoveries:
    """The demo model and its texts, and a table that plans are made from."""

    def __init__(
        self, loaded: LoadedModel, table: GroupTable, text: HeldOutText, calibration: Corpus, args: argparse.Namespace
    ):
        self.loaded, self.table, self.text, self.calibration, self.args = loaded, table, text, calibration, args
        self._in_rounds: dict[float, PruningPlan] = {}
        self.validation = windows_left_out(
            text.corpus, loaded.tokenizer, args.seq_len, args.windows, min(_VALIDATION_WINDOWS, args.windows)
        )

    @property
    def basis(self) -> dict:
        """What the figures rest on, beside the basis of all rows."""
        training = {name: value for name, value in asdict(self._training(0.0)).items() if name != "distill_weight"}
        given = {name: getattr(self.args, name) for name in ("tokens", "rounds", "finetune_samples", "distill_weight")}
        return given | {"validation_windows": len(self.validation), "training": training | {"lora_targets": "all seven"}}

    def perplexity_after(self, way: str, plan: PruningPlan, settings: Settings) -> float:
        """Perplexity of the model that `plan`, made by `settings`, and one of WAYS lead to."""
        if way in _ITERATIVE:
            plan = self._plan_in_rounds(settings)
        model = cut(self.loaded.model, plan)
        for parameter in model.parameters():  # training and merging write into what the cut shares with its source
            parameter.data = parameter.data.clone()
        if way not in _NOT_REPAIRED:
            windows = self._windows(-(-self.args.tokens // self.args.seq_len))
            repair(self.loaded.model, model, plan, windows, 2 * _BATCH_SIZE)
            round_as_saved(model, self.loaded.saved_dtype)
        if way in _TRAINED:
            model = self._trained(model, self.args.distill_weight if way == DISTILLED else 0.0)
            round_as_saved(model, self.loaded.saved_dtype)
        return perplexity(model, self.text.windows)

    def _plan_in_rounds(self, settings: Settings) -> PruningPlan:
        ratio, asked = settings.pruning_ratio, replace(settings, iterative_steps=self.args.rounds)
        if ratio not in self._in_rounds:
            planned, _ = plan_in_rounds(self.table, asked, None, self._measured_again, partial(print, flush=True))
            self._in_rounds[ratio] = planned.plan
        return self._in_rounds[ratio]

    def _measured_again(self, plan: PruningPlan, round_in_words: str):
        with masked(self.loaded.model, plan) as model:
            return measure_groups("taylor", model, self.loaded.header.shape, self._windows(self.args.samples), _BATCH_SIZE)

    def _windows(self, count: int) -> torch.Tensor:
        return draw_samples(self.calibration, self.loaded.tokenizer, count, self.args.seq_len, _SEED)

    def _training(self, distill_weight: float) -> Training:
        return Training(
            steps=-(-self.args.finetune_samples // _BATCH_SIZE),
            learning_rate=self.args.finetune_lr,
            batch_size=_BATCH_SIZE,
            lora_targets=LORA_TARGETS,
            distill_weight=distill_weight,
            seed=_SEED,
        )

    def _trained(self, model: PreTrainedModel, distill_weight: float) -> PreTrainedModel:
        samples, seq_len = self.args.finetune_samples, self.args.seq_len
        text = load_training_text(self.calibration.name, self.loaded.tokenizer, samples, seq_len, _SEED)
        teacher = self.loaded.model if distill_weight else None
        judge = partial(perplexity, windows=self.validation)
        with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
            return train(model, text, self._training(distill_weight), Path(folder), judge, _show, teacher).model


def _show(point) -> None:
    if point.perplexity is not None:
        print(f"      step {point.step}: perplexity {point.perplexity:.3f} on validation windows", flush=True)
