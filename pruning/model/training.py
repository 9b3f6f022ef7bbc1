"""Training after a cut, with transformers' Trainer: every weight, or small added matrices (LoRA) that are merged at the end.

    step -> loss -> every eval_steps: perplexity -> the best state is kept on disk -> at the end the model takes it

    loss = (1 - w) * cross-entropy + w * T^2 * KL(unpruned model || this model), both at temperature T in the second term

Stops when the loss is not finite or rises too far; a cancel ends the training and keeps the best so far. A folder holds the
last checkpoint, so that a killed training can continue. Several processes may train together (processes.py): each does
the same, on its share of every batch; the first writes. Knows nothing about experiments.
"""

import json
import math
import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import Cancelled, PruningError
from ..files import written_whole
from . import processes
from .runtime import is_out_of_memory
from .training_text import NOT_PREDICTED, TrainingText

LORA, FULL = "lora", "full"
DEFAULT_LEARNING_RATE = {LORA: 1e-4, FULL: 1e-5}
_STATE_FILE, _BEST, _CHECKPOINTS = "trained.safetensors", "best", "checkpoints"
_BEST_FILE, _LOSSES_FILE = "best.json", "losses.json"  # beside the best state
_LOSSES_SEEN = 5  # one batch alone may be hard


@dataclass(frozen=True)
class Training:
    """How to train. `warmup` is a share of the steps. `batch_size` is a process's."""

    steps: int
    method: str = LORA
    learning_rate: float = 1e-4
    batch_size: int = 8
    accumulation: int = 1
    warmup: float = 0.05
    eval_steps: int = 20
    max_rise: float = 2.0
    gradient_checkpointing: bool = False
    seed: int = 0
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()
    distill_weight: float = 0.0
    distill_temperature: float = 2.0

    def share_of_rate(self, step: int) -> float:
        """Of the learning rate, at a step counted from 0: a rise over the warm-up, from above 0, then half a cosine."""
        warmup = math.ceil(self.warmup * self.steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.steps - warmup, 1)))

    def tokens_per_step(self, seq_len: int) -> int:
        return self.batch_size * self.accumulation * processes.count() * seq_len


@dataclass(frozen=True)
class Point:
    """The training after a step. `loss` None: before the first one. `perplexity` None: not measured here, or not finite."""

    step: int
    loss: float | None
    learning_rate: float
    tokens_per_second: float
    perplexity: float | None = None


@dataclass(frozen=True)
class Trained:
    """The trained model, merged, in eval mode, at its best state; which that was; whether the training was cut short.

    `best_perplexity` chose the state, so it says less than one on other text.
    """

    model: PreTrainedModel
    best_step: int
    best_perplexity: float
    steps: int
    trained_parameters: int
    was_cancelled: bool


