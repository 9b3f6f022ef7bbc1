"""Jobs run one after the other in a real worker; each ends done, failed with a sentence, or cancelled, and leaves no half."""

import shutil
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest

from pruning.errors import PruningError
from pruning.experiment import RESULT_FILE
from pruning.process import start_of
from pruning.runs.jobs import JobQueue
from pruning.runs.requests import Request, read_request, write_request
from pruning.runs.status import CUTS, JobStatus, claim, create_experiment, last_written, read_status, this_process, write_status
from pruning.settings import Settings
from tests.runs.quick_runs import (
    RESULT,
    STEPS_THAT_RUN,
    assert_nothing_half_written,
    clumsy_worker,
    files_of,
    new_experiment,
    plan_fault,
    quick_settings,
    wait_for_end,
    wait_until,
    wait_until_gone,
)

ENDLESS = {"num_samples": 10**5, "seq_len": 2, "gradient_batch_size": 1}  # of windows; minutes
TABLE = STEPS_THAT_RUN.index("group_table")


@pytest.fixture(scope="module")
def queue():
    queue = JobQueue(clumsy_worker)
    yield queue
    queue.shutdown()


@pytest.fixture
def make(tmp_path, model_folder, text):
    """Makes an experiment whose settings are written."""

    def make(name: str = "run", **changes):
        return new_experiment(tmp_path, name, quick_settings(model_folder, text, **changes))

    return make


@pytest.fixture
def long_text(tmp_path):
    (tmp_path / "long.txt").write_text("x = 1\n" * 200_000)
    return tmp_path / "long.txt"


def test_of_all_that_ask_at_once_one_gets_the_experiment_and_the_others_change_nothing(make):
    experiment = make()

    def ask(number: int) -> str:
        try:
            claim(experiment, Request("measure", {"number": number}))
        except PruningError as error:
            return error.code
        return "claimed"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(32)))
    assert sorted(answers) == ["claimed"] + ["experiment_busy"] * 31
    assert read_request(experiment).arguments == {"number": answers.index("claimed")}
    assert read_status(experiment).process == this_process()


def test_a_job_that_is_refused_leaves_what_was_asked_before(queue, make):
    experiment = make()
    write_request(experiment, Request("recover", {"settings": {"finetune": True}}))
    write_status(experiment, JobStatus("measure", "running", process=this_process()))
    before = {path: path.read_bytes() for path in experiment.folder.iterdir() if path.is_file()}
    with pytest.raises(PruningError, match="worked on"):
        queue.submit("export", experiment, arguments={"formats": ["bin"]})
    assert {path: path.read_bytes() for path in experiment.folder.iterdir() if path.is_file()} == before
    assert queue.place(experiment) == 0


def test_what_a_job_is_asked_is_there_when_it_begins(queue, make):
    experiment = make()
    queue.submit("measure", experiment, arguments={"anything": [1]})
    assert read_request(experiment) == Request("measure", {"anything": [1]})
    assert wait_for_end(experiment).state == "done"
    queue.submit("measure", experiment)
    assert read_request(experiment) == Request("measure")


def test_a_damaged_status_keeps_nobody_from_a_job(queue, make):
    experiment = make()
    experiment.path("job.json").write_text("{")
    queue.submit("measure", experiment)
    assert wait_for_end(experiment).state == "done"


@pytest.fixture(scope="module")
def whole(queue, tmp_path_factory, model_folder, text):
    """Files of a run that went well."""
    experiment = new_experiment(tmp_path_factory.mktemp("whole"), "run", quick_settings(model_folder, text))
    queue.submit("global", experiment)
    assert wait_for_end(experiment).state == "done"
    return files_of(experiment)


def assert_second_try_succeeds(queue, experiment, whole: set[str]) -> None:
    queue.submit("global", experiment)
    assert wait_for_end(experiment).state == "done"
    assert files_of(experiment) == whole


# how a job ends -------------------------------------------------------------------------------------------------------


