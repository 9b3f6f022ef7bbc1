"""An exported .bin or .gguf, opened again to be checked: the model that its tensors give, and what llama.cpp makes of it.

model-Q8_0.gguf --gguf--> float32 tensors, rows in the checkpoint's order --compared with model/--> a model of transformers
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ..planning.checkpoint_header import CheckpointHeader
from .bin_file import build_model, load_bin
from .gguf_file import read_gguf
from .stored_tensors import stored_tensors

_PROMPT, _CONTINUED = 8, 32  # tokens
# Largest error of rounding, relative to the largest value of the row: half a step; of Q8_0 also of its scale, which is F16.
_ROUNDING = {"F32": 0.0, "BF16": 2.0**-8, "F16": 2.0**-11, "Q8_0": 1 / 254 + 2.0**-11}
_SUBNORMAL = 2.0**-24  # half a step of F16 near zero


@dataclass(frozen=True)
class OpenedFile:
    """`exact`: every value of the file is the value in the model folder; `for_llama_cpp`: it computes what it can compare."""

    path: str
    model: PreTrainedModel
    exact: bool
    for_llama_cpp: bool = False

    def continued(self, window: torch.Tensor) -> dict:
        """Greedy continuation by llama.cpp beside that of transformers; empty where it is not `for_llama_cpp`, and where
        llama-cpp-python is not installed.

        {"tokens": 32, "equal": tokens until the first difference, "gap": difference of the two best logits there}
        """
        if not self.for_llama_cpp or importlib.util.find_spec("llama_cpp") is None:
            return {}
        limit = self.model.config.max_position_embeddings
        prompt = window[: max(min(_PROMPT, limit - _CONTINUED), 1)]
        length = min(_CONTINUED, limit - len(prompt))
        expected, found = greedy(self.model, prompt, length), greedy_in_llama_cpp(self.path, prompt.tolist(), length)
        equal = next((i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b), length)
        found = {"tokens": length, "equal": equal}
        if equal < length:
            found["gap"] = self._gap(torch.cat([prompt, torch.tensor(expected[:equal], dtype=prompt.dtype)]))
        return {"llama_cpp": found}

    def _gap(self, ids: torch.Tensor) -> float:
        """How much more likely the most likely next token is than the second, in logits."""
        with torch.inference_mode():
            best = self.model(ids[None].to(self.model.device), use_cache=False).logits[0, -1].topk(2).values
        return (best[0] - best[1]).item()


def open_bin(path: str, folder: str) -> OpenedFile:
    """What `pruning.load_bin` gives of the file alone, in float32."""
    return OpenedFile(path, load_bin(path).to(torch.float32), exact=True)


def open_gguf(path: str, folder: str) -> OpenedFile:
    """A model of the tensors of a GGUF file; ends the process when one is not the folder's tensor, rounded to its type."""
    header = CheckpointHeader.read(folder)
    weights, types, exact = {}, set(), True
    with stored_tensors(header) as stored:
        for tensor, values, written in read_gguf(Path(path), header):
            source = torch.zeros(tensor.shape) if tensor.source is None else stored[tensor.source].to(torch.float32)
            error = np.abs(values - source.numpy())
            largest = np.abs(source.numpy()).max(axis=-1, keepdims=True)
            if not (error <= _ROUNDING[written] * largest + (_SUBNORMAL if _ROUNDING[written] else 0)).all():
                sys.exit(f"{tensor.name} is not {tensor.source} as {written}")
            exact &= not error.any()
            types.add(written)
            if tensor.source is not None:
                weights[tensor.source] = torch.tensor(values)
        unread = header.shape.tensor_shapes().keys() - weights.keys()  # norms in front of blocks that are gone
        weights |= {name: stored[name].to(torch.float32) for name in unread}
    return OpenedFile(path, build_model(header.config, weights), bool(exact), for_llama_cpp=types == {"F32"})


def greedy(model: PreTrainedModel, prompt: torch.Tensor, length: int) -> list[int]:
    """The most likely tokens after the prompt, one after the other."""
    ids = prompt[None].to(model.device)
    with torch.inference_mode():
        for _ in range(length):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(prompt) :].tolist()


def greedy_in_llama_cpp(path: str, prompt: list[int], length: int) -> list[int]:
    """The same by llama.cpp, token ids in and out."""
    model = open_in_llama_cpp(path, len(prompt) + length)
    tokens, given = [], prompt
    for _ in range(length):
        model.eval(given)
        given = [int(np.argmax(model.eval_logits[-1]))]
        tokens += given
    return tokens


def open_in_llama_cpp(path: str, tokens: int):
    """A `llama_cpp.Llama` for so many tokens that keeps all logits; it computes in float32, its cache too."""
    import llama_cpp

    float32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        model_path=path, n_ctx=tokens, n_gpu_layers=0, logits_all=True, type_k=float32, type_v=float32, verbose=False
    )
