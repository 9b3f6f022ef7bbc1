"""The Importance page: what it starts, that it shows what the files hold, and how it bears wrong input and damaged files."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.runtime.scriptrunner import RerunData, RerunException
from streamlit.testing.v1 import AppTest

from pruning.experiment import DONE, Experiment
from pruning.model.model_source import DEMO_FOLDER
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.memory import measuring_bytes
from pruning.planning.shape import ModelShape
from pruning.runs import steps
from pruning.runs.jobs import JobQueue, queue
from pruning.runs.status import read_status
from pruning.settings import SETTINGS, resolve
from tests.runs.quick_runs import QUICK_DEMO, wait_for_end
from ui import workspace
from ui.importance import form
from ui.translation import t

from .conftest import ROOT, figures, on_page

METHODS = SETTINGS["importance_method"].choices


@pytest.fixture(scope="module")
def two_methods(measured_root, tmp_path_factory) -> Path:
    """The experiment `first` by taylor, `second` by l2, `some` by l1 on layers 10 to 14 and without layers."""
    root = tmp_path_factory.mktemp("two") / "experiments"
    shutil.copytree(measured_root, root)
    common = QUICK_DEMO | {"output_root": str(root)}
    some = {"importance_method": "l1", "layer_start": 10, "layer_end": 15, "layer_importance_samples": 0}
    for name, changes in (("second", {"importance_method": "l2"}), ("some", some)):
        experiment = Experiment.create(root, name)
        experiment.write_settings(resolve(common | changes | {"experiment_name": name}))
        steps.run("measure", experiment)
    return root


def opened(monkeypatch, root: Path, name: str = "first", **query: str) -> AppTest:
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(root))
    at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    at.query_params |= {"experiment": name} | query
    return on_page(at, "importance")


def numbers(sent) -> np.ndarray:
    """An array as Plotly sends it: its bytes in base64, with their type and shape."""
    if not isinstance(sent, dict):
        return np.array(sent)
    shape = [int(length) for length in sent["shape"].split(",")] if "shape" in sent else -1
    return np.frombuffer(base64.b64decode(sent["bdata"]), sent["dtype"]).reshape(shape)


def wait_for_measurement(experiment: Experiment) -> None:
    wait_for_end(experiment)
    queue().shutdown()
    assert read_status(experiment).state == DONE


def captions(at: AppTest) -> str:
    return "\n".join(caption.value for caption in at.caption)


def test_the_picker_says_what_each_method_sees_costs_needs_and_whether_it_fits(app):
    at = on_page(app, "importance")
    lines = dict(zip(METHODS, at.radio(key="importance_method").proto.captions, strict=True))
    assert list(lines) == list(METHODS)
    assert all(t(f"method.{method}.sees") in line and line.endswith(", fits") for method, line in lines.items())
    assert t("method.passes.activations") in lines["gate"] and t("method.passes.weights") in lines["l1"]
    before = lines["taylor"]
    at.number_input(key="gradient_batch_size").set_value(1024).run()
    assert at.radio(key="importance_method").proto.captions[0] != before


@pytest.mark.parametrize(("preset", "samples"), [("quick", 16), ("standard", 128), ("careful", 256)])
def test_presets_set_the_samples(app, preset, samples):
    at = on_page(app, "importance")
    at.button(key=f"measure_{preset}").click().run()
    assert at.number_input(key="num_samples").value == samples


def test_a_measurement_of_some_layers_is_started_with_what_the_form_holds(app):
    at = on_page(app, "importance")
    at.radio(key="importance_method").set_value("l1").run()
    assert at.number_input(key="num_samples").disabled
    at.number_input(key="layer_importance_samples").set_value(2)
    at.number_input(key="seq_len").set_value(16)
    at.selectbox(key="layer_importance_method").set_value("block_influence")
    at.slider(key="measured_layers32").set_value((10, 14))
    at.text_input(key="new_experiment_name").set_value("trial")
    at.button(key="start").click().run()
    assert not at.exception and not at.error
    from ui import workspace

    experiment = Experiment.open(workspace.output_root(), "trial")
    wait_for_measurement(experiment)
    table, layers = experiment.read_table(), experiment.read_layer_importance()
    assert sorted(set(table.groups.layer_idx[table.order])) == [10, 11, 12, 13, 14]
    assert (table.source["method"], layers.method) == ("l1", "block_influence")
    assert layers.source["calibration"]["num_samples"] == 2
    at.run()
    assert not at.exception and not at.error
    assert "from the weights alone" in captions(at) and "Only layers 10 to 14 of 32" in captions(at)


@pytest.mark.parametrize(("owner", "name"), [(workspace, "hub_token"), (JobQueue, "submit")])
def test_a_run_of_the_page_that_streamlit_ends_leaves_no_experiment_waiting(tmp_path, monkeypatch, owner, name):
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path))

    def ended(*_):
        raise RerunException(RerunData())

    monkeypatch.setattr(owner, name, ended)
    with pytest.raises(RerunException):
        form._submit(resolve({"base_model": "demo", "experiment_name": "run"}))
    assert list(tmp_path.iterdir()) == []


def test_layers_are_shown_as_the_file_holds_them(monkeypatch, two_methods):
    at = opened(monkeypatch, two_methods)
    held = json.loads((two_methods / "first" / "layer_importance_config.json").read_text())["layers"]
    [bars] = [trace for trace in figures(at)["whole_layers"].data if trace.type == "bar"]
    np.testing.assert_array_equal(numbers(bars.y), [entry["importance"] for entry in held])
    np.testing.assert_array_equal(numbers(bars.customdata)[:, 1], [entry["rank"] for entry in held])
    np.testing.assert_array_equal(numbers(bars.customdata)[:, 2], [entry["perplexity_ratio"] for entry in held])
    rows = pd.read_csv(two_methods / "first" / "global_group_table.csv")
    sums = rows[rows.group_type == "mlp"].groupby("layer_idx").importance.sum()
    [mlp] = [trace for trace in figures(at)["layer_importance"].data if trace.meta.get("kind") == "mlp"]
    np.testing.assert_allclose(numbers(mlp.y), sums, rtol=1e-12)


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("layers", {"whole_layers", "layer_importance", "importance_balance"}),
        ("groups", {"heatmap_attention", "heatmap_mlp"}),
        ("distribution", {"distribution_attention", "distribution_mlp"}),
        ("methods", {"ranks"}),
    ],
)
@pytest.mark.parametrize("name", ["first", "second", "some"])
def test_a_link_opens_a_section_and_only_that_is_drawn(monkeypatch, two_methods, section, keys, name):
    at = opened(monkeypatch, two_methods, name, importance_section=section)
    assert not at.exception
    assert set(figures(at)) == keys - ({"whole_layers"} if name == "some" else set())
    hinted = t("importance.no_layers") in [info.value for info in at.info]
    assert hinted == (name == "some" and section == "layers")


def test_one_layer_shows_every_group_of_it(monkeypatch, two_methods):
    at = opened(monkeypatch, two_methods, importance_section="groups")
    at.selectbox(key="importance_layer").set_value(7).run()
    rows = pd.read_csv(two_methods / "first" / "global_group_table.csv")
    for kind in ("attention", "mlp"):
        held = rows[(rows.layer_idx == 7) & (rows.group_type == kind)].sort_values("group_idx").importance
        [trace] = figures(at)[f"layer_groups_{kind}"].data
        np.testing.assert_allclose(numbers(trace.customdata)[:, 0], held, rtol=1e-12)


def test_two_methods_correlate_as_pandas_says(monkeypatch, two_methods):
    at = opened(monkeypatch, two_methods, importance_section="methods", compare_with="second · l2")
    keys = ["layer_idx", "group_type", "group_idx"]
    first, second = (
        pd.read_csv(two_methods / name / "global_group_table.csv").set_index(keys).score for name in ("first", "second")
    )
    second = second.reindex(first.index)
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown[t("importance.methods.spearman.all")] == f"{first.rank().corr(second.rank()):.3f}"
    for kind in ("attention", "mlp"):
        of_kind = first.index.get_level_values("group_type") == kind
        expected = first[of_kind].rank().corr(second[of_kind].rank())
        assert shown[t(f"importance.methods.spearman.{kind}")] == f"{expected:.3f}"


def test_the_overlap_follows_its_slider_and_an_unreachable_ratio_is_told(monkeypatch, two_methods):
    at = opened(monkeypatch, two_methods, importance_section="methods", compare_with="second · l2")
    label = t("importance.methods.overlap")
    before = next(metric.value for metric in at.metric if metric.label == label)
    at.slider(key="compare_ratio").set_value(0.5).run()
    assert next(metric.value for metric in at.metric if metric.label == label) != before
    at.slider(key="compare_ratio").set_value(0.95).run()
    assert not at.exception
    assert len(at.error) == 1 and "at most 0." in at.error[0].value
    assert set(figures(at)) == {"ranks"}


def test_without_a_second_measurement_one_click_starts_it(app_with_table, measured_root, tmp_path, monkeypatch):
    root = tmp_path / "experiments"
    shutil.copytree(measured_root, root)
    at = opened(monkeypatch, root, importance_section="methods")
    assert t("importance.methods.none") in [info.value for info in at.info]
    at.selectbox(key="other_method").set_value("l2").run()
    at.button(key="start_other").click().run()
    assert not at.exception and not at.error
    experiment = Experiment.open(root, at.query_params["experiment"])
    wait_for_measurement(experiment)
    assert experiment.read_table().source["method"] == "l2"
    assert experiment.settings.num_samples == QUICK_DEMO["num_samples"]
    at.run()
    assert "from first, which had measured the same" in captions(at)  # the importance of layers
    assert set(figures(at)) == {"ranks"}


def test_pasted_text_goes_along_to_another_measurement(monkeypatch, measured_root, tmp_path):
    """The first may be renamed or deleted."""
    root = tmp_path / "experiments"
    shutil.copytree(measured_root, root)
    first = Experiment.open(root, "first")
    first.path("calibration.txt").write_text("x = 1\n" * 500)
    first.write_settings(replace(first.settings, corpus=str(first.path("calibration.txt")), layer_importance_samples=0))
    at = opened(monkeypatch, root, importance_section="methods")
    at.selectbox(key="other_method").set_value("l2").run()
    at.button(key="start_other").click().run()
    assert not at.exception and not at.error
    second = Experiment.open(root, at.query_params["experiment"])
    wait_for_measurement(second)
    assert second.settings.corpus == str(second.path("calibration.txt"))
    assert second.path("calibration.txt").read_text() == first.path("calibration.txt").read_text()


def test_a_damaged_file_of_layers_is_told_and_the_groups_are_shown(monkeypatch, measured_root, tmp_path):
    root = tmp_path / "experiments"
    shutil.copytree(measured_root, root)
    (root / "first" / "layer_importance_config.json").write_text("{")
    at = opened(monkeypatch, root)
    assert not at.exception
    [sentence] = {error.value for error in at.error}  # of the page, and of the sidebar
    assert "layer_importance_config.json" in sentence
    assert set(figures(at)) == {"layer_importance", "importance_balance"}


def test_a_table_without_a_record_says_so(monkeypatch, measured_root, tmp_path):
    root = tmp_path / "experiments"
    shutil.copytree(measured_root, root)
    (root / "first" / "global_group_table.csv.json").unlink()
    at = opened(monkeypatch, root)
    assert not at.exception and not at.error
    assert any("without a record" in warning.value for warning in at.warning)


def test_the_model_page_says_what_each_method_needs(app):
    shape = ModelShape.from_config(CheckpointHeader.read(DEMO_FOLDER).config)
    rows = next(frame.value for frame in app.run().dataframe if "needed" in frame.value)
    assert list(rows["method"]) == list(METHODS) and rows["fits"].all()
    assert rows["needed"][0] == f"{measuring_bytes(shape, 'taylor', 4, 8 * 128) / 2**20:.1f} MiB"