def test_a_job_that_goes_well_is_done_and_its_files_are_there(whole):
    assert whole == {
        *("description.txt", "global_group_table.csv", "global_group_table.csv.json", "groups_to_prune.csv"),
        *("groups_to_prune.csv.json", "plan.json", "metrics.json", "pruning_analysis.csv", "samples.json"),
        *("job.json", "request.json", "<time>", "<time>/training.log", "pruning_strategy.png"),
    }


def test_the_worker_stays_for_the_next_job(make):
    queue, experiments = JobQueue(), [make("one"), make("two")]  # with the app's own worker
    for experiment in experiments:
        queue.submit("measure", experiment)
    one, two = (wait_for_end(experiment).process for experiment in experiments)
    assert one == two and one != read_status(experiments[0]).started
    queue.shutdown()


def test_a_fault_of_the_input_is_its_sentence(queue, make, tmp_path):
    (tmp_path / "empty.txt").touch()
    experiment = make(corpus=str(tmp_path / "empty.txt"))
    queue.submit("measure", experiment)
    status = wait_for_end(experiment)
    assert (status.state, status.error["code"]) == ("failed", "corpus_empty")
    assert status.error["message"] == f"The corpus {tmp_path / 'empty.txt'} holds no text."


def test_a_bug_is_recorded_with_its_traceback_in_the_log_only(queue, make):
    experiment = make()
    plan_fault(experiment, "step selection", "break")
    queue.submit("global", experiment)
    status = wait_for_end(experiment)
    assert status.error["code"] == "unexpected" and "ZeroDivisionError: a bug" in status.error["message"]
    assert "Traceback" not in experiment.path("job.json").read_text()
    assert "Traceback (most recent call last)" in experiment.path(status.log).read_text()


def test_an_experiment_takes_one_job_at_a_time(queue, make, text):
    experiment = make(**ENDLESS)
    queue.submit("measure", experiment)
    with pytest.raises(PruningError, match="'run' is being worked on by another job"):
        queue.submit("measure", experiment)
    queue.cancel(experiment)
    assert wait_for_end(experiment).state == "cancelled"
    queue.submit("measure", experiment)
    queue.cancel(experiment)
    wait_for_end(experiment)


# memory ---------------------------------------------------------------------------------------------------------------


def test_memory_that_runs_out_is_advice_and_the_next_job_runs(queue, make, whole, long_text):
    greedy = {"num_samples": 600, "gradient_batch_size": 600, "seq_len": 32, "corpus": str(long_text)}
    experiment = make(**greedy)
    plan_fault(experiment, "progress gradients", "limit memory")
    queue.submit("global", experiment)
    status = wait_for_end(experiment)
    assert status.error["code"] == "out_of_memory", status.error
    assert status.error["message"] == (
        "Out of memory while working on: gradients or activations. Lower gradient_batch_size to 2 or seq_len to 64 "
        "(fewer samples save time, not memory)."
    )
    assert_nothing_half_written(experiment, whole, table=False)
    plan_fault(experiment, "step load", "lift memory limit")
    experiment.write_settings(replace(experiment.settings, num_samples=6, gradient_batch_size=2))
    assert_second_try_succeeds(queue, experiment, whole)


# cancelling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [step for step in STEPS_THAT_RUN if step != "save"])
def test_cancelled_in_each_step_it_leaves_no_half_and_a_second_try_succeeds(queue, make, whole, step):
    experiment = make()
    plan_fault(experiment, f"step {step}", "cancel")
    queue.submit("global", experiment)
    assert wait_for_end(experiment).state == "cancelled"
    assert_nothing_half_written(experiment, whole, table=STEPS_THAT_RUN.index(step) >= TABLE)
    assert_second_try_succeeds(queue, experiment, whole)


@pytest.mark.parametrize("at", ["step save", "progress save", "say loading it again"])
def test_cancelled_while_saving_it_leaves_no_model(queue, make, whole, at):
    experiment = make(save_model=True)
    plan_fault(experiment, at, "cancel")
    queue.submit("global", experiment)
    status = wait_for_end(experiment)
    assert (status.state, status.step) == ("cancelled", "save")
    assert_nothing_half_written(experiment, whole, table=True)


