"""Is the export the model? A fresh process loads it as any user would, and compares logits with the ones here.

    this process: model -> float32 logits -> reference file        fresh process: export -> float32 logits -> differences
                                                                    original files, masked by the plan -----^   (original.py)

Of a folder the fresh process knows none of this project's classes: it finds the code of layers that differ in size in it.
How a .bin or .gguf is opened: opened_file.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import PruningError
from ..planning.checkpoint_header import CheckpointHeader, read_config
from ..planning.families import PRUNED_PREFIX
from .formats import FORMATS, HF
from .original import Original, OriginalFiles
from .own_code import foreign_code

TOLERANCE = 1e-4  # largest difference of any logit
_TIMEOUT = 3600  # seconds; reading tens of gigabytes from a slow disk takes its time
_SAMPLE_TEXT = "def area(width, height):\n    return width * height  # 面积 ü\n"
_PROJECT = Path(__file__).resolve().parents[2]


def check_reload(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    windows: torch.Tensor,
    original: Original | None = None,
) -> dict[str, float]:
    """{"max_abs_diff": largest difference of any logit, "top1": share of positions with the same most likely token}.

    `windows` are token ids, [samples, seq_len] int64. Both sides compute in float32; the model here first takes the
    rounding of the folder's dtype. With `original` each tensor that was not changed on purpose is compared with the files it
    comes from too, and where none was, so are logits: {"original_diff": difference, as a share of the largest logit}.
    Raises PruningError when the folder does not load, a difference is 1e-4 or more, or a tensor is another one.
    """
    result = _compared(Path(folder), Path(folder), model, tokenizer, windows, HF, original)
    if not result["max_abs_diff"] < TOLERANCE:  # written so that NaN fails
        raise PruningError("export_mismatch", difference=result["max_abs_diff"])
    if (fault := result.pop("original_fault", None)) is not None:
        raise PruningError("export_not_original", fault=fault)
    if not result.get("original_diff", 0.0) < TOLERANCE:
        raise PruningError("export_not_original", fault=f"logits differ by {result['original_diff']:.2e} of the largest")
    return result


def check_file(path: Path, name: str, folder: Path, model: PreTrainedModel, windows: torch.Tensor) -> dict:
    """As `check_reload`, of a file of the format `name` that was made from the model folder `folder`.

    Every tensor of a GGUF file is compared with the folder's. Where llama.cpp is installed, so are its greedy tokens:
    {"llama_cpp": {"tokens": 32, "equal": tokens until the first difference}}; they may differ only where the two best logits
    are closer than 1e-4. Rounding to F16, BF16 or Q8_0 may change logits by any amount, which is reported; everything else
    must agree to 1e-4.
    """
    result = _compared(Path(path), Path(folder), model, None, windows, name)
    if result.pop("exact") and not result["max_abs_diff"] < TOLERANCE:
        raise PruningError("export_mismatch", difference=result["max_abs_diff"])
    found = result.get("llama_cpp", {})
    if not found.pop("gap", 0.0) < TOLERANCE:
        raise PruningError("export_llama_cpp", **found)
    return result


def _compared(
    path: Path, folder: Path, model, tokenizer, windows: torch.Tensor, name: str, original: Original | None = None
) -> dict:
    with tempfile.TemporaryDirectory(prefix="reload-check-") as temporary:
        reference = Path(temporary) / "reference.safetensors"
        try:
            _write_reference(reference, folder, model, tokenizer, windows)
            source = [name, folder.resolve()]
            if name == HF:
                source = [name, reference.with_name("original.json")] if original else []
            if original:
                original.write(source[1])
        except (OSError, SafetensorError) as error:
            raise PruningError("disk_write", path=reference, reason=error) from error
        return _in_fresh_process(path.resolve(), reference, str(model.device), *source)


def _write_reference(file: Path, folder: Path, model, tokenizer, windows: torch.Tensor) -> None:
    dtype = getattr(torch, read_config(folder)["dtype"])
    with _as_saved(model, dtype):
        logits = _logits(model, windows)
    tensors = {"windows": windows.cpu().contiguous(), "logits": logits}
    if tokenizer is not None:
        tensors["token_ids"] = torch.tensor(tokenizer(_SAMPLE_TEXT)["input_ids"])
    save_file(tensors, file)


@contextmanager
def _as_saved(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Within the block `model` computes in float32, with the values that a file of `dtype` holds."""
    training, held = model.training, []
    try:
        model.eval()
        for parameter in model.parameters():
            original, rounded = parameter.data, parameter.data.to(dtype)
            lossless = torch.equal(rounded.to(original.dtype), original)
            if lossless and original.dtype == torch.float32:
                continue
            # What converting brings back is not kept: a bfloat16 model then needs no second copy of itself.
            held.append((parameter, original.dtype, None if lossless else original))
            parameter.data = rounded.to(torch.float32)
            del original, rounded
        yield
    finally:
        for parameter, original_dtype, original in held:
            parameter.data = parameter.data.to(original_dtype) if original is None else original
        model.train(training)


