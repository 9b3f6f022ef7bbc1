"""What wins quality back after a cut, as parts of a run: closed-form repair, training.

    repair     ->  what repair.json says
    training   ->  recovery/ until its result is kept: recovery.json as it goes, checkpoint, best state

The best state of a training is chosen on validation windows: of the held-out text, but not those whose perplexity is
reported; where the text has no others, some of the training text that are not trained on.

How training is computed: model/training.py. What a run does with it: recover.py. The repair: repair.py.
"""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import Cancelled, PruningError
from ..experiment import RECOVERY_FILE, RECOVERY_FOLDER, Experiment
from ..model import processes
from ..model.calibration import check_window, windows_left_out
from ..model.checkpoint import LoadedModel
from ..model.corpus_names import are_same_file
from ..model.held_out import HeldOutText, perplexity
from ..model.training import DEFAULT_LEARNING_RATE, Point, Trained, Training, seconds_per_step, train
from ..model.training_text import TrainingText, load_training_text
from ..planning.recovery_cost import total_steps
from ..settings import Settings, parts_of
from ..words import counted
from .context import Run
from .progress import Progress
from .recovery_settings import OF_TRAINING
from .status import CANCEL_FILE

FORMAT_VERSION = 1
RUNNING, DONE, FAILED = "running", "done", "failed"
CANCELLED, STOPPED = "cancelled", "stopped"  # with the best state kept; with nothing kept but the checkpoint
_SECONDS_BETWEEN_WRITES = 1.0
_VALIDATION_WINDOWS = 128
_SET_ASIDE = 0.1  # of the training text, where the held-out text has no windows left


def warn_of_shared_text(run: Run, stage: str, learned: str) -> None:
    """Says in log and metrics.json where what a stage learns from is what the model is judged by."""
    is_shared = are_same_file(learned, run.settings.eval_corpus)
    warning = str(PruningError("text_shared", learned=learned)) if is_shared else None
    if warning:
        run.progress.say(f"    {warning}")
    run.experiment.update_metrics(warning={stage: warning})


# training -------------------------------------------------------------------------------------------------------------


def training_from_settings(settings: Settings, windows: int) -> Training:
    """How these settings train on so many windows."""
    method = settings.finetune_method
    return Training(
        steps=total_steps(settings, windows, processes.count()),
        method=method,
        learning_rate=settings.finetune_lr or DEFAULT_LEARNING_RATE[method],
        batch_size=settings.finetune_batch_size,
        accumulation=settings.finetune_accumulation,
        warmup=settings.finetune_warmup,
        eval_steps=settings.finetune_eval_steps,
        max_rise=settings.finetune_max_rise,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        lora_r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        lora_targets=parts_of(settings.lora_targets),
        distill_weight=settings.distill_weight,
        distill_temperature=settings.distill_temperature,
    )


@dataclass(frozen=True)
class TrainingData:
    """The text to train on, and the windows on which the best state is chosen, int64 [windows, seq_len]."""

    text: TrainingText
    validation: torch.Tensor
    validation_key: str

    @property
    def validated_on(self) -> dict:
        """What the perplexities during the training refer to."""
        count, seq_len = self.validation.shape
        digest = hashlib.sha256(self.validation.numpy().tobytes()).hexdigest()
        return {"text": self.validation_key, "windows": count, "seq_len": seq_len, "sha256": digest}


def training_data(settings: Settings, loaded: LoadedModel, held_out: HeldOutText) -> TrainingData:
    """What these settings train on and choose by; `held_out` is what is reported. Raises PruningError when there is none."""
    seq_len = settings.finetune_seq_len or settings.seq_len
    own = "finetune_seq_len" if settings.finetune_seq_len else "seq_len"
    check_window(seq_len, loaded.header.shape.max_position_embeddings, own)
    name, count = settings.finetune_corpus or settings.corpus, settings.finetune_samples
    text = load_training_text(name, loaded.tokenizer, count, seq_len, settings.seed, settings.text_column)
    others = windows_left_out(
        held_out.corpus, loaded.tokenizer, settings.eval_seq_len, settings.eval_windows, _VALIDATION_WINDOWS
    )
    if len(others):
        return TrainingData(text, others, held_out.corpus.key)
    if len(text) < 2:
        raise PruningError("training_text_short", corpus=name, seq_len=seq_len)
    aside = math.ceil(_SET_ASIDE * len(text))
    return TrainingData(text.without_last(aside), text.input_ids[-aside:], f"{text.key}, set aside")


@dataclass(frozen=True)
class Baseline:
    """What a training is compared with: the perplexity of the uncut model on the validation windows (None: not known),
    and whether the model that it begins with was repaired.
    """

    perplexity_before: float | None
    began_repaired: bool


