"""What the road must lead to, worked out without the program: a greedy plan from the CSV, logits of the original model with
input columns zeroed, and logits of the exported folder in a process that knows nothing of this project.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from tests import fresh_python

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "demo_model"
_QUERY_WIDTH = 32  # input columns of o_proj per attention group: 4 query heads of 8

_LOAD_ELSEWHERE = """
import sys
import numpy as np, torch
from transformers import AutoModelForCausalLM

folder, ids, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
with torch.inference_mode():
    logits = model(torch.from_numpy(np.load(ids))).logits
np.savez(out, logits=logits.numpy(), parameters=sum(p.numel() for p in model.parameters()))
assert not [name for name in sys.modules if name.split(".")[0] in ("pruning", "analysis", "ui")]
"""


def greedy_plan(table: pd.DataFrame, ratio: float, spared: tuple[int, ...], parameters: int) -> list[dict]:
    """Groups that stay in each layer when the lowest-scored go, as long as the next one fits `ratio` of all parameters.

    The best group of each block is no candidate: it stays as the floor.
    """
    best = table.groupby(["layer_idx", "group_type"])["score"].idxmax()
    candidates = table.drop(index=best)
    candidates = candidates[~candidates["layer_idx"].isin(spared)].sort_values("score", kind="stable")
    gone = candidates[candidates["cost"].cumsum() <= ratio * parameters]
    kept = table.drop(index=gone.index)
    layers = [{"attention": [], "mlp": []} for _ in range(table["layer_idx"].max() + 1)]
    for (layer_idx, kind), groups in kept.groupby(["layer_idx", "group_type"])["group_idx"]:
        layers[layer_idx][kind] = sorted(groups.tolist())
    return layers


@torch.inference_mode()
def masked_logits(layers: list[dict], ids: np.ndarray) -> np.ndarray:
    """Logits of the original demo model, float32, with nothing read from the groups that the plan removes."""
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    for layer, kept in zip(model.model.layers, layers, strict=True):
        for group in set(range(4)) - set(kept["attention"]):
            layer.self_attn.o_proj.weight[:, group * _QUERY_WIDTH : (group + 1) * _QUERY_WIDTH] = 0
        for channel in set(range(384)) - set(kept["mlp"]):
            layer.mlp.down_proj.weight[:, channel] = 0
    return model(torch.from_numpy(ids)).logits.numpy()


def logits_elsewhere(folder: Path, ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Logits and parameters of a model folder, loaded by stock transformers in a fresh process and an empty module cache."""
    ids_file, out = folder.parent / "ids.npy", folder.parent / "found.npz"
    np.save(ids_file, ids)
    where = {"cwd": folder.parent, "PYTHONPATH": "", "HF_MODULES_CACHE": folder.parent / "modules"}
    done = fresh_python.run(_LOAD_ELSEWHERE, folder, ids_file, out, **where)
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        return found["logits"], int(found["parameters"])
