"""Exports of one size read by transformers 4, in the environment that `make test-transformers4` makes: tokens, logits, text.

this process: export -> transformers 5 -> reference.json        other environment: export -> transformers 4 -> the same

Everything is compared with what transformers 5 makes of the same folder. All cases share one process of the other environment.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from pruning.export.hugging_face import save_model
from pruning.export.streamed_cut import cut_streamed
from pruning.planning.checkpoint_header import CheckpointHeader
from tests.export import read_export
from tests.export.published_tokenizers import KINDS, TEXTS, write_tokenizer
from tests.export.shapes import CUTS, pruned
from tests.tiny_models import FAMILIES, SCALINGS, random_ids, tiny_model, with_rope

ROOT = Path(__file__).parents[2]
OTHER_PYTHON = ROOT / ".venv-transformers4" / "bin" / "python"
VOCABULARY, GREEDY = 300, 32
# Of Llama the first stays Llama; the head count that is left in the second goes out as Mistral.
MODELS = [(family, "default", cut) for family in FAMILIES for cut in ("uniform, MLP only", "uniform")]
MODELS += [("llama", rope_type, "uniform, MLP only") for rope_type in SCALINGS]
LENGTHS = (24, 100)  # tokens; the scaled models were trained for 32
TOLERANCE = 1e-3  # of any logit
pytestmark = pytest.mark.skipif(
    not OTHER_PYTHON.is_file(), reason="transformers 4 has an environment of its own: make test-transformers4"
)


def name_of(case: tuple) -> str:
    return "-".join(case).replace(" ", "_").replace(",", "")


def export(case: tuple, root: Path) -> Path:
    family, rope_type, cut = case
    options = (
        with_rope(rope_type) if rope_type != "default" else {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}
    )
    plan, model = pruned(family, CUTS[cut], vocab_size=VOCABULARY, **options)
    folder = root / name_of(case)
    if rope_type == "default":
        save_model(model, None, folder)
    else:  # the other way of writing
        source = root / "sources" / folder.name
        save_model(tiny_model(family, vocab_size=VOCABULARY, **options), None, source)
        cut_streamed(CheckpointHeader.read(source), plan, None, folder, torch.float32)
    return folder


def export_tokenizer(kind: str, root: Path) -> Path:
    source, folder = root / "sources" / kind, root / kind
    family = "qwen3" if kind == "Qwen" else "llama"
    _, model = pruned(family, CUTS["uniform, MLP only"], vocab_size=VOCABULARY)
    save_model(model, None, source)
    write_tokenizer(kind, source)
    save_model(model, AutoTokenizer.from_pretrained(source), folder)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[dict, dict]:
    """Name of a case -> what transformers 5 and transformers 4 make of it."""
    root = tmp_path_factory.mktemp("exports")
    windows = [random_ids(1, length, VOCABULARY)[0].tolist() for length in LENGTHS]
    asked = {"windows": windows, "greedy": GREEDY, "texts": TEXTS}
    asked["models"] = [str(export(case, root)) for case in MODELS]
    asked["tokenizers"] = [str(export_tokenizer(kind, root)) for kind in KINDS]
    (root / "asked.json").write_text(json.dumps(asked))
    command = [OTHER_PYTHON, read_export.__file__, root / "asked.json", root / "found.json"]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads((root / "found.json").read_text())
    assert answer["version"].startswith("4.")
    return read_export.read_exports(asked), answer["found"]


@pytest.mark.parametrize("case", MODELS, ids=name_of)
def test_the_same_logits_and_greedy_tokens(both, case):
    expected, found = (side[name_of(case)] for side in both)
    assert "error" not in found, found
    for one, other in zip(expected["logits"], found["logits"], strict=True):
        difference = (torch.tensor(one) - torch.tensor(other)).abs().max().item()
        print(f"{name_of(case)}: {len(one)} tokens, largest difference of logits {difference:.1e}")
        assert difference < TOLERANCE
    assert len(found["tokens"]) == GREEDY and found["tokens"] == expected["tokens"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_and_chat(both, kind):
    expected, found = (side[kind] for side in both)
    assert "error" not in expected
    assert found == expected