def _in_fresh_process(path: Path, reference: Path, device: str, *source: str | Path) -> dict:
    """What the fresh process prints; raises PruningError with the last line of its complaint when it fails."""
    modules_cache = reference.parent / "modules"  # empty, so that the code in the folder is the code that runs
    environment = os.environ | {"HF_MODULES_CACHE": str(modules_cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pruning.export.reload_check", *map(str, (path, reference, device, *source))]
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PruningError("export_reload", reason=error) from error
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        complaint = done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"]
        raise PruningError("export_reload", reason=complaint[-1]) from error


def compare(path: str, reference: str, device: str, name: str = HF, source: str = "") -> dict:
    """The fresh process's part: loads `path` and compares; ends the process with a sentence when it does not load well."""
    tensors = load_file(reference)
    if name == HF:
        logits = _logits(_opened_folder(path, tensors, device), tensors["windows"])
        result = _differences(logits, tensors["logits"])
        return result | (_beside_original(path, source, logits, tensors["windows"], device) if source else {})
    opened = FORMATS[name].open(path, source)
    logits = _logits(opened.model.to(device), tensors["windows"])
    result = _differences(logits, tensors["logits"]) | {"exact": opened.exact}
    return result | opened.continued(tensors["windows"][0])


def _logits(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([model(window[None].to(model.device), use_cache=False).logits[0].cpu() for window in windows])


def _differences(logits: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    # torch's maximum, not Python's: that one loses a NaN.
    difference = torch.stack([(a - b).abs().max() for a, b in zip(logits, expected, strict=True)]).max()
    agreeing = (logits.argmax(-1) == expected.argmax(-1)).double().mean()
    return {"max_abs_diff": difference.item(), "top1": agreeing.item()}


def _beside_original(folder: str, original_file: str, logits: torch.Tensor, windows: torch.Tensor, device: str) -> dict:
    """The first tensor that is not the original's, or how far logits are from those of the original files."""
    original, export = OriginalFiles.read(original_file), CheckpointHeader.read(folder)
    dtype = getattr(torch, export.config["dtype"])
    if (fault := original.fault(export, dtype)) is not None:
        return {"original_fault": fault}
    if original.changed:
        return {}
    expected = original.logits(windows, dtype, device)
    return {"original_diff": _differences(logits, expected)["max_abs_diff"] / max(expected.abs().max().item(), 1.0)}


def _opened_folder(folder: str, tensors: dict[str, torch.Tensor], device: str) -> PreTrainedModel:
    if (found := foreign_code(Path(folder))) is not None:
        sys.exit(f"it holds code that is not of this project: {found}")
    own_code = read_config(Path(folder))["model_type"].startswith(PRUNED_PREFIX)  # whose files are ours, byte for byte
    if "token_ids" in tensors:
        # Of our own classes the config is read too, which only they can.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=own_code)
        if tokenizer(_SAMPLE_TEXT)["input_ids"] != tensors["token_ids"].tolist():
            sys.exit("the tokenizer gives other tokens")
    return _load(folder, own_code, device)


def _load(folder: str, own_code: bool, device: str) -> PreTrainedModel:
    pair: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=own_code, output_loading_info=True
    )
    model, info = pair
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[fault]:
            sys.exit(f"{fault.replace('_', ' ')}: {sorted(info[fault])[:5]}")
    return model.to(device).eval()


if __name__ == "__main__":
    print(json.dumps(compare(*sys.argv[1:])))