def train_cut_model(
    run: Run,
    model: PreTrainedModel,
    data: TrainingData,
    baseline: Baseline,
    load_teacher: Callable[[], PreTrainedModel],
    load_again: Callable[[], PreTrainedModel],
    adapter_folder: Path,
) -> tuple[Trained, dict]:
    """Trains the cut model; continues where a training with the same settings was stopped. Raises PruningError.

    Returns what came of it, and what recovery.json says of it once the model is kept.
    """
    training = training_from_settings(run.settings, len(data.text))
    history = _History(run.experiment, run.progress, run.settings, training, data, baseline)
    teacher = load_teacher() if training.distill_weight else None
    if not history.goes_on:
        run.experiment.forget_checkpoints()
    run.experiment.path(RECOVERY_FOLDER).mkdir(exist_ok=True)
    with run.progress.step("recovery", training.steps, "steps", detail=f"{training.method} training on {data.text.key}"):
        if data.text.unanswered:
            left_out = counted(data.text.unanswered, "instruction without an answer is", "instructions without an answer are")
            run.progress.say(f"    {left_out} left out")
        try:
            result = train(
                model,
                data.text,
                training,
                run.experiment.path(RECOVERY_FOLDER),
                _judge(run.settings, data, run.progress.check_cancelled),
                history.add,
                teacher,
                adapter_folder,
                load_again,
            )
        except BaseException as error:
            history.write(STOPPED if isinstance(error, Cancelled | KeyboardInterrupt) else FAILED)
            raise
        history.write(STOPPED if result.was_cancelled else DONE)
        if result.was_cancelled:
            run.experiment.path(CANCEL_FILE).unlink(missing_ok=True)  # heard; what is left is to keep the best
            run.progress.say("    cancelled: the best state so far is kept")
        best = f"best after step {result.best_step} of {training.steps}"
        run.progress.say(f"    {best}: perplexity {result.best_perplexity:.2f} on validation text")
    return result, history.content(CANCELLED if result.was_cancelled else DONE)


def write_history(experiment: Experiment, content: dict) -> None:
    """Writes what happened in a training that is not over."""
    experiment.write(content, RECOVERY_FOLDER, RECOVERY_FILE)


def training_in_short(settings: Settings, data: TrainingData, result: Trained) -> dict:
    """What metrics.json says of a training whose model is kept."""
    return {
        "method": settings.finetune_method,
        "steps": result.steps,
        "best_step": result.best_step,
        "tokens_per_step": training_from_settings(settings, len(data.text)).tokens_per_step(data.text.seq_len),
        "trained_parameters": result.trained_parameters,
        "distill_weight": settings.distill_weight,
    }


def assist_training(
    experiment: Experiment,
    settings: Settings,
    model: PreTrainedModel,
    data: TrainingData,
    load_teacher: Callable[[], PreTrainedModel],
) -> None:
    """The part of one process more in the training that the first leads; writes nothing."""
    training = training_from_settings(settings, len(data.text))
    teacher = load_teacher() if training.distill_weight else None
    train(model, data.text, training, experiment.path(RECOVERY_FOLDER), _judge(settings, data), teacher=teacher)


def measure_seconds(settings: Settings, model: PreTrainedModel, data: TrainingData, teacher: PreTrainedModel | None) -> dict:
    """Seconds of one step and of one evaluation, timed, and of the whole training by them; `model` changes."""
    training, batch_size = training_from_settings(settings, len(data.text)), 2 * settings.gradient_batch_size
    some = data.validation[:batch_size]
    perplexity(model, some, batch_size)  # warms up
    started = time.perf_counter()
    perplexity(model, some, batch_size)
    of_evaluation = (time.perf_counter() - started) * len(data.validation) / len(some)
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        of_step = seconds_per_step(model, data.text, training, Path(folder), teacher)
    evaluations = training.steps // training.eval_steps + 2  # before the first step and after the last
    whole = training.steps * of_step + evaluations * of_evaluation
    return {"seconds_per_step": of_step, "seconds_per_evaluation": of_evaluation, "seconds": whole}


def _judge(
    settings: Settings, data: TrainingData, check_cancelled: Callable[[], None] = lambda: None
) -> Callable[[nn.Module], float]:
    """Perplexity on the validation windows. Of several processes none may leave an evaluation that the others are in."""
    check = check_cancelled if processes.count() == 1 else lambda: None
    return lambda model: perplexity(model, data.validation, 2 * settings.gradient_batch_size, lambda *_: check())


