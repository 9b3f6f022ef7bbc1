"""A pytorch_model.bin is a plain state dict that also says what model it is, so that it can be rebuilt."""

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import pruning
from pruning.errors import Cancelled, PruningError
from pruning.export.bin_file import bin_bytes, build_model, write_bin
from pruning.export.hugging_face import save_model
from pruning.planning.bin_header import read_bin_header
from pruning.planning.checkpoint_header import CheckpointHeader
from tests import fresh_python
from tests.export.shapes import CUTS, pruned
from tests.tiny_models import FAMILIES, random_ids


@pytest.fixture
def written(tmp_path):
    """Writes a model as pytorch_model.bin; gives its path."""

    def write(model, **options) -> Path:
        save_model(model, None, tmp_path / "model", **options)
        write_bin(tmp_path / "model", None, tmp_path / "pytorch_model.bin")
        return tmp_path / "pytorch_model.bin"

    return write


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_the_model_is_rebuilt_at_every_shape(written, family, tied):
    for name, removed in CUTS.items():
        _, model = pruned(family, removed, vocab_size=67, tied=tied)
        loaded = pruning.load_bin(written(model))
        ids = random_ids(2, 16)
        assert torch.equal(loaded(ids).logits, model(ids).logits), name
        assert type(loaded) is type(model) and not loaded.training


def test_torch_alone_reads_it_and_any_model_of_the_sizes_takes_it(written):
    _, model = pruned("llama", CUTS["different sizes"], vocab_size=67)
    path = written(model, dtype=torch.bfloat16, max_shard_size="20KB")
    program = f"import torch; print(len(torch.load({str(path)!r}, weights_only=True)))"
    assert int(fresh_python.run(program).stdout) == len(list(model.parameters()))
    state_dict = torch.load(path, weights_only=True)
    assert {weight.dtype for weight in state_dict.values()} == {torch.bfloat16}
    model.load_state_dict(state_dict)
    assert pruning.load_bin(path).dtype == torch.bfloat16


def test_its_header_is_read_without_torch_and_its_size_is_known_before(written, tmp_path):
    plan, model = pruned("qwen2", CUTS["a layer without MLP"], vocab_size=67)
    path = written(model)
    assert {n: t.shape for n, t in read_bin_header(path).items()} == plan.shape_after.tensor_shapes()
    assert path.stat().st_size <= bin_bytes(CheckpointHeader.read(tmp_path / "model"))


def test_writing_can_be_cancelled(tmp_path):
    def cancel(done: int, total: int) -> None:
        raise Cancelled

    save_model(pruned("llama", {}, vocab_size=67)[1], None, tmp_path / "model")
    with pytest.raises(Cancelled):
        write_bin(tmp_path / "model", None, tmp_path / "x.bin", "", cancel)


def test_what_is_no_export_of_this_project_is_one_sentence(tmp_path):
    torch.save(OrderedDict(weight=torch.ones(2)), tmp_path / "other.bin")
    with pytest.raises(PruningError, match="does not say what model it holds"):
        pruning.load_bin(tmp_path / "other.bin")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.bin")
    with pytest.raises(PruningError, match="pickled"):
        pruning.load_bin(tmp_path / "pickled.bin")
    (tmp_path / "short.bin").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(PruningError, match=r"short\.bin"):
        pruning.load_bin(tmp_path / "short.bin")
    with pytest.raises(PruningError, match="is not there"):
        pruning.load_bin(tmp_path / "gone.bin")


def test_weights_that_do_not_fit_the_sizes_are_named():
    _, model = pruned("llama", CUTS["different sizes"], vocab_size=67)
    config = json.loads(model.config.to_json_string(use_diff=False))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    without = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
    with pytest.raises(PruningError, match=r"model\.norm\.weight"):
        build_model(config, without)
    with pytest.raises(PruningError, match=r"model\.norm\.weight"):
        build_model(config, weights | {"model.norm.weight": torch.ones(3)})


def test_importing_the_package_loads_no_torch():
    program = "import sys, pruning; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
