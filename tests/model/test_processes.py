"""Several processes: what each holds in part (FSDP) is written whole and read back, and the first one's word counts."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pruning.errors import Cancelled
from pruning.model import processes, training
from pruning.model.held_out import perplexity
from tests.processes import in_two_processes
from tests.tiny_models import random_ids, tiny_model

IDS = random_ids(4, 16)


def _joined(rank: int, port: int, do, *arguments) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo")
    do(*arguments)


def _write_and_read_in_parts(folder: Path) -> None:
    model = tiny_model("llama")
    whole, expected = {name: p.detach().clone() for name, p in model.named_parameters()}, perplexity(model, IDS)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    training._write_state(model, folder)
    distributed.barrier()
    written = load_file(folder / "trained.safetensors")
    assert written.keys() == whole.keys() and all(torch.equal(written[name], whole[name]) for name in whole)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    training._read_state(model, folder)
    assert perplexity(model, IDS) == expected


def _first_decides() -> None:
    mine = distributed.get_rank() + 1
    assert processes.from_first(mine) == 1
    assert processes.summed(torch.tensor(float(mine))).item() == 3
    assert processes.count() == 2 and processes.is_first() == (mine == 1)
    try:
        processes.together(lambda: 1 / 0, otherwise=Cancelled)
        raise AssertionError("it went on")
    except ZeroDivisionError:
        assert mine == 1
    except Cancelled:
        assert mine == 2


def test_a_model_in_parts_is_written_whole_and_read_back(tmp_path):
    assert in_two_processes(_joined, _write_and_read_in_parts, tmp_path) == [0, 0]


def test_the_first_decides_and_its_faults_end_the_others():
    assert in_two_processes(_joined, _first_decides) == [0, 0]


def test_alone_a_process_is_the_first():
    assert processes.is_first() and processes.count() == 1 and processes.from_first("all") == "all"
    assert not processes.were_launched() and processes.device("cuda:3") == "cuda:3"