def test_a_running_job_is_cancelled_within_a_batch(queue, make, long_text):
    experiment = make(**ENDLESS, corpus=str(long_text))
    queue.submit("measure", experiment)
    wait_until(lambda: read_status(experiment).done > 0)
    queue.cancel(experiment)
    status = wait_for_end(experiment, seconds=30)
    assert status.state == "cancelled" and 0 < status.done < status.total == 10**5
    assert not experiment.has("cancel") and not experiment.has("global_group_table.csv")


def test_a_waiting_job_is_cancelled_at_once_and_never_starts(queue, make, long_text):
    running, second, third = make("running", **ENDLESS, corpus=str(long_text)), make("second"), make("third")
    for experiment in (running, second, third):
        queue.submit("measure", experiment)
    wait_until(lambda: read_status(running).state == "running")
    assert [queue.place(experiment) for experiment in (running, second, third)] == [0, 1, 2]
    queue.cancel(second)
    assert read_status(second).state == "cancelled"
    assert queue.place(third) == 1 and read_status(running).state == "running"
    queue.cancel(running)
    assert wait_for_end(third).state == "done"
    assert read_status(second).state == "cancelled" and not second.has("global_group_table.csv")


def test_a_job_that_does_not_react_is_ended_with_its_worker(make, whole):
    queue = JobQueue(clumsy_worker, cancel_patience=0.5)
    stuck, behind = make("stuck"), make("behind")
    plan_fault(stuck, "step gradients", "hang")
    queue.submit("global", stuck)
    queue.submit("measure", behind)
    wait_until(lambda: read_status(stuck).step == "gradients")
    worker = read_status(stuck).process
    queue.cancel(stuck)
    assert wait_for_end(stuck, seconds=60).state == "cancelled"
    assert_nothing_half_written(stuck, whole, table=False)
    assert wait_for_end(behind).state == "done"
    wait_until_gone(worker)
    assert read_status(behind).process != worker
    queue.shutdown()


def test_a_worker_that_dies_is_not_reported_before_it_is_known_how(make):
    """Between the death of a worker and the word of its executor a page would say less than is soon known."""
    executor = _Silent()
    queue, experiment = JobQueue(lambda: executor), make()
    queue.submit("measure", experiment)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    born = start_of(dead.pid)
    dead.wait()
    write_status(experiment, replace(last_written(experiment), state="running", process=(dead.pid, born)))
    assert read_status(experiment).error["code"] == "worker_lost"
    assert queue.status(experiment).is_active
    executor.future.set_exception(BrokenProcessPool("a process was terminated: {SIGKILL(-9)}"))
    assert queue.status(experiment).error["code"] == "worker_died" and queue.status(experiment) == read_status(experiment)


class _Silent(Executor):
    """Takes a job and says nothing of it until the test does."""

    def submit(self, *_):
        self.future = Future()
        return self.future


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("is_whole", [False, True])
def test_of_a_worker_that_dies_in_a_cut_of_any_kind_only_a_whole_result_stays(make, kind, is_whole):
    executor = _Silent()
    queue, experiment = JobQueue(lambda: executor), make()
    queue.submit(kind, experiment)
    write_status(experiment, replace(last_written(experiment), state="running"))
    experiment.update_metrics(seconds={"gradients": 1.0})
    before = files_of(experiment), experiment.metrics()
    experiment.model_folder.mkdir()
    for name in ("model/README.md", *RESULT - {RESULT_FILE}, *[RESULT_FILE] * is_whole):  # the last one says that it is whole
        experiment.path(name).touch()
    experiment.update_metrics(parameters={"before": 2, "after": 1})
    after = files_of(experiment), experiment.metrics()
    executor.future.set_exception(BrokenProcessPool("a process was terminated: {SIGKILL(-9)}"))
    assert last_written(experiment).error["code"] == "worker_died"
    assert (files_of(experiment), experiment.metrics()) == (after if is_whole else before)