def _identity(settings: Settings, training: Training, data: TrainingData, began_repaired: bool) -> dict:
    """All that must be the same for a training that was stopped to go on."""
    return {
        "settings": settings.of(OF_TRAINING),
        "learning_rate": training.learning_rate,
        "text": data.text.key,
        "text_sha256": data.text.sha256,
        "windows": len(data.text),
        "steps": training.steps,
        "tokens_per_step": training.tokens_per_step(data.text.seq_len),
        "validation": data.validated_on,
        "began_repaired": began_repaired,
    }


def refuse_to_give_up(experiment: Experiment, settings: Settings, data: TrainingData | None, begins_repaired: bool) -> None:
    """Raises PruningError where what these settings ask for would take the place of a training that was stopped.

    `data` None: no training is asked for. A training that failed is not worth continuing; the best state of one that was
    cancelled is in model/.
    """
    before = earlier_training(experiment)
    if before is None or before["state"] not in (RUNNING, STOPPED) or before["points"][-1]["step"] == 0:
        return
    if data is None:
        differs = ["finetune"]
    else:
        now = _identity(settings, training_from_settings(settings, len(data.text)), data, begins_repaired)
        differs = [name for name, value in now["settings"].items() if before["settings"].get(name) != value]
        differs = differs or [_PARTS[name] for name in _PARTS if before.get(name) != now[name]]
    if differs:
        last = before["points"][-1]["step"]
        raise PruningError("training_given_up", step=last, steps=before["steps"], differs=", ".join(differs))


# What else makes a training another one, in words.
_PARTS = {
    "text_sha256": "the training text",
    "validation": "the validation text",
    "began_repaired": "the repair",
    "tokens_per_step": "the number of processes",
}


class _History:
    """What happens during a training, for recovery.json, page and terminal."""

    def __init__(
        self,
        experiment: Experiment,
        progress: Progress,
        settings: Settings,
        training: Training,
        data: TrainingData,
        baseline: Baseline,
    ):
        self.experiment, self.progress, self.total = experiment, progress, training.steps
        self.fixed = _identity(settings, training, data, baseline.began_repaired)
        self.perplexity_before = baseline.perplexity_before
        self.points: list[dict] = self._earlier_points()
        self._last_write, self._is_counting = 0.0, False

    @property
    def goes_on(self) -> bool:
        return bool(self.points)

    def add(self, point: Point) -> None:
        """Keeps a point and reports it; raises Cancelled when the person asked to stop."""
        if not self._is_counting:
            self.progress.count_from(point.step)  # steps before it were an earlier run's, which took its own time
            self._is_counting = True
        self.points = [p for p in self.points if p["step"] < point.step] + [asdict(point)]
        if point.perplexity is not None:
            loss = f", loss {point.loss:.3f}" if point.loss is not None else ""
            self.progress.say(f"    step {point.step} of {self.total}{loss}, perplexity {point.perplexity:.2f}")
        if point.perplexity is not None or time.time() - self._last_write >= _SECONDS_BETWEEN_WRITES:
            self.write(RUNNING)
        self.progress.advance(point.step, self.total)

    def write(self, state: str) -> None:
        self._last_write = time.time()
        write_history(self.experiment, self.content(state))

    def content(self, state: str) -> dict:
        """What recovery.json says."""
        measured = [p for p in self.points if p["perplexity"] is not None]
        best = min(measured, key=lambda p: p["perplexity"], default=None)
        after = next((p["perplexity"] for p in self.points if p["step"] == 0), None)
        lines = {"before": self.perplexity_before, "after": after}
        content = {"state": state} | self.fixed | {"lines": lines, "best_step": best and best["step"], "points": self.points}
        return {"format_version": FORMAT_VERSION} | content

    def _earlier_points(self) -> list[dict]:
        """The points of an incomplete training with the same settings."""
        before = earlier_training(self.experiment)
        if before is None or any(before.get(name) != value for name, value in self.fixed.items()):
            return []
        return before["points"]


def earlier_training(experiment: Experiment) -> dict | None:
    """What is known of a training that was not completed; None if there is none."""
    return _readable(experiment, RECOVERY_FOLDER, RECOVERY_FILE)


def is_trained(experiment: Experiment, settings: Settings) -> bool:
    """Whether the training that these settings ask for came to its end, and its model is kept."""
    done = _readable(experiment, RECOVERY_FILE) if experiment.is_recovered else None
    return done is not None and done.get("settings") == settings.of(OF_TRAINING)


def _readable(experiment: Experiment, *parts: str) -> dict | None:
    try:
        return experiment.read(FORMAT_VERSION, *parts)
    except PruningError:
        return None
