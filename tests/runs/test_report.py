"""What a run tells: job.json at every moment, one log with all eleven steps, and a true word on how it ended."""

import errno
import json
import re
import subprocess
import sys
import time

import psutil
import pytest
import torch

from pruning.errors import Cancelled, PruningError
from pruning.experiment import Experiment
from pruning.planning.planner import plan_from_settings
from pruning.process import start_of
from pruning.runs import steps
from pruning.runs.progress import Progress, as_pruning_error
from pruning.runs.status import STEPS, JobStatus, read_status, request_cancel, state_of, this_process, write_status
from tests.runs.quick_runs import new_experiment, quick_settings


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    return Experiment.create(tmp_path, "run")


def log_of(experiment: Experiment) -> str:
    return experiment.path(read_status(experiment).log).read_text()


# job.json -------------------------------------------------------------------------------------------------------------


def test_job_file_says_what_is_being_done(experiment):
    assert read_status(experiment) is None
    with Progress(experiment, "measure") as progress, progress.step("gradients", 8, "samples"):
        progress.advance(8, 8)
        content = json.loads(experiment.path("job.json").read_text())
        assert content["process"] == list(this_process()) and re.fullmatch(r"\d{8}_\d{6}/training\.log", content["log"])
        assert content.keys() - {"process", "log", "started", "updated", "step_started"} == {
            *("format_version", "kind", "state", "step", "done", "done_before", "total", "unit", "error")
        }
        assert (content["format_version"], content["kind"], content["state"]) == (1, "measure", "running")
        assert (content["step"], content["done"], content["total"], content["unit"]) == ("gradients", 8, 8, "samples")
        assert content["started"] <= content["step_started"] <= content["updated"] <= time.time()
    assert (read_status(experiment).state, read_status(experiment).error) == ("done", None)


def test_rate_and_time_left_follow_from_the_work_done():
    status = JobStatus("measure", step_started=100.0, updated=104.0, done=32, total=128)
    assert (status.rate, status.seconds_left) == (8.0, 12.0)
    assert JobStatus("measure").rate == 0 and JobStatus("measure").seconds_left is None


def test_bytes_are_told_as_people_read_them(experiment, monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    with Progress(experiment, "pack", console=True) as progress, progress.step("save", unit="bytes"):
        clock[0] += 4
        progress.advance(2**20, 4 * 2**20)
    assert "1.0 MiB of 4.0 MiB, 256.0 KiB/s, 12 s left" in capsys.readouterr().out


def test_a_run_that_ended_before_it_measured_anything_is_no_empty_experiment(experiment):
    experiment.write_settings(quick_settings("demo", "text.txt"))
    assert state_of(experiment) == "empty"
    with pytest.raises(Cancelled), Progress(experiment, "global"):
        raise Cancelled()
    assert state_of(experiment) == "stopped"


def test_the_rate_counts_from_the_first_sample_not_from_reading_the_text(experiment, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    with Progress(experiment, "measure") as progress, progress.step("gradients", 8, "samples"):
        clock[0] += 60
        progress.advance(0, 8)
        clock[0] += 2
        progress.advance(4, 8)
        assert progress.status.rate == 2.0 and progress.status.seconds_left == 2.0
    assert progress.seconds == {"gradients": 62.0}


def test_what_a_stopped_run_had_done_counts_for_no_rate(experiment, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    with Progress(experiment, "recover") as progress, progress.step("recovery", 100, "steps"):
        clock[0] += 60  # text and checkpoint are read
        progress.count_from(80)
        clock[0] += 5
        progress.advance(90, 100)
        assert progress.status.rate == 2.0 and progress.status.seconds_left == 5.0
        with progress.step("recovery", 8, "windows"):
            assert progress.status.done_before == 0


@pytest.mark.parametrize(
    ("error", "state"),
    [(Cancelled(), "cancelled"), (KeyboardInterrupt(), "cancelled"), (PruningError("all_protected"), "failed")],
)
def test_how_a_run_ended_is_written_and_goes_on_upwards(experiment, error, state):
    with pytest.raises(type(error)), Progress(experiment, "measure"):
        raise error
    status = read_status(experiment)
    assert status.state == state and not status.is_active
    if state == "failed":
        assert status.error == {"code": "all_protected", "values": {}, "message": str(error)}


def test_a_bug_is_one_sentence_for_the_person_and_a_traceback_in_the_log(experiment, capsys):
    with (
        pytest.raises(PruningError, match="ZeroDivisionError: division by zero"),
        Progress(experiment, "measure", console=True),
    ):
        _ = 1 / 0
    status = read_status(experiment)
    assert status.error["code"] == "unexpected" and "Traceback" not in status.error["message"]
    assert "Traceback (most recent call last)" in log_of(experiment) and "_ = 1 / 0" in log_of(experiment)
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "out_of_memory",
        ),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "disk_write"),
        (OSError(errno.EFBIG, "File too large", "x.csv"), "disk_write"),
        (RuntimeError("shape mismatch"), "unexpected"),
    ],
)
def test_what_the_system_refuses_gets_advice(error, code):
    explained = as_pruning_error(error, "gradients")
    assert explained.code == code
    if code == "out_of_memory":
        assert str(explained).startswith("Out of memory while working on: gradients or activations. Lower gradient_batch_size")


# whose process is gone ------------------------------------------------------------------------------------------------


