"""What a training after a cut takes, from sizes and settings alone, so that a person knows before starting.

    memory = weights + what is trained (gradients, two moments of Adam, its float32 copy) + activations of a batch + teacher

LoRA adds r * (inputs + outputs) parameters to each of its matrices. Time is measured (model/training.py), not computed.
"""

import math
from dataclasses import dataclass

from ..methods import BACKWARD
from ..settings import Settings, parts_of
from .memory import activation_bytes, kept_for_backward, weight_bytes
from .shape import ModelShape

_CAUTIOUS, _STANDARD = 0.2, 0.3  # ratios up to which the lighter recipes do
RECIPES = {
    "light": {"finetune_method": "lora", "finetune_samples": 500, "lora_r": 8, "lora_alpha": 16, "finetune_lr": None},
    "standard": {"finetune_method": "lora", "finetune_samples": 1000, "lora_r": 16, "lora_alpha": 32, "finetune_lr": None},
    "strong": {"finetune_method": "full", "finetune_samples": 2000, "finetune_lr": None},
}
DEMO_LORA_LEARNING_RATE = 1e-3  # small matrices want larger steps

_FLOAT32 = 4
_MOMENTS_AND_GRADIENT = 3 * _FLOAT32
_LOGITS_AGAIN = 3  # float32 copies for the predicted positions, their log-softmax and its gradient
_LOGITS_OF_TEACHER = 4


@dataclass(frozen=True)
class RecoveryCost:
    """Figures of one training. Bytes are peaks, of each process; tokens count every epoch."""

    trained_parameters: int
    parameters: int
    steps: int
    tokens: int
    weight_bytes: int
    training_bytes: int
    activation_bytes: int
    teacher_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.training_bytes + self.activation_bytes + self.teacher_bytes


def recovery_cost(
    shape: ModelShape,
    source: ModelShape,
    settings: Settings,
    windows: int,
    bytes_per_parameter: int = _FLOAT32,
    processes: int = 1,
) -> RecoveryCost:
    """What training the cut model of `shape` on `windows` windows costs; `source` is the model before the cut."""
    full = settings.finetune_method == "full"
    trained = shape.parameters if full else lora_parameters(shape, settings.lora_r, parts_of(settings.lora_targets))
    seq_len = settings.finetune_seq_len or settings.seq_len
    steps, tokens = total_steps(settings, windows, processes), settings.finetune_batch_size * seq_len
    of_teacher = source.vocab_size * tokens * _LOGITS_OF_TEACHER * _FLOAT32 + weight_bytes(source, bytes_per_parameter)
    return RecoveryCost(
        trained_parameters=trained,
        parameters=shape.parameters,
        steps=steps,
        tokens=steps * tokens * settings.finetune_accumulation * processes,
        weight_bytes=weight_bytes(shape, _FLOAT32 if full else bytes_per_parameter),
        training_bytes=trained * (_MOMENTS_AND_GRADIENT + (0 if full else _FLOAT32)),
        activation_bytes=_activations(shape, settings, bytes_per_parameter, tokens),
        teacher_bytes=of_teacher if settings.distill_weight else 0,
    )


def total_steps(settings: Settings, windows: int, processes: int = 1) -> int:
    """Steps of a training: as many as asked for, or as its epochs take."""
    batches = math.ceil(windows / (settings.finetune_batch_size * processes))
    per_epoch = math.ceil(batches / settings.finetune_accumulation)
    return settings.finetune_steps or math.ceil(settings.finetune_epochs * per_epoch)


def lora_parameters(shape: ModelShape, rank: int, targets: tuple[str, ...]) -> int:
    """Parameters that LoRA adds to the matrices of these names."""
    matrices = [
        size
        for layer in shape.layers
        for name, size in layer.tensor_shapes().items()
        if name.endswith(".weight") and name.split(".")[-2] in targets
    ]
    return rank * sum(map(sum, matrices))


def _activations(shape: ModelShape, settings: Settings, bytes_per_parameter: int, tokens: int) -> int:
    """Those of a backward pass; with checkpointing, hidden states between layers and one layer at a time."""
    logits = tokens * shape.vocab_size * _LOGITS_AGAIN * _FLOAT32
    whole = activation_bytes(shape, BACKWARD, bytes_per_parameter, tokens)
    if not settings.gradient_checkpointing:
        return whole + logits
    of_logits = tokens * 4 * shape.vocab_size * _FLOAT32
    largest = max(kept_for_backward(layer, weights_too=True) for layer in shape.layers)
    between = tokens * (shape.num_layers * shape.hidden_size + largest) * bytes_per_parameter
    return of_logits + between + logits


def recipe_for(ratio: float) -> str:
    """The recipe advised for a cut of this share of all parameters (docs/methods.md section 7)."""
    return "light" if ratio < _CAUTIOUS else "standard" if ratio <= _STANDARD else "strong"


def recipe(name: str, is_demo: bool) -> dict:
    """The settings of a recipe; one epoch, and a learning rate that the model's size can take."""
    settings = RECIPES[name] | {"finetune": True, "finetune_steps": 0, "finetune_epochs": 1.0}
    if is_demo and settings["finetune_method"] == "lora":
        settings["finetune_lr"] = DEMO_LORA_LEARNING_RATE
    return settings
