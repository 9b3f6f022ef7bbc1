"""Is the export what the plan leaves of the files it was made from? They are read a second time, on a way of their own.

    original files --tensor by tensor, what stays--> the export's tensors, but for those that were repaired or trained
                   --one matrix in memory at a time, what goes zeroed--> logits --> the export's logits

A model in memory does not show what loading it lost. Here every stored tensor counts, whatever the config says about it: an
output head that is in the files is the head.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..model.architecture import PRUNED_MODELS
from ..planning.checkpoint_header import EMBEDDINGS, ROTARY_BUFFER, TIED_HEAD, CheckpointHeader
from ..planning.families import PRUNED_PREFIX
from ..planning.kept_indices import TensorCut, input_columns, tensor_cut
from ..planning.plan import PruningPlan
from ..planning.shape import ATTENTION, MLP

_OUTPUT_PROJECTIONS = {"self_attn.o_proj.weight": ATTENTION, "mlp.down_proj.weight": MLP}
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Original:
    """The folder that an export was made from, the plan that cut it (None: nothing was), and which tensors of the export,
    by name, were changed after that by a repair or a training. `through` is the number format it was computed in.
    """

    folder: Path
    plan: PruningPlan | None = None
    changed: frozenset[str] = field(default_factory=frozenset)
    through: torch.dtype = torch.float32

    def write(self, path: Path) -> None:
        """As a file for another process."""
        plan = None if self.plan is None else self.plan.to_json()
        content = {"format_version": _FORMAT_VERSION, "folder": str(self.folder.resolve()), "plan": plan}
        content |= {"changed": sorted(self.changed), "through": str(self.through).removeprefix("torch.")}
        path.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class OriginalFiles:
    """An Original whose files are open."""

    header: CheckpointHeader
    plan: PruningPlan | None
    changed: frozenset[str]
    through: torch.dtype
    stored: dict[str, Callable[[], torch.Tensor]]

    @classmethod
    def read(cls, path: str | Path) -> "OriginalFiles":
        """What `Original.write` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        header = CheckpointHeader.read(content["folder"])
        plan = content["plan"] and PruningPlan.from_json(content["plan"], header.shape)
        return cls(header, plan, frozenset(content["changed"]), getattr(torch, content["through"]), stored(header.weight_files))

    def rounded(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """As an export of `dtype` holds it."""
        return tensor.to(self.through).to(dtype)

    def fault(self, export: CheckpointHeader, dtype: torch.dtype) -> str | None:
        """The first tensor of the export that is not what the plan leaves of the original; None where all are."""
        found = stored(export.weight_files)
        head = EMBEDDINGS if TIED_HEAD not in found else TIED_HEAD
        seen = set()
        for name in self.stored:
            rule = tensor_cut(name, self.plan) if self.plan else TensorCut(name)
            if rule is None or name.endswith(ROTARY_BUFFER):
                continue
            its_name = head if rule.name == TIED_HEAD else rule.name
            seen.add(its_name)
            if its_name not in found:
                return f"{rule.name} is missing"
            expected = self.stored[name]()
            if rule.kept is not None:
                expected = expected.index_select(rule.dim, torch.from_numpy(rule.kept))
            given = found[its_name]()
            if given.shape != expected.shape:
                return f"{rule.name} has the shape {list(given.shape)}, not {list(expected.shape)}"
            if its_name not in self.changed and not torch.equal(given, self.rounded(expected, dtype)):
                return f"{rule.name} is not what is left of {name}"
        more = found.keys() - seen - {TIED_HEAD}
        return f"{min(more)} is in no original file" if more else None

    def logits(self, windows: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
        """What the original says of `windows` ([samples, seq_len] int64) with all that the plan removes zeroed, as an export of
        `dtype` would compute it: float32 [samples, seq_len, vocabulary]. One matrix is in memory at a time.
        """
        model = self._without_weights()
        for module_name, module in model.named_modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
            names = {name: f"{module_name}.{name}" for name, _ in module.named_parameters(recurse=False)}
            if names:
                _load_while_it_computes(module, {name: self._weight(full, dtype, device) for name, full in names.items()})
        with torch.inference_mode():
            return model.eval()(windows.to(device), use_cache=False).logits.float().cpu()

    def _without_weights(self) -> PreTrainedModel:
        header = self.header
        own = header.config["model_type"].startswith(PRUNED_PREFIX)
        if own:
            model_class = PRUNED_MODELS[header.config["model_type"].removeprefix(PRUNED_PREFIX)]
            config = model_class.config_class.from_dict(header.config)
        else:
            config = AutoConfig.from_pretrained(header.folder, trust_remote_code=False)
        config.tie_word_embeddings = False  # each is read from its own tensor
        with init_empty_weights(include_buffers=False):
            return model_class(config) if own else AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    def _weight(self, name: str, dtype: torch.dtype, device: str) -> Callable[[], torch.Tensor]:
        def load() -> torch.Tensor:
            source = EMBEDDINGS if name == TIED_HEAD and name not in self.stored else name
            weight = self.rounded(self.stored[source](), dtype).to(device, torch.float32)
            return weight if self.plan is None else _zeroed(weight, name, self.plan)

        return load


def stored(files: tuple[Path, ...]) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> how to read the tensor, for each that these weight files hold."""
    found: dict[str, Callable[[], torch.Tensor]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            opened = safe_open(file, "pt")
            found |= {name: (lambda name=name, opened=opened: opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            found |= {name: (lambda tensor=tensor: tensor) for name, tensor in tensors.items()}
    return found


def _zeroed(weight: torch.Tensor, name: str, plan: PruningPlan) -> torch.Tensor:
    """A weight without the columns that what is removed would enter by."""
    _, _, rest = name.partition("model.layers.")
    layer_idx, _, inner = rest.partition(".")
    if (group_type := _OUTPUT_PROJECTIONS.get(inner)) is None:
        return weight
    gone = np.setdiff1d(np.arange(weight.shape[1]), input_columns(plan, int(layer_idx), group_type))
    return weight.clone().index_fill_(1, torch.from_numpy(gone).to(weight.device), 0.0)


def _load_while_it_computes(module: nn.Module, weights: dict[str, Callable[[], torch.Tensor]]) -> None:
    empty = {name: module._parameters[name] for name in weights}

    def fill(*_) -> None:
        for name, load in weights.items():
            module._parameters[name] = nn.Parameter(load(), requires_grad=False)

    def drop(*_) -> None:
        module._parameters.update(empty)

    module.register_forward_pre_hook(fill)
    module.register_forward_hook(drop)
