"""One thread per test process and no network: set before torch and transformers are imported."""

import gc
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# Code of model folders is cached by its hash; two test processes writing one cache get in each other's way.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="hf-modules-")


# What `--quick` leaves out: browsers, killed processes, whole runs, benchmarks; each takes five seconds and more.
SLOW = {
    *("assets", "benchmarks", "browser", "planning/test_memory.py"),
    *(f"analysis/test_{name}.py" for name in ("details_and_flow_commands", "diff_command", "evaluate_command", "perplexity")),
    *(f"app/test_{name}.py" for name in ("chinese", "compare_page", "damaged_experiments", "experiment_pages")),
    *(
        f"app/test_{name}.py"
        for name in ("access", "importance_page", "learn_page", "missing_experiment", "pages", "plan_page", "recover_page")
    ),
    *(
        f"export/test_{name}.py"
        for name in ("bin", "gguf", "hugging_face", "older_readers", "original", "round_trips", "streamed_cut")
    ),
    *(f"model/test_{name}.py" for name in ("calibration", "reconstruction", "recovery", "surgery")),
    *(
        f"runs/test_{name}.py"
        for name in ("exporting", "iterative", "jobs", "killed_workers", "learning", "own_head", "recover_step", "report")
    ),
    *(f"runs/test_{name}.py" for name in ("strangers_code", "strategies")),
    *(f"test_{name}.py" for name in ("command_line", "kills", "nothing_lost", "readme", "recover_command", "resume")),
}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out what takes long: browsers, killed processes, whole runs")


def pytest_ignore_collect(collection_path, config):
    if config.getoption("quick") and collection_path.is_relative_to(HERE):
        return True if collection_path.relative_to(HERE).as_posix() in SLOW else None
    return None


def pytest_configure(config):
    if missing := [name for name in SLOW if not (HERE / name).exists()]:
        raise pytest.UsageError(f"tests/conftest.py names slow tests that are not there: {', '.join(sorted(missing))}")

    import hypothesis
    import torch

    # How long an example takes says more of what else runs than of the code.
    hypothesis.settings.register_profile("steady", parent=hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("steady")

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage_collection() -> None:
    """Takes what is loaded by now out of the garbage collector's rounds.

    Streamlit after each run of a page, and the trainer, collect everything: a second each time with torch among it.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _forked_checks():
    """Exports are checked by forks of a process that has loaded the libraries."""
    from tests.fresh_python import forked_checks

    with forked_checks():
        yield


@pytest.fixture
def own_check(monkeypatch) -> None:
    """Exports are checked as the product does, by a process that is started anew."""
    from pruning.export import reload_check

    monkeypatch.setattr(reload_check, "subprocess", subprocess)


@pytest.fixture(scope="session")
def measured_demo(tmp_path_factory):
    """The experiment `first`, measured on the demo model with a few short windows, its layers too; tests work on copies."""
    from pruning.runs import steps
    from pruning.settings import resolve
    from tests.runs.quick_runs import QUICK_DEMO, new_experiment

    experiment = new_experiment(tmp_path_factory.mktemp("measured"), "first", resolve(QUICK_DEMO))
    steps.run("measure", experiment)
    return experiment


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model folder and a text."""
    from tests.runs.quick_runs import save_tiny_model, write_text

    folder = tmp_path_factory.mktemp("source")
    return save_tiny_model(folder / "model"), write_text(folder / "text.txt")
