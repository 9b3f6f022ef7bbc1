"""Shapes of a pytorch_model.bin are read without running its pickle, and nothing but plain tensors is accepted."""

import collections
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pruning.errors import PruningError
from pruning.planning.bin_header import read_bin_header
from tests.tiny_models import tiny_model

ROOT = Path(__file__).parents[2]


def saved(tmp_path: Path, content, **options) -> Path:
    torch.save(content, tmp_path / "pytorch_model.bin", **options)
    return tmp_path / "pytorch_model.bin"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_names_shapes_and_bytes_are_those_of_the_state_dict(tmp_path, dtype):
    state = tiny_model("qwen2").to(dtype).state_dict()
    tensors = read_bin_header(saved(tmp_path, state))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: tuple(t.shape) for n, t in state.items()}
    file = (tmp_path / "pytorch_model.bin").read_bytes()
    bytes_of = {name: file[tensor.start : tensor.end] for name, tensor in tensors.items()}
    assert bytes_of == {n: t.contiguous().view(torch.uint8).numpy().tobytes() for n, t in state.items()}
    assert {tensor.dtype for tensor in tensors.values()} == {
        {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    }


def test_a_head_that_is_the_embedding_is_an_alias_and_parts_of_one_block_are_none(tmp_path):
    both = torch.zeros(4, 3)
    state = {"embed": both, "head": both, "rest": torch.ones(4, 3), "first": both[:2], "last": both[2:]}
    tensors = read_bin_header(saved(tmp_path, state))
    assert [name for name, tensor in tensors.items() if tensor.is_alias] == ["head"]


def test_parameters_and_a_state_dict_beside_other_values_are_read_too(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    content = {"state_dict": collections.OrderedDict(weight=weight), "format_version": 1, "sizes": [1, (2, 3)], "x": None}
    assert {n: t.shape for n, t in read_bin_header(saved(tmp_path, content)).items()} == {"weight": (2, 3)}


def test_torch_is_not_imported(tmp_path):
    file = saved(tmp_path, {"weight": torch.zeros(2, 3)})
    code = (
        "import sys; from pathlib import Path; from pruning.planning.bin_header import read_bin_header as read;"
        f"print(read(Path({str(file)!r}))['weight'].shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 3) False"


class Evil:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def refused(file: Path) -> str:
    with pytest.raises(PruningError) as error:
        read_bin_header(file)
    return error.value.code


def test_a_pickled_module_is_refused(tmp_path):
    assert refused(saved(tmp_path, torch.nn.Linear(2, 3))) == "pickle_refused"
    assert refused(saved(tmp_path, {"model": torch.nn.Linear(2, 3)})) == "pickle_refused"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_in_the_pickle_does_not_run(tmp_path, protocol):
    file = saved(tmp_path, {"weight": torch.zeros(2), "evil": Evil(tmp_path / "made")}, pickle_protocol=protocol)
    assert refused(file) == "pickle_refused"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_protocol_is_read(tmp_path, protocol):
    file = saved(tmp_path, {"weight": torch.zeros(70_000, 3)}, pickle_protocol=protocol)
    assert read_bin_header(file)["weight"].shape == (70_000, 3)


def test_what_is_no_state_dict_is_one_sentence(tmp_path):
    whole = saved(tmp_path, {"weight": torch.zeros(1000)})
    cut_short = tmp_path / "short.bin"
    cut_short.write_bytes(whole.read_bytes()[:-2000])
    assert refused(cut_short) == "weights_truncated"
    assert refused(saved(tmp_path, [1, 2])) == "weights_truncated"
    assert refused(saved(tmp_path, {"a": 1})) == "weights_truncated"
    assert refused(saved(tmp_path, {"a": torch.zeros(2)}, _use_new_zipfile_serialization=False)) == "weights_truncated"
    assert refused(tmp_path / "gone.bin") == "file_missing"


@pytest.mark.parametrize(
    "content", [b"", b".", b"\x80\x02(.", b"\x80\x02}q\x00h\x00.", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", b"t."]
)
def test_a_broken_pickle_is_one_sentence(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as archive:
        archive.writestr("m/data.pkl", content)
    assert refused(tmp_path / "m.bin") == "weights_truncated"


def test_a_pickle_alone_is_refused(tmp_path):
    (tmp_path / "m.bin").write_bytes(pickle.dumps({"a": 1}))
    assert refused(tmp_path / "m.bin") == "weights_truncated"
