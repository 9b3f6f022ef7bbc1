"""Every format brings back every shape of every family: written here, opened and compared in a fresh process.

One process looks at all formats, families and shapes; its cache of model code is empty. Formats that cannot hold a shape
refuse it, and say what to choose.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pruning.errors import PruningError
from pruning.export.formats import FORMATS, HF
from pruning.export.hugging_face import save_model
from pruning.export.reload_check import _write_reference
from pruning.planning.checkpoint_header import CheckpointHeader
from tests import fresh_python
from tests.export.shapes import CUTS, pruned
from tests.export.test_gguf import with_byte_fallback
from tests.tiny_models import FAMILIES, random_ids

ROOT = Path(__file__).parents[2]
NAMES = (HF, "bin", "gguf-f32")
COMPARE = """
    import json, sys
    from pruning.export.reload_check import compare
    print(json.dumps([compare(*case) for case in json.load(open(sys.argv[1]))]))
"""


@dataclass(frozen=True)
class Found:
    """Of one format: what was compared, and the families of which a shape was refused, with the sentence."""

    results: list[dict]
    refused: list[tuple[str, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Found]:
    """All formats of all shapes of all families, compared in one process."""
    tmp_path, cases, refused = tmp_path_factory.mktemp("round_trips"), [], []
    for family in FAMILIES:
        for number, removed in enumerate(CUTS.values()):
            _, model = pruned(family, removed, vocab_size=300)
            folder = tmp_path / f"{family}-{number}"
            save_model(model, None, folder)
            reference = tmp_path / f"{family}-{number}.safetensors"
            _write_reference(reference, folder, model, None, random_ids(4, 16, 300))
            for name in NAMES:
                try:
                    FORMATS[name].refuse(CheckpointHeader.read(folder))
                except PruningError as error:
                    refused.append((name, family, str(error)))
                    continue
                source = [] if name == HF else [str(folder)]
                cases.append([str(write(name, folder)), str(reference), "cpu", name, *source])
    results = list(zip([case[3] for case in cases], compared_elsewhere(cases, tmp_path), strict=True))
    return {
        name: Found([result for n, result in results if n == name], [(family, why) for n, family, why in refused if n == name])
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_shape_of_every_family_comes_back_in_a_fresh_process(found, name):
    results, refused = found[name].results, found[name].refused
    assert len(results) + len(refused) == len(CUTS) * len(FAMILIES)
    assert max(result["max_abs_diff"] for result in results) < 1e-4
    assert all(result["top1"] == 1.0 for result in results)
    assert {family for family, _ in refused} == ({"qwen3"} if name == "gguf-f32" else set())
    assert all("Choose the Hugging Face folder or pytorch_model.bin" in why for _, why in refused)


def write(name: str, folder: Path) -> Path:
    made = FORMATS[name]
    if not made.is_single_file:
        return folder
    path = folder.with_suffix(Path(made.file).suffix)
    made.write(folder, with_byte_fallback(), path, made.kind)
    return path


def compared_elsewhere(cases: list, tmp_path: Path) -> list[dict]:
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    environment = {"PYTHONPATH": ROOT, "HF_MODULES_CACHE": tmp_path / "modules"}
    done = fresh_python.run(COMPARE, tmp_path / "cases.json", **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
