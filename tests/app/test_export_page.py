"""The Export page offers what was made and checked, refuses what cannot be, and says why."""

import shutil

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pruning.experiment import EXPORTS, Experiment
from pruning.export.formats import FORMATS
from pruning.export.hugging_face import save_model
from pruning.files import locked
from pruning.model.surgery import cut
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.group_table import GroupTable
from pruning.process import this_process
from pruning.runs import status
from pruning.runs.jobs import queue
from pruning.settings import Settings
from tests.export.shapes import CUTS
from tests.tiny_models import plan_without, tiny_model
from ui.translation import t

from .conftest import ROOT


def cut_experiment(root, family: str) -> Experiment:
    """An experiment whose model, of layers of different sizes, stands saved and checked."""
    model = tiny_model(family)
    save_model(model, None, root / "source")
    header = CheckpointHeader.read(root / "source")
    plan = plan_without(model, CUTS["different sizes"])
    made = Experiment.create(root / "experiments", family)
    made.write_settings(Settings(base_model=str(root / "source"), strategy="global"))
    made.write_model(header, {})
    made.write_table(GroupTable(header.shape, np.ones(len(plan.kept)), {"fingerprint": header.fingerprint}))
    made.write_plan(plan)
    save_model(cut(model, plan), None, made.model_folder)
    made.path("model", "README.md").write_text("---\n---\nA card.")
    made.path("pruning_analysis.csv").write_text("module\n")
    made.update_metrics(export_check={"hf": {"max_abs_diff": 1.5e-6, "top1": 1.0}})
    return made


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The Export page of an experiment, with a format chosen."""
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path / "experiments"))

    def draw(experiment: Experiment, name: str) -> AppTest:
        at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
        at.query_params["experiment"] = experiment.name
        at.run()
        at.switch_page(str(ROOT / "pages" / "export.py")).run()
        return at.selectbox(key="export_format").set_value(name).run()

    return draw


def html(at: AppTest) -> str:
    return "".join(element.proto.body for element in at.get("html"))


def test_every_format_is_explained_with_its_code(page, tmp_path):
    experiment = cut_experiment(tmp_path, "llama")
    at = page(experiment, "hf")
    for name in FORMATS:
        at.selectbox(key="export_format").set_value(name).run()
        assert not at.exception and not at.main.error and not at.warning
        assert at.code and any("needed on disk" in caption.value for caption in at.caption)


def test_a_file_is_offered_once_it_was_checked(page, tmp_path):
    experiment = cut_experiment(tmp_path, "llama")
    experiment.path("model-F16.gguf").write_bytes(b"GGUF")
    at = page(experiment, "gguf-f16")
    assert "download/" not in html(at) and t("export.not_checked") in [info.value for info in at.info]
    found = {"max_abs_diff": 0.25, "top1": 0.9785, "llama_cpp": {"tokens": 32, "equal": 31}}
    experiment.update_metrics(export_check={"gguf-f16": found})
    at.run()
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown[t("export.difference")] == "2.5e-01" and shown[t("export.top1")] == "97.85%"
    assert shown[t("export.llama_cpp")] == "31 / 32"
    assert 'download="model-F16.gguf"' in html(at)
    assert t("export.checked") in [success.value for success in at.success]
    at.selectbox(key="export_format").set_value("hf").run()
    experiment.update_metrics(export_check={"hf": {"max_abs_diff": 0.0, "top1": 1.0, "original_diff": 3e-7}})
    at.run()
    assert t("export.checked_original", difference=3e-7) in [success.value for success in at.success]


def test_a_refusal_says_why_and_what_to_choose(page, tmp_path):
    at = page(cut_experiment(tmp_path, "qwen3"), "gguf-q8_0")
    [warning] = at.warning
    assert "per-head norms of Qwen3" in warning.value and "Choose the Hugging Face folder" in warning.value
    assert not [button for button in at.button if button.key == "pack"]


def test_the_button_leaves_the_request_and_queues_the_job(page, tmp_path, monkeypatch):
    experiment = cut_experiment(tmp_path, "llama")
    queued = []

    def submit(self, kind, experiment, permissions, arguments):
        queued.append((kind, permissions.token, arguments))

    monkeypatch.setattr(type(queue()), "submit", submit)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    at = page(experiment, "bin")
    at.button(key="pack").click().run()
    assert [one[:2] for one in queued] == [("export", None)] and queued[0][2]["formats"] == ("bin",)
    at.text_input(key="push_repository").set_value("owner/small").run()
    assert at.button(key="push").disabled  # no token
    at.text_input(key="push_token").set_value("hf_secret").run()
    at.button(key="push").click().run()
    kind, token, request = queued[1]
    assert (kind, token) == ("export", "hf_secret") and "hf_secret" not in str(request)
    assert request["private"] is True


def test_what_a_job_began_to_write_meanwhile_stays(page, tmp_path, monkeypatch):
    experiment = cut_experiment(tmp_path, "llama")
    half = experiment.path(".model-F16.gguf.part-4711")
    half.write_bytes(b"half")
    at = page(experiment, "hf")

    def late(folder):
        status.write_status(experiment, status.JobStatus("export", status.RUNNING, process=this_process()))
        return locked(folder)

    monkeypatch.setattr(status, "locked", late)  # the job gets the lock before the button
    at.button(key="clean_up").click().run()
    assert half.read_bytes() == b"half" and "worked on" in at.main.error[0].value


def test_what_a_stopped_run_left_can_be_removed(page, tmp_path):
    experiment = cut_experiment(tmp_path, "llama")
    experiment.path(".model-F16.gguf.part-4711").write_bytes(b"half")
    shutil.copytree(experiment.model_folder, experiment.path("model-float16"))
    experiment.path("model-float16", "README.md").unlink()
    at = page(experiment, "hf")
    assert t("export.leftovers", count=2) in [warning.value for warning in at.warning]
    at.button(key="clean_up").click().run()
    assert not at.warning and not experiment.leftovers() and experiment.is_saved


def test_every_file_and_folder_of_a_format_has_a_name_that_a_new_cut_removes(tmp_path):
    made = [format for format in FORMATS.values() if format.name != "plan"]
    for format in made:
        (tmp_path / format.file).touch()
        if format.dtype:
            (tmp_path / format.folder).mkdir()
    assert {path for pattern in EXPORTS for path in tmp_path.glob(pattern)} == set(tmp_path.iterdir())


def test_what_a_person_put_beside_the_model_is_no_form_of_it(tmp_path):
    for name in ("model.bak", "model.csv", "models.txt"):
        (tmp_path / name).touch()
    Experiment(tmp_path).forget_exports()
    assert len(list(tmp_path.iterdir())) == 3