def ended_process() -> subprocess.Popen:
    """A process that has ended but is still in the process table, as nobody waited for it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = start_of(process.pid)
    process.stdin.close()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    process.created = created
    return process


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_whose_process_has_ended_reads_as_failed(experiment, state):
    process = ended_process()
    write_status(experiment, JobStatus("measure", state, process=(process.pid, process.created)))
    for waited_for in (False, True):
        if waited_for:
            process.wait()
        status = read_status(experiment)
        assert (status.state, status.error["code"]) == ("failed", "worker_lost")
        assert status.error["message"].startswith("The process of this job is gone: it was stopped, or killed when")


def test_another_process_with_the_same_number_is_not_the_one_that_ran_it(experiment):
    pid, created = this_process()
    write_status(experiment, JobStatus("measure", "running", process=(pid, created)))
    assert read_status(experiment).is_active
    write_status(experiment, JobStatus("measure", "running", process=(pid, created - 3600)))
    assert read_status(experiment).state == "failed"


def test_a_clock_that_is_set_makes_no_other_process(experiment, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_status(experiment, JobStatus("measure", "running", process=(process.pid, start_of(process.pid))))
    boot_time = psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_time + 60)  # /proc/stat follows the clock
    assert read_status(experiment).is_active
    process.communicate(b"\n")
    assert read_status(experiment).state == "failed"


def test_how_a_run_ended_stays_true_when_its_process_is_gone(experiment):
    write_status(experiment, JobStatus("measure", "done", process=(1, 0.0)))
    assert read_status(experiment).state == "done"


@pytest.mark.parametrize("content", ["", "{", '{"format_version": 1}', '{"format_version": 1, "process": 3, "kind": "x"}'])
def test_a_damaged_job_file_is_named(experiment, content):
    experiment.path("job.json").write_text(content)
    with pytest.raises(PruningError, match=r"job\.json cannot be read"):
        read_status(experiment)


# cancelling -----------------------------------------------------------------------------------------------------------


def test_a_request_to_cancel_ends_the_run_at_the_next_report(experiment):
    with pytest.raises(Cancelled), Progress(experiment, "measure") as progress, progress.step("gradients", 8, "samples"):
        progress.advance(2, 8)
        request_cancel(experiment)
        progress.advance(4, 8)
    assert read_status(experiment).state == "cancelled"
    assert not experiment.has("cancel")  # the next run is not stopped by it


def test_a_request_to_cancel_ends_the_run_before_the_next_step(experiment):
    with pytest.raises(Cancelled), Progress(experiment, "measure") as progress:
        with progress.step("load"):
            request_cancel(experiment)
        with progress.step("gradients"):
            raise AssertionError("it went on")


# the eleven steps -----------------------------------------------------------------------------------------------------


def told_steps(log: str) -> list[str]:
    return [line[20:] if line[:4].isdecimal() else line for line in log.splitlines() if "[Step " in line]


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ({}, {"recovery", "save"}),
        ({"remove_empty_layers": False, "test_before_prune": False}, {"baseline", "empty_layers", "recovery", "save"}),
        ({"test_after_prune": False}, {"perplexity", "recovery", "save"}),
    ],
)
def test_log_and_console_name_all_eleven_steps_in_order(tmp_path, model_folder, text, capsys, changes, skipped):
    experiment = new_experiment(tmp_path, "run", quick_settings(model_folder, text, **changes))
    steps.run("global", experiment, console=True)
    details = {"gradients": ": groups by taylor"} | dict.fromkeys(skipped, ": skipped (not asked for)")
    expected = [f"[Step {number}/11] {STEPS[step]}{details.get(step, '')}" for number, step in enumerate(STEPS, start=1)]
    assert told_steps(log_of(experiment)) == expected
    assert told_steps(capsys.readouterr().out) == expected
    assert experiment.metrics()["seconds"].keys() == STEPS.keys() - skipped


def test_the_app_s_two_jobs_do_what_the_one_of_the_command_line_does(tmp_path, model_folder, text):
    settings = quick_settings(model_folder, text)
    # Two folders of experiments: neither takes over what the other measured.
    at_once, in_two = (new_experiment(tmp_path / name, "run", settings) for name in ("at_once", "in_two"))
    steps.run("global", at_once)
    steps.run("measure", in_two)
    table = in_two.read_table()
    in_two.write_plan(plan_from_settings(table, settings).plan, table)
    steps.run("prune", in_two)
    for name in ("global_group_table.csv", "groups_to_prune.csv", "plan.json", "pruning_analysis.csv", "samples.json"):
        assert in_two.path(name).read_bytes() == at_once.path(name).read_bytes()
    first, second = at_once.metrics(), in_two.metrics()
    assert first.pop("seconds").keys() - second.pop("seconds").keys() == {"selection"}
    assert first == second
    assert told_steps(log_of(in_two))[0] == "[Step 1/11] load model and tokenizer"


def test_text_with_fewer_windows_than_asked_for_is_used_up_and_said(tmp_path, model_folder, text):
    experiment = new_experiment(tmp_path, "run", quick_settings(model_folder, text, num_samples=10_000, seq_len=48))
    steps.run("measure", experiment)
    source = experiment.read_table().source
    assert 0 < source["calibration"]["num_samples"] < 10_000
    assert f"the text gives {source['calibration']['num_samples']} windows, 10000 were asked for" in log_of(experiment)
    assert read_status(experiment).state == "done"


def test_an_experiment_keeps_to_the_model_it_began_with(tmp_path, model_folder, text):
    experiment = new_experiment(tmp_path, "run", quick_settings(model_folder, text))
    steps.run("measure", experiment)
    experiment.write_settings(quick_settings("demo", text))
    with pytest.raises(PruningError, match="was made for another model"):
        steps.run("measure", experiment)