def train(
    model: PreTrainedModel,
    text: TrainingText,
    training: Training,
    folder: Path,
    evaluate: Callable[[nn.Module], float],
    on_point: Callable[[Point], None] = lambda point: None,
    teacher: PreTrainedModel | None = None,
    adapter_folder: Path | None = None,
    load_again: Callable[[], PreTrainedModel] | None = None,
) -> Trained | None:
    """Trains `model`, which changes, and gives it back at the state of lowest perplexity (as it came, if none was lower).

    `evaluate` gives the perplexity of a model on validation text: it chooses the state. `folder` keeps checkpoints and best
    state; a training that was stopped there continues. `on_point` may raise Cancelled. Raises PruningError when the loss is not
    finite or rises over `max_rise` times the first, and when memory runs out; the model then is as it came in its shape, not
    in its weights. None in all processes but the first. `load_again` gives `model` as it came; FSDP leaves it in parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype, trained = model.dtype, _made_trainable(model, training)
    watch = _Watch(training, folder / _BEST, evaluate, on_point)
    trainer = _DistillingTrainer(training, trained, text, folder / _CHECKPOINTS, watch, teacher)
    watch.tokens_per_step = training.tokens_per_step(text.input_ids.shape[1])
    was_cancelled = False
    try:
        checkpoint = processes.from_first(_last_checkpoint(folder) if processes.is_first() else None)
        if checkpoint is None:
            watch.start(trained)
        else:
            watch.go_on()
        if _step_of(checkpoint) < training.steps:
            trainer.train(resume_from_checkpoint=checkpoint)
            watch.finish(trained)
        else:  # the Trainer would take one step more
            _read_state(trained, Path(checkpoint))
            watch.measure(trained, training.steps)
    except Cancelled:
        if watch.best_step is None:  # nothing was measured yet
            raise
        was_cancelled = True
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise PruningError("training_memory") from error
        raise
    if not processes.is_first():
        return None
    if any(isinstance(parameter, DTensor) for parameter in trained.parameters()):
        trained = _made_trainable(load_again(), training)
    _read_state(trained, folder / _BEST)
    count = sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad)
    steps = max(trainer.state.global_step, watch.measured_step)
    merged = _merged(trained, adapter_folder).eval().requires_grad_(True)
    if training.gradient_checkpointing:
        _checkpoint_activations(merged, False)
    for parameter in merged.parameters():
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)  # not the whole model: rotary frequencies are float32 in every format
    return Trained(merged, watch.best_step, watch.best, steps, count, was_cancelled)


def seconds_per_step(
    model: PreTrainedModel, text: TrainingText, training: Training, folder: Path, teacher: PreTrainedModel | None = None
) -> float:
    """Seconds that a step of this training takes: the second of two, the first warms up. `model` changes; nothing is kept."""
    trained = _made_trainable(model, training)
    stopwatch = _Stopwatch()
    try:
        _DistillingTrainer(replace(training, steps=2), trained, text, folder, stopwatch, teacher).train()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise PruningError("training_memory") from error
        raise
    return stopwatch.seconds


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; what a kill left of others is removed. For the first process."""
    whole = []
    for checkpoint in (folder / _CHECKPOINTS).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not checkpoint.resolve().is_relative_to(folder.resolve()):
            continue  # a link: what it leads to is not ours, to read or to remove
        if _is_whole(checkpoint):
            whole.append(str(checkpoint))
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(whole, key=_step_of, default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether everything that a training continues from is there; the Trainer writes its own state last."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return all(any(checkpoint.glob(name)) for name in (_STATE_FILE, "optimizer*", SCHEDULER_NAME))


def _step_of(checkpoint: str | None) -> int:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def check_targets(model: PreTrainedModel, training: Training) -> list[str]:
    """Names of the matrices that get added ones, of those the model has; raises PruningError where it has none of them."""
    if training.method == FULL:
        return []
    present = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = [name for name in training.lora_targets if name in present]
    if not targets:
        names = ", ".join(training.lora_targets)
        raise PruningError("lora_targets", targets=names, choices=", ".join(sorted(present - {"lm_head"})))
    return targets


def trained_weights(model: PreTrainedModel, training: Training) -> set[str]:
    """Names of the weights that this training changes."""
    if training.method == FULL:
        return {name for name, _ in model.named_parameters()}
    targets = check_targets(model, training)
    return {f"{name}.weight" for name, _ in model.named_modules() if name.rpartition(".")[2] in targets}


def _made_trainable(model: PreTrainedModel, training: Training) -> nn.Module:
    """The model with added matrices, or itself in float32: steps of 1e-5 are lost to the rounding of bfloat16."""
    trained = model.float().requires_grad_(True) if training.method == FULL else _with_added_matrices(model, training)
    if training.gradient_checkpointing:
        _checkpoint_activations(trained, True)
    return trained


def _with_added_matrices(model: PreTrainedModel, training: Training) -> PeftModel:
    targets = check_targets(model, training)
    torch.manual_seed(training.seed)  # of the added matrices
    config = LoraConfig(
        r=training.lora_r,
        lora_alpha=training.lora_alpha,
        lora_dropout=training.lora_dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks by a name of transformers 4
        return get_peft_model(model, config)


def _checkpoint_activations(model: nn.Module, enable: bool) -> None:
    """Has each layer compute its activations again in the backward pass, or keep them; newer transformers rename this."""
    verb, arguments = ("enable", [{"use_reentrant": False}]) if enable else ("disable", [])
    newer, older = f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}"
    getattr(model, newer if hasattr(model, newer) else older)(*arguments)


def _merged(trained: nn.Module, adapter_folder: Path | None) -> PreTrainedModel:
    if not isinstance(trained, PeftModel):
        return trained
    if adapter_folder is not None:
        base = Path(trained.config.name_or_path).name  # without where it lies on this machine
        trained.config.name_or_path = trained.get_base_model().name_or_path = base  # the card names both
        for config in trained.peft_config.values():
            config.base_model_name_or_path = base
        trained.save_pretrained(adapter_folder, save_embedding_layers=False)  # "auto" asks the hub
    return trained.merge_and_unload()


# what is trained, on disk ---------------------------------------------------------------------------------------------


def _write_state(model: nn.Module, folder: Path) -> None:
    """All that is trained; written whole, so that what is killed leaves the state before."""
    state = {name: _whole(p.detach()).cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    if not processes.is_first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / _STATE_FILE, sum(value.nbytes for value in state.values())) as part:
        save_file(state, part)


@torch.no_grad()
def _read_state(model: nn.Module, folder: Path) -> None:
    parameters = dict(model.named_parameters())
    for name, value in load_file(folder / _STATE_FILE).items():
        parameter = parameters[name]
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter of which each process may hold a part (FSDP)."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


# the trainer ----------------------------------------------------------------------------------------------------------


class _DistillingTrainer(Trainer):
    """Trainer with the loss above; its checkpoints hold what is trained, not the whole model."""

    def __init__(self, training: Training, model, text: TrainingText, folder: Path, watch: "_Watch", teacher):
        device = next(model.parameters()).device
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=training.batch_size,
            gradient_accumulation_steps=training.accumulation,
            learning_rate=training.learning_rate,
            max_steps=training.steps,
            bf16=device.type == "cuda",
            use_cpu=device.type == "cpu",
            ddp_backend="gloo" if device.type == "cpu" and processes.count() > 1 else None,
            ddp_find_unused_parameters=False,
            seed=training.seed,
            save_strategy="steps",
            save_steps=training.eval_steps,
            save_total_limit=1,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
        )
        _stay_on(arguments, device)
        super().__init__(model, arguments, train_dataset=text, callbacks=[watch])
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the predictions of the whole step
        self.training, self.watch, self.teacher = training, watch, teacher

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ids, targets = inputs["input_ids"], inputs["labels"][:, 1:]
        predicted = targets != NOT_PREDICTED
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1][predicted].float()  # [predictions, vocabulary]
        loss = F.cross_entropy(logits, targets[predicted], reduction="sum")
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher(input_ids=ids, use_cache=False).logits[:, :-1][predicted].float()
            weight, temperature = self.training.distill_weight, self.training.distill_temperature
            loss = (1 - weight) * loss + weight * _divergence(logits, wanted, temperature)
        loss = loss / (predicted.sum() if num_items_in_batch is None else num_items_in_batch)
        self.watch.add_loss(processes.summed(loss.detach().clone()).item())
        # The Trainer averages gradients over processes; each has only its part of the sum.
        return loss * self.accelerator.num_processes

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: self.training.share_of_rate(step))
        return self.lr_scheduler

    def save_model(self, output_dir=None, _internal_call=False):
        _write_state(self.model, Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        _read_state(self.model, Path(resume_from_checkpoint))


def _stay_on(arguments: TrainingArguments, device: torch.device) -> None:
    """Has a Trainer compute on the GPU where the model is, and on no other one.

    Started plainly it takes cuda:0, whatever the model is on, and spreads each batch over all GPUs (nn.DataParallel).
    """
    if device.type != "cuda" or processes.count() > 1:  # of several processes each has its own
        return
    _ = arguments.device  # sets up, once: a cached property, which is replaced here
    vars(arguments)["_setup_devices"], arguments._n_gpu = device, 1
    torch.cuda.set_device(device)  # accelerate moves batches to "cuda", which is the current one


def _divergence(logits: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(wanted || logits) at temperature T, summed over predictions (Hinton 1503.02531)."""
    ours, theirs = (F.log_softmax(each / temperature, dim=-1) for each in (logits, wanted))
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="sum")


class _Stopwatch(TrainerCallback):
    """Times the last step, and has nothing saved."""

    seconds = 0.0

    def add_loss(self, loss: float) -> None:
        pass

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self._begun
        control.should_save = False
        return control


class _Watch(TrainerCallback):
    """Sees every step: reports it, measures perplexity, keeps the best state, and stops a training that diverges."""

    def __init__(self, training: Training, folder: Path, evaluate, on_point):
        self.training, self.folder, self.evaluate, self.on_point = training, folder, evaluate, on_point
        self.tokens_per_step = 0
        self.best, self.best_step = math.inf, None
        self.measured_step = -1
        self._loss, self._losses = 0.0, deque(maxlen=_LOSSES_SEEN)
        self._first_loss: float | None = None
        self._last: Point | None = None  # None: the training that continues was complete already
        known = processes.from_first(_read_json(folder / _BEST_FILE))
        if known is not None:
            self.best, self.best_step = known["perplexity"], known["step"]

    def add_loss(self, loss: float) -> None:
        """A part of the step's loss: that of one batch, or of one of those added up."""
        self._loss += loss

    def go_on(self) -> None:
        """A training that continues is compared with its own first loss, not with the first loss after the stop."""
        known = processes.from_first(_read_json(self.folder / _LOSSES_FILE))
        if known is not None:
            self._first_loss = known["first"]
            self._losses.extend(known["last"])

    def start(self, model: nn.Module) -> None:
        """The model as it came is the state to beat."""
        perplexity = self.measure(model, 0)
        self._tell(Point(0, None, 0.0, 0.0, _if_finite(perplexity)))

    def finish(self, model: nn.Module) -> None:
        """The last state is measured too."""
        if self._last is not None and self.measured_step != self._last.step:
            perplexity = self.measure(model, self._last.step)
            self._tell(replace(self._last, perplexity=_if_finite(perplexity)))

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun, self._loss = time.perf_counter(), 0.0
        self._learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        step, loss = state.global_step, self._loss
        speed = self.tokens_per_step / max(time.perf_counter() - self._begun, 1e-9)
        self._refuse_if_astray(step, loss)
        is_measured = step % self.training.eval_steps == 0  # and saved, as a checkpoint
        perplexity = _if_finite(self.measure(model, step)) if is_measured else None
        if is_measured and processes.is_first():
            _write_json(self.folder / _LOSSES_FILE, {"first": self._first_loss, "last": list(self._losses)})
        self._last = Point(step, loss, self._learning_rate, speed, perplexity)
        self._tell(self._last)

    def _tell(self, point: Point) -> None:
        """Tells of a point; where that ends the training, it ends in all processes."""
        processes.together(lambda: self.on_point(point), otherwise=Cancelled)

    def _refuse_if_astray(self, step: int, loss: float) -> None:
        rate = self.training.learning_rate
        if not math.isfinite(loss):
            raise PruningError("training_not_finite", step=step, learning_rate=rate)
        self._losses.append(loss)
        self._first_loss = loss if self._first_loss is None else self._first_loss
        mean = sum(self._losses) / len(self._losses)
        if mean > self.training.max_rise * self._first_loss:
            raise PruningError("training_diverged", step=step, first=self._first_loss, loss=mean, learning_rate=rate)

    def measure(self, model: nn.Module, step: int) -> float:
        """Perplexity at this step; the state is kept when it is the best so far."""
        model.eval()
        perplexity = processes.from_first(self.evaluate(model))
        model.train()
        self.measured_step = step
        if self.best_step is None or perplexity < self.best:
            self.best, self.best_step = perplexity, step
            _write_state(model, self.folder)
            if processes.is_first():
                _write_json(self.folder / _BEST_FILE, {"step": step, "perplexity": perplexity})
        return perplexity


def _write_json(path: Path, content: dict) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content))
    part.replace(path)


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _if_finite(perplexity: float) -> float | None:
    return perplexity if math.isfinite(perplexity) else None