@pytest.mark.parametrize("is_asked_to_stop", [True, False])
def test_what_another_process_took_since_the_worker_died_is_its_own(make, tmp_path, is_asked_to_stop):
    """A command line that begins between the death of a worker and the word of its executor."""
    executor = _Silent()
    queue, experiment, behind = JobQueue(lambda: executor), make(), make("behind")
    queue.submit("global", experiment)
    queue.submit("measure", behind)
    first = executor.future
    write_status(experiment, replace(last_written(experiment), state="cancelled"))
    take = "import sys; from pruning.experiment import Experiment; from pruning.runs.requests import Request; "
    take += "from pruning.runs.status import claim; "
    take += f"claim(Experiment.open({str(tmp_path)!r}, 'run'), Request('export')); print('taken', flush=True); sys.stdin.read()"
    # By a shell, as no child of this process: those are workers.
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, take]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"taken\n"
        write_request(experiment, Request("export", {"formats": ["bin"]}))
        if is_asked_to_stop:
            queue.cancel(experiment)
        before = {path: path.read_bytes() for path in experiment.folder.iterdir()}
        first.set_exception(BrokenProcessPool("a process was terminated: {SIGKILL(-9)}"))
        assert {path: path.read_bytes() for path in experiment.folder.iterdir()} == before
        assert executor.future is not first and queue.place(behind) == 0  # the job is not begun a second time
        other.stdin.close()


@pytest.mark.parametrize("error", [None, BrokenProcessPool("a process was terminated")])
def test_a_damaged_status_does_not_keep_the_next_job_from_its_turn(make, error):
    executor = _Silent()
    queue, experiment, behind = JobQueue(lambda: executor), make(), make("behind")
    queue.submit("measure", experiment)
    queue.submit("measure", behind)
    experiment.path("job.json").write_text("{")
    first = executor.future
    first.set_exception(error) if error else first.set_result(None)
    assert executor.future is not first and queue.place(behind) == 0
    executor.future.set_result(None)


def test_an_experiment_whose_job_was_never_submitted_is_free_once_it_is_cancelled(queue, tmp_path):
    experiment = create_experiment(tmp_path, "run", Settings(), "measure")
    with pytest.raises(PruningError, match="is being worked on"):
        experiment.delete()
    queue.cancel(experiment)
    assert read_status(experiment).state == "cancelled" and not experiment.has("cancel")
    experiment.rename("other").delete()
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_whose_folder_went_with_all_around_it_is_unknown(tmp_path):
    experiment = new_experiment(tmp_path / "root", "run", Settings())
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(PruningError) as raised:
        claim(experiment, Request("measure"))
    assert raised.value.code == "experiment_unknown"


def test_cancelling_what_does_not_run_leaves_no_trace(queue, make):
    experiment = make()
    queue.cancel(experiment)
    assert files_of(experiment) == {"description.txt"}


def test_a_run_of_another_process_can_be_cancelled_too(queue, make):
    """The command line's runs are in no queue; the page cancels them through their folder."""
    from pruning.errors import Cancelled
    from pruning.runs.progress import Progress

    experiment = make()
    with pytest.raises(Cancelled), Progress(experiment, "global") as report, report.step("gradients", 4, "samples"):
        queue.cancel(experiment)
        report.advance(1, 4)
    assert read_status(experiment).state == "cancelled"


# a full disk ----------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_saving_leaves_no_model(queue, make, whole, tmp_path):
    experiment = make(save_model=True)
    plan_fault(experiment, "step save", "small files only")
    queue.submit("global", experiment)
    status = wait_for_end(experiment)
    assert (status.state, status.error["code"]) == ("failed", "disk_write")
    assert status.error["message"].startswith(f"{experiment.model_folder} could not be written: ")
    assert_nothing_half_written(experiment, whole, table=True)
