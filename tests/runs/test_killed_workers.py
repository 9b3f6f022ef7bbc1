"""A worker killed in any step is reported with advice and replaced; nothing half-written stays, the next job runs."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.runs.jobs import JobQueue
from pruning.runs.status import read_status
from tests.runs.quick_runs import (
    STEPS_THAT_RUN,
    assert_nothing_half_written,
    clumsy_worker,
    files_of,
    forked_worker,
    new_experiment,
    plan_fault,
    quick_settings,
    wait_for_end,
    wait_until_gone,
)

ADVICE = (
    "The worker process died (killed by the system, as happens when memory runs out). If memory ran out, lower "
    "gradient_batch_size or seq_len, or choose a smaller model; then start again."
)
TABLE = STEPS_THAT_RUN.index("group_table")


@pytest.fixture(scope="module")
def queue():
    queue = JobQueue(clumsy_worker)
    yield queue
    queue.shutdown()


@pytest.fixture
def make(tmp_path, model_folder, text):
    def make(name: str = "run", **changes):
        return new_experiment(tmp_path, name, quick_settings(model_folder, text, **changes))

    return make


@pytest.fixture(scope="module")
def whole(queue, tmp_path_factory, model_folder, text):
    experiment = new_experiment(tmp_path_factory.mktemp("whole"), "run", quick_settings(model_folder, text))
    queue.submit("global", experiment)
    assert wait_for_end(experiment).state == "done"
    return files_of(experiment)


@pytest.mark.parametrize("step", STEPS_THAT_RUN)
def test_killed_in_each_step_it_is_reported_and_a_second_try_succeeds(queue, make, whole, step):
    experiment = make(save_model=step == "save")
    plan_fault(experiment, f"step {step}", "kill")
    queue.submit("global", experiment)
    status = wait_for_end(experiment)
    assert (status.state, status.step, status.error["message"]) == ("failed", step, ADVICE)
    wait_until_gone(status.process)
    assert_nothing_half_written(experiment, whole, table=STEPS_THAT_RUN.index(step) > TABLE)

    experiment.write_settings(replace(experiment.settings, save_model=False))
    queue.submit("global", experiment)
    again = wait_for_end(experiment)
    assert again.state == "done" and again.process != status.process
    assert files_of(experiment) == whole


@pytest.mark.parametrize("at", ["progress save", "say loading it again"])
def test_killed_while_the_model_is_written_or_checked_no_model_stays(queue, make, whole, at):
    experiment = make(save_model=True)
    plan_fault(experiment, at, "kill")
    queue.submit("global", experiment)
    status = wait_for_end(experiment)
    assert (status.step, status.error["code"]) == ("save", "worker_died")
    assert_nothing_half_written(experiment, whole, table=True)


def test_jobs_behind_a_killed_one_still_run(queue, make):
    killed, behind, last = make("killed"), make("behind"), make("last")
    plan_fault(killed, "step gradients", "kill")
    for experiment in (killed, behind, last):
        queue.submit("measure", experiment)
    assert [wait_for_end(experiment).state for experiment in (killed, behind, last)] == ["failed", "done", "done"]


def test_a_worker_that_dies_with_nothing_to_do_is_replaced_without_a_word(make):
    queue, first, second = JobQueue(forked_worker), make("first"), make("second")
    queue.submit("measure", first)
    worker = wait_for_end(first).process
    os.kill(worker[0], signal.SIGKILL)
    wait_until_gone(worker)
    queue.submit("measure", second)
    assert wait_for_end(second).state == "done"
    queue.shutdown()


def test_a_zip_that_was_being_packed_is_removed(queue, make):
    experiment = make()
    experiment.model_folder.mkdir()
    experiment.path("pruning_analysis.csv").touch()
    for name in ("README.md", "model.safetensors"):
        experiment.path("model", name).write_bytes(os.urandom(1000))
    before = files_of(experiment)
    plan_fault(experiment, "progress save", "kill")
    queue.submit("pack", experiment)
    status = wait_for_end(experiment)
    assert status.error["code"] == "worker_died"
    assert files_of(experiment) - before == {"job.json", "request.json", "<time>", "<time>/training.log"}
    queue.submit("pack", experiment)
    assert wait_for_end(experiment).state == "done"
    assert "model.zip" in files_of(experiment)


# the end of the server ------------------------------------------------------------------------------------------------

SERVER = """
import sys, threading
from pathlib import Path
from pruning.experiment import Experiment
from pruning.runs.jobs import queue
from pruning.runs.status import read_status
experiment = Experiment(Path(sys.argv[1]))
queue().submit("measure", experiment)
while read_status(experiment).done == 0:
    threading.Event().wait(0.02)
print(*read_status(experiment).process, flush=True)
if sys.argv[2] == "waits":
    threading.Event().wait()
"""


@pytest.fixture
def serve(make, tmp_path):
    """Starts a process that submits a long job, and gives it, its worker and the experiment once the job runs."""
    (tmp_path / "long.txt").write_text("x = 1\n" * 200_000)
    experiment = make(num_samples=10**5, seq_len=2, gradient_batch_size=1, corpus=str(tmp_path / "long.txt"))

    def start(how: str):
        command = [sys.executable, "-c", SERVER, str(experiment.folder), how]
        server = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
        pid, started = server.stdout.readline().split()
        return server, (int(pid), float(started)), experiment

    return start


def test_a_server_that_stops_cancels_its_job_and_does_not_wait_for_its_end(serve):
    server, worker, experiment = serve("ends")
    assert server.wait(timeout=60) == 0
    assert read_status(experiment).state == "cancelled"
    wait_until_gone(worker)


def test_a_worker_does_not_outlive_a_server_that_was_killed(serve):
    server, worker, experiment = serve("waits")
    server.send_signal(signal.SIGKILL)
    server.wait()
    wait_until_gone(worker)
    assert read_status(experiment).state == "cancelled"
    assert not experiment.has("global_group_table.csv")
