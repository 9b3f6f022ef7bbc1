"""The Plan page: every control changes what it should, numbers are those of the engine, nothing set is lost, and input that
cannot be gets one sentence.
"""

import base64
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pruning.experiment import Experiment
from pruning.planning.plan import PruningPlan, plan_totals
from pruning.planning.planner import plan_from_settings
from pruning.planning.shape import ATTENTION
from pruning.runs.jobs import queue
from pruning.runs.trials import read_trials
from pruning.settings import PLAN_SETTINGS, resolve
from pruning.words import readable_size
from tests.runs.quick_runs import wait_for_end
from ui.translation import t

from .conftest import ROOT, figures, on_page

CHARTS = {"rates", "groups_cut_plan", "removed", "balance", "curve"}
BY_LAYER = {"rates", "groups_cut_plan", "removed"}
OTHER_FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture
def experiment(measured_root, tmp_path, monkeypatch) -> Experiment:
    """A copy of the measured experiment that a test may plan for."""
    shutil.copytree(measured_root, tmp_path / "experiments")
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path / "experiments"))
    return Experiment.open(tmp_path / "experiments", "first")


@pytest.fixture
def at(experiment) -> AppTest:
    return open_plan_page(experiment)


def open_plan_page(experiment: Experiment, **link: str) -> AppTest:
    """The page in a new session, as a link opens it."""
    at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    at.query_params |= {"experiment": experiment.name} | link
    return on_page(at, "plan")


def move(at: AppTest, kind: str, key: str, value) -> AppTest:
    getattr(at, kind)(key=key).set_value(value)
    at.run()
    assert not at.exception
    return at


def press(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception
    return at


def strip(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def drawn(at: AppTest) -> dict[str, str]:
    return {key: figure.to_json() for key, figure in figures(at).items()}


def kept_on_screen(at: AppTest) -> list[list[int]]:
    """Kept attention groups and MLP channels of each layer, from the chart of groups."""
    kept = [trace for trace in figures(at)["groups_cut_plan"].data if trace.name == t("chart.kept")]
    return np.stack([numbers_of(trace.y) for trace in kept], axis=1).tolist()


def numbers_of(sent) -> np.ndarray:
    """Whole numbers of a chart, which travel as a list or packed."""
    packed = isinstance(sent, dict)
    return np.asarray(np.frombuffer(base64.b64decode(sent["bdata"]), sent["dtype"]) if packed else sent).astype(int)


def planned(experiment: Experiment, strategy: str = "global", **settings) -> PruningPlan:
    """The plan that the command line makes of these settings."""
    given = resolve(settings, strategy)
    return plan_from_settings(experiment.read_table(), given, experiment.read_layer_importance()).plan


def totals_of(plan: PruningPlan) -> dict[str, str]:
    """The strip of a plan of the demo model, which is stored in 2 bytes per parameter."""
    totals = plan_totals(plan, 2)
    return {
        t("plan.target"): f"{plan.settings['pruning_ratio']:.2%}",
        t("plan.actual"): f"{plan.actual_ratio:.2%}",
        t("plan.parameters"): f"{totals.parameters_after:,}",
        t("plan.size"): readable_size(totals.bytes_after),
        t("plan.heads_removed"): f"{totals.attention_groups_removed:,}",
        t("plan.channels_removed"): f"{totals.mlp_channels_removed:,}",
        t("plan.layers_removed"): str(totals.layers_removed),
        t("plan.by_hand"): f"{len(plan.by_hand):,}",
    }


def assert_shows(at: AppTest, plan: PruningPlan) -> None:
    assert not at.exception and not at.error
    assert strip(at) == totals_of(plan)
    assert kept_on_screen(at) == plan.kept_counts.tolist()


# every control -------------------------------------------------------------------------------------------------------

SPLIT = ("select_slider", "split", "3:7", {"pruning_distribution": "3:7"})
MILD = ("slider", "ratio", 0.1, {"pruning_ratio": 0.1})
MATCH = ("toggle", "match", True, {"match_target": True})
EQUAL = ("segmented_control", "layer_rates", "uniform", {"pruning_strategy": "uniform"})
APART = ("toggle", "apart", True, {})
EMPTY = ("toggle", "empty", True, {"remove_empty_layers": True})
LAYERS = {"block_attention_layer_start": 6, "block_attention_layer_end": 24}
MLP_LAYERS = {"block_mlp_layer_start": 6, "block_mlp_layer_end": 24}


def control(strategy: str, before: list[tuple], moved: tuple, changes: set[str], name: str):
    return pytest.param(strategy, before, moved, changes, id=f"{strategy}-{name}")


CONTROLS = [
    control("global", [], ("slider", "ratio", 0.3, {"pruning_ratio": 0.3}), CHARTS, "ratio"),
    control("global", [], ("selectbox", "basis", "selected", {"ratio_basis": "selected"}), CHARTS, "basis"),
    control("global", [], SPLIT, CHARTS, "split"),
    control("global", [MILD], ("slider", "layers32", (6, 23), LAYERS | MLP_LAYERS), BY_LAYER | {"curve"}, "layers"),
    control("global", [MILD, APART], ("slider", "mlp_layers32", (6, 23), MLP_LAYERS), BY_LAYER | {"curve"}, "mlp-layers"),
    control("global", [MILD, SPLIT, APART], ("slider", "layers32", (6, 23), LAYERS), BY_LAYER | {"curve"}, "attention-layers"),
    control("global", [MILD], ("number_input", "freeze", 4, {"freeze_top_n_layers": 4}), BY_LAYER | {"curve"}, "freeze"),
    control("global", [], ("text_input", "protect", "17", {"protected_layers": "17"}), BY_LAYER | {"curve"}, "protect"),
    control("global", [], ("text_input", "protect", "none", {"protected_layers": "none"}), BY_LAYER | {"curve"}, "none"),
    control("global", [MILD, SPLIT], ("number_input", "floor_kv", 2, {"min_kv_groups": 2}), BY_LAYER | {"curve"}, "floor-kv"),
    control("global", [], ("number_input", "floor_mlp", 200, {"min_mlp_channels": 200}), BY_LAYER | {"curve"}, "floor-mlp"),
    control("global", [], ("selectbox", "multiple", 64, {"mlp_multiple": 64}), CHARTS, "multiple"),
    control("global", [], EMPTY, {"curve"}, "empty"),
    control("global", [], ("text_input", "cut", "5m0-99,4a1", {"cut_groups": "5m0-99,4a1"}), CHARTS, "cut"),
    control("global", [SPLIT], ("text_input", "keep", "5m0-383", {"keep_groups": "5m0-383"}), CHARTS, "keep"),
    control("layer", [], ("slider", "ratio", 0.3, {"pruning_ratio": 0.3}), CHARTS, "ratio"),
    control("layer", [], MATCH, CHARTS, "match"),
    control("layer", [], ("selectbox", "basis", "selected", {"ratio_basis": "selected"}), CHARTS, "basis"),
    control("layer", [], ("select_slider", "shares", "5:5", {"pruning_distribution": "5:5"}), CHARTS, "split"),
    control("layer", [], EQUAL, BY_LAYER, "rates"),
    control(
        "layer", [], ("segmented_control", "layer_rates", "proportional", {"pruning_strategy": "proportional"}), BY_LAYER, "up"
    ),
    control("layer", [], ("slider", "weight", 0.5, {"importance_weight": 0.5}), BY_LAYER, "weight"),
    control(
        "layer",
        [],
        ("slider", "bounds", (0.2, 0.3), {"layer_min_pruning_rate": 0.2, "layer_max_pruning_rate": 0.3}),
        BY_LAYER,
        "bounds",
    ),
    control("layer", [], ("slider", "layers32", (6, 23), LAYERS | MLP_LAYERS), CHARTS, "layers"),
    control("layer", [], ("number_input", "freeze", 4, {"freeze_top_n_layers": 4}), CHARTS, "freeze"),
    control("uniform", [], ("slider", "ratio", 0.3, {"pruning_ratio": 0.3}), CHARTS, "ratio"),
    control("uniform", [], ("select_slider", "shares", "5:5", {"pruning_distribution": "5:5"}), CHARTS, "split"),
    control("uniform", [], ("selectbox", "multiple", 128, {"mlp_multiple": 128}), CHARTS, "multiple"),
    control("uniform", [], ("text_input", "cut", "5m0-99", {"cut_groups": "5m0-99"}), BY_LAYER, "cut"),
]


@pytest.mark.parametrize(("strategy", "before", "moved", "changes"), CONTROLS)
def test_a_control_changes_the_charts_to_the_plan_of_the_command_line(experiment, at, strategy, before, moved, changes):
    settings = {}
    if strategy != "global":
        move(at, "segmented_control", "strategy", strategy)
    for kind, key, value, given in before:
        move(at, kind, key, value)
        settings |= given
    shown = drawn(at)
    move(at, *moved[:3])
    assert_shows(at, planned(experiment, strategy, **settings | moved[3]))
    changed = {key for key, figure in drawn(at).items() if figure != shown[key]}
    assert changes <= changed


def test_the_strategies_give_different_plans(at, experiment):
    for strategy in ("layer", "uniform", "global"):
        before = drawn(at)
        move(at, "segmented_control", "strategy", strategy)
        assert all(figure != before[key] for key, figure in drawn(at).items())
        assert_shows(at, planned(experiment, strategy))


def test_uniform_offers_no_protection_and_one_size_for_all(at):
    move(at, "segmented_control", "strategy", "uniform")
    assert not {"freeze", "protect", "layers32"} & {widget.key for kind in WIDGETS for widget in getattr(at, kind)}
    assert len({tuple(kept) for kept in kept_on_screen(at)}) == 1
    assert any(caption.value == t("plan.protects_nothing", strategy=t("plan.strategy.uniform")) for caption in at.caption)


WIDGETS = ("slider", "select_slider", "toggle", "selectbox", "number_input", "text_input", "segmented_control")


# sentences -----------------------------------------------------------------------------------------------------------


def shortfall(at: AppTest) -> str:
    [sentence] = [info.value for info in at.info]
    return sentence


@pytest.mark.parametrize(("freeze", "spared"), [(0, 5), (4, None)])
def test_the_layerwise_sentence_has_the_numbers_of_the_plan(experiment, at, freeze, spared):
    move(at, "segmented_control", "strategy", "layer")
    move(at, "number_input", "freeze", freeze)
    found = planned_with_rates(experiment, freeze_top_n_layers=freeze)
    layers = 32 - int(found.protection.cuttable(32).any(axis=1).sum())
    assert spared in (None, layers)
    matched = planned_with_rates(experiment, freeze_top_n_layers=freeze, match_target=True).rates.applied
    rates = f"between {matched[matched > 0].min():.1%} and {matched.max():.1%}"
    actual = f"{found.plan.actual_ratio:.1%}"
    asked = f"25.0% was asked; {layers} of 32 layers are protected, so {actual} of the model goes."
    assert shortfall(at) == f"{asked} Match the target: rates rise to {rates}."
    move(at, "toggle", "match", True)
    assert not at.info and abs(float(strip(at)[t("plan.actual")].rstrip("%")) - 25) < 0.2  # rounded to whole groups


def planned_with_rates(experiment: Experiment, **settings):
    given = resolve(settings, "layer")
    return plan_from_settings(experiment.read_table(), given, experiment.read_layer_importance())


def test_equal_rates_name_one_rate_and_bounds_that_win_are_told(at):
    move(at, "segmented_control", "strategy", "layer")
    move(at, "segmented_control", "layer_rates", "uniform")
    assert named_rate(shortfall(at)) > 0.25
    move(at, "slider", "bounds", (0.0, 0.2))
    assert "the bounds win" in shortfall(at) and "no rates between 0% and 20%" in shortfall(at)


def named_rate(sentence: str) -> float:
    return float(sentence.rsplit("rates rise to ", 1)[1].rstrip("%.")) / 100


def test_a_split_that_cannot_give_the_ratio_names_the_largest(at):
    move(at, "segmented_control", "strategy", "uniform")
    move(at, "select_slider", "shares", "10:0")
    assert any("A split of 10:0 can remove at most" in caption.value for caption in at.caption)


def test_layers_that_are_emptied_are_counted(at):
    move(at, "toggle", "empty", True)
    move(at, "text_input", "cut", "5a0-3,5m0-383,6a0-3")
    assert any("2 layers lose their whole attention or MLP; 1 layer is deleted" in one.value for one in at.warning)
    assert strip(at)[t("plan.layers_removed")] == "1"


def test_layers_of_which_little_is_left_are_named(at):
    move(at, "text_input", "cut", "5m0-345,7m0-344,9a0-2")  # of 384 channels at most 38 are a tenth
    move(at, "slider", "ratio", 0.01)
    [warning] = at.warning
    assert warning.value == t("plan.nearly_emptied.mlp", count=1, layers="5")
    assert any(caption.value == t("plan.by_hand.on_top", count=346 + 345 + 3) for caption in at.caption)


# undo, presets, links ------------------------------------------------------------------------------------------------


def test_undo_and_redo_bring_back_settings_and_charts(at):
    seen = [drawn(at)]
    for step in (
        ("slider", "ratio", 0.15),
        ("segmented_control", "strategy", "layer"),
        ("slider", "bounds", (0.05, 0.4)),
        ("text_input", "cut", "5m0-9"),
        ("slider", "layers32", (2, 30)),
    ):
        move(at, *step)
        seen.append(drawn(at))
    for before in reversed(seen[:-1]):
        press(at, "plan_undo")
        assert drawn(at) == before
    assert at.button(key="plan_undo").disabled and at.slider(key="ratio").value == 0.25
    assert at.segmented_control(key="strategy").value == "global"
    for after in seen[1:]:
        press(at, "plan_redo")
        assert drawn(at) == after
    assert at.button(key="plan_redo").disabled and at.slider(key="bounds").value == (0.05, 0.4)
    press(at, "plan_undo")
    move(at, "slider", "ratio", 0.4)
    assert at.button(key="plan_redo").disabled


@pytest.mark.parametrize(("preset", "ratio"), [("quick", 0.3), ("standard", 0.25), ("careful", 0.15)])
def test_a_preset_sets_all_and_undo_takes_it_back(at, experiment, preset, ratio):
    move(at, "segmented_control", "strategy", "layer")
    move(at, "slider", "weight", 2.5)
    before = drawn(at)
    press(at, f"preset_{preset}")
    assert_shows(at, planned(experiment, pruning_ratio=ratio))
    press(at, "plan_undo")
    assert drawn(at) == before and at.slider(key="weight").value == 2.5


def test_reset_goes_back_to_the_defaults_and_out_of_the_link(at, experiment):
    for step in (("slider", "ratio", 0.4), ("select_slider", "split", "3:7"), ("text_input", "protect", "17")):
        move(at, *step)
    assert {"ratio", "split", "protect"} <= set(at.query_params)
    press(at, "plan_reset")
    assert_shows(at, planned(experiment))
    assert not {"ratio", "split", "protect"} & set(at.query_params)


LINKED = [
    ("global", [MILD, SPLIT, APART, ("slider", "layers32", (4, 20)), ("slider", "mlp_layers32", (1, 28))]),
    ("global", [("selectbox", "basis", "selected"), ("number_input", "freeze", 3), ("text_input", "protect", "0-2,17")]),
    ("layer", [("slider", "bounds", (0.07, 0.65)), ("slider", "weight", 1.7), ("select_slider", "shares", "3:7"), MATCH]),
    ("layer", [EQUAL, ("text_input", "cut", "3a1,5m20-29"), ("text_input", "keep", "7m0-99")]),
    ("uniform", [("selectbox", "multiple", 64), ("select_slider", "shares", "5:5"), ("number_input", "floor_kv", 2)]),
]


@pytest.mark.parametrize(("strategy", "steps"), LINKED)
def test_a_link_opens_the_same_plan_in_a_new_session(experiment, at, strategy, steps):
    move(at, "segmented_control", "strategy", strategy)
    for step in steps:
        move(at, *step[:3])
    other = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    other.query_params |= at.query_params
    other = on_page(other, "plan")
    assert not other.error
    assert strip(other) == strip(at) and drawn(other) == drawn(at)
    values = {widget.key: widget.value for kind in WIDGETS for widget in getattr(at, kind)}
    assert values == {widget.key: widget.value for kind in WIDGETS for widget in getattr(other, kind)}


def test_what_was_set_is_there_after_a_visit_to_another_page(at):
    move(at, "segmented_control", "strategy", "layer")
    move(at, "slider", "weight", 2.0)
    before = drawn(at)
    at.switch_page(str(ROOT / "pages" / "importance.py")).run()
    at.switch_page(str(ROOT / "pages" / "plan.py")).run()
    assert drawn(at) == before


def test_a_saved_plan_opens_as_it_was_saved_digits_and_all(experiment):
    """The command line takes any number; a slider shows it rounded, the plan and its link do not round."""
    settings = {"pruning_ratio": 0.28531234567, "importance_weight": 1.23456789, "layer_min_pruning_rate": 0.00001}
    found = planned_with_rates(experiment, **settings)
    experiment.write_plan(found.plan, experiment.read_table(), found.rates)
    experiment.write_settings(replace(experiment.settings, **found.plan.settings))
    at = open_plan_page(experiment)
    assert_shows(at, found.plan)
    assert any(success.value == t("plan.saved") for success in at.success)
    other = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    other.query_params |= at.query_params
    assert_shows(on_page(other, "plan"), found.plan)


# groups by hand ------------------------------------------------------------------------------------------------------


def mark_rows(at: AppTest, rows: list[int]) -> list[tuple]:
    """Marks rows of the table of groups; returns which groups these are."""
    [key] = [str(frame.key) for frame in at.dataframe if str(frame.key).startswith("group_rows")]
    at.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    at.run()
    [frame] = [frame.value for frame in at.dataframe if str(frame.key).startswith("group_rows")]
    return [tuple(row) for row in frame.loc[rows, ["layer_idx", "group_type", "group_idx"]].itertuples(index=False)]


def test_groups_kept_and_cut_by_hand_count_and_stay_in_the_plan(experiment, at):
    move(at, "multiselect", "group_layers", [0, 9])
    move(at, "segmented_control", "group_type", "mlp")
    [first, second] = mark_rows(at, [0, 1])
    assert {first[0], second[0]} <= {0, 9}
    press(at, "groups_cut")
    assert strip(at)[t("plan.by_hand")] == "2"
    move(at, "multiselect", "group_layers", [])
    move(at, "segmented_control", "group_fate", "cut")
    [third] = mark_rows(at, [0])
    press(at, "groups_keep")
    assert strip(at)[t("plan.by_hand")] == "3"
    named = ",".join(at.text_input(key=key).value for key in ("cut", "keep"))
    assert f"{third[0]}m{third[2]}" in named
    plan = planned(experiment, cut_groups=at.text_input(key="cut").value, keep_groups=at.text_input(key="keep").value)
    assert_shows(at, plan)
    press(at, "save_plan")
    saved = experiment.read_plan()
    assert (saved.kept == plan.kept).all() and (saved.by_hand == plan.by_hand).all() and len(saved.by_hand) == 3
    assert json.loads(experiment.path("plan.json").read_text())["by_hand"]


def test_what_was_said_by_hand_can_be_forgotten(experiment, at):
    before = drawn(at)
    move(at, "text_input", "cut", "5m0-9")
    move(at, "segmented_control", "group_fate", "by_hand")
    mark_rows(at, list(range(10)))
    press(at, "groups_forget")
    assert at.text_input(key="cut").value == "" and drawn(at) == before


def test_rows_that_were_marked_are_not_taken_for_others(at):
    """With another filter, page or plan other groups stand in the rows: what was marked there does not count for them."""
    mark_rows(at, [45])
    assert not at.button(key="groups_cut").disabled
    move(at, "number_input", "group_page", 2)
    assert at.button(key="groups_cut").disabled
    mark_rows(at, [45])
    move(at, "multiselect", "group_layers", [3])
    assert at.button(key="groups_cut").disabled
    mark_rows(at, [45])
    move(at, "segmented_control", "group_type", ATTENTION)
    assert at.button(key="groups_cut").disabled and len(at.dataframe[0].value) == 4


def test_groups_of_protected_layers_are_marked(at):
    for layer, spared in ((2, True), (3, False)):
        move(at, "multiselect", "group_layers", [layer])
        assert at.dataframe[0].value["protected"].tolist() == [spared] * 50


def test_a_filter_leads_back_to_the_first_page(at):
    move(at, "number_input", "group_page", 200)
    move(at, "multiselect", "group_layers", [3])
    assert at.number_input(key="group_page").value == 1


# kept plans ----------------------------------------------------------------------------------------------------------


def keep(at: AppTest, name: str) -> None:
    at.text_input(key="plan_name").set_value(name)
    press(at, "keep_plan")


def test_a_plan_is_kept_compared_opened_and_forgotten(experiment, at):
    move(at, "segmented_control", "plan_section", "plans")
    move(at, "segmented_control", "strategy", "layer")
    first = drawn(at)
    keep(at, "by-layer")
    assert experiment.named_plans() == ["by-layer"] and at.text_input(key="plan_name").value == ""
    assert [success.value for success in at.success] == [t("plans.same")]
    press(at, "preset_careful")
    keep(at, "careful")
    at.selectbox(key="compare_first").set_value("by-layer")
    move(at, "selectbox", "compare_second", "careful")
    by_layer, careful = experiment.read_named_plan("by-layer"), experiment.read_named_plan("careful")
    rows = at.dataframe[0].value
    assert rows["plan"].tolist() == ["by-layer", "careful"]
    assert rows["parameters"].tolist() == [plan.shape_after.parameters for plan in (by_layer, careful)]
    assert rows["mlp"].tolist() == [int((384 - plan.kept_counts[:, 1]).sum()) for plan in (by_layer, careful)]
    difference = figures(at)["difference"].data
    only_first = sum(abs(numbers_of(trace.y)).sum() for trace in difference if "by-layer" in trace.name)
    assert only_first == int((~by_layer.kept & careful.kept).sum())

    move(at, "selectbox", "named_plan", "by-layer")
    press(at, "open_plan")
    assert {key: figure for key, figure in drawn(at).items() if key in first} == first
    assert at.segmented_control(key="strategy").value == "layer" and not at.info[1:]
    press(at, "plan_undo")
    assert at.slider(key="ratio").value == 0.15
    press(at, "forget_plan")
    assert experiment.named_plans() == ["careful"]
    move(at, "selectbox", "named_plan", "careful")
    press(at, "forget_plan")
    assert experiment.named_plans() == [] and any(info.value == t("plans.empty") for info in at.info)


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b"])
def test_a_name_that_is_none_gets_a_sentence(experiment, at, name):
    move(at, "segmented_control", "plan_section", "plans")
    keep(at, name)
    assert len(at.error) == 1 and "cannot be a file name" in at.error[0].value
    assert experiment.named_plans() == []


def test_a_kept_plan_that_was_damaged_is_named(experiment, at):
    move(at, "segmented_control", "plan_section", "plans")
    keep(at, "mine")
    experiment.path("plans", "mine.json").write_text("{")
    press(at, "open_plan")
    assert at.error and all("mine.json" in error.value for error in at.error)


# plans from files ----------------------------------------------------------------------------------------------------


def upload(at: AppTest, files: dict[str, str], meaning: str = "rows") -> AppTest:
    if at.segmented_control(key="plan_section").value != "file":
        move(at, "segmented_control", "plan_section", "file")
    move(at, "radio", "upload_meaning", meaning)
    move(at, "file_uploader", "plan_files", [(name, text.encode(), "text/plain") for name, text in files.items()])
    return press(at, "read_upload")


def is_fixed(at: AppTest, name: str) -> bool:
    return t("plan.fixed", name=name) in [info.value for info in at.info]


def saved_plan_json(experiment: Experiment, at: AppTest) -> dict:
    press(at, "save_plan")
    return json.loads(experiment.path("plan.json").read_text())


@pytest.mark.parametrize("strategy", ["global", "layer", "uniform"])
def test_the_page_s_own_plan_json_moves_the_sliders(experiment, at, strategy):
    move(at, "segmented_control", "strategy", strategy)
    content, before = saved_plan_json(experiment, at), drawn(at)
    press(at, "preset_careful")
    upload(at, {"plan.json": json.dumps(content)})
    assert not at.error and not is_fixed(at, "plan")
    assert at.segmented_control(key="strategy").value == strategy and drawn(at) == before


@pytest.mark.parametrize("strategy", ["global", "layer", "uniform"])
def test_an_edited_plan_json_stands_in_for_the_sliders(experiment, at, strategy):
    move(at, "segmented_control", "strategy", strategy)
    content = saved_plan_json(experiment, at)
    content["layers"][5]["mlp"] = content["layers"][5]["mlp"][:-3]
    upload(at, {"my plan.json": json.dumps(content)})
    assert is_fixed(at, "my-plan") and not at.error and at.query_params["plan"] == "my-plan"
    expected = PruningPlan.from_json(content, experiment.shape())
    assert kept_on_screen(at) == expected.kept_counts.tolist()
    assert strip(at)[t("plan.parameters")] == f"{expected.shape_after.parameters:,}"
    move(at, "text_input", "cut", "9m0-4")
    assert kept_on_screen(at)[9][1] <= expected.kept_counts[9, 1]
    assert strip(at)[t("plan.by_hand")] == "5"
    move(at, "text_input", "cut", "")
    other = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    other.query_params |= at.query_params
    assert kept_on_screen(on_page(other, "plan")) == kept_on_screen(at)
    press(at, "save_plan")
    assert (experiment.read_plan().kept == expected.kept).all()
    press(at, "leave_fixed")
    assert not is_fixed(at, "my-plan") and "plan" not in at.query_params
    assert_shows(at, planned(experiment, strategy))


def test_a_plan_from_a_file_is_previewed_as_it_is(experiment, at):
    """The settings in an edited plan.json give another plan: what is tried is the one on screen."""
    content = saved_plan_json(experiment, at)
    content["layers"][5]["mlp"] = content["layers"][5]["mlp"][:-3]
    upload(at, {"mine.json": json.dumps(content)})
    move(at, "segmented_control", "plan_section", "preview")
    move(at, "number_input", "eval_windows", 4)
    press(at, "preview")
    wait_for_end(experiment)
    queue().shutdown()
    at.run()
    assert not at.exception and not at.error
    [_, tried] = read_trials(experiment)
    expected = PruningPlan.from_json(content, experiment.shape())
    assert (tried.name, tried.parameters) == ("mine", expected.shape_after.parameters)
    assert any(f"Perplexity {tried.perplexity:.2f} (" in success.value for success in at.success)
    assert at.button(key="preview").disabled and at.button(key="take_trial").disabled


def rows_csv(experiment: Experiment, groups: list[tuple[int, str, int]]) -> str:
    """Rows of the experiment's own table, as an editor leaves them."""
    frame = experiment.read_table().frame().set_index(["layer_idx", "group_type", "group_idx"])
    return frame.loc[groups].reset_index().to_csv(index=False)


def sidecar(fingerprint: str) -> str:
    return json.dumps({"format_version": 1, "fingerprint": fingerprint})


CHOSEN = [(4, "attention", 2), (5, "mlp", 17), (5, "mlp", 18)]


def test_rows_that_were_chosen_are_cut_and_no_others(experiment, at):
    files = {"chosen.csv": rows_csv(experiment, CHOSEN)}
    upload(at, files | {"chosen.csv.json": sidecar(experiment.description()["fingerprint"])})
    assert not at.error and is_fixed(at, "chosen")
    gone = {(layer, kind): before - kept for layer, row in enumerate(kept_on_screen(at)) for kind, kept, before in pairs(row)}
    assert {block: count for block, count in gone.items() if count} == {(4, "attention"): 1, (5, "mlp"): 2}
    assert strip(at)[t("plan.target")] == "-"
    press(at, "save_plan")
    assert experiment.read_plan().kept_groups(4, "attention").tolist() == [0, 1, 3]


def pairs(row: list[int]) -> list[tuple[str, int, int]]:
    return [("attention", row[0], 4), ("mlp", row[1], 384)]


def test_rows_without_a_sidecar_are_taken_with_a_warning(experiment, at):
    move(at, "segmented_control", "plan_section", "file")
    upload(at, {"chosen.csv": rows_csv(experiment, CHOSEN)})
    assert not at.error and is_fixed(at, "chosen")


def test_an_edited_table_opens_an_experiment_beside_this_one(experiment, at):
    frame = experiment.read_table().frame()
    frame.loc[frame["layer_idx"] == 8, "score"] *= 1e6
    upload(at, {"edited.csv": frame.to_csv(index=False)}, meaning="table")
    assert not at.error and at.query_params["experiment"] == "first-2"
    assert kept_on_screen(at)[8] == [4, 384]
    assert experiment.read_table().score[experiment.read_table().groups.layer_idx == 8].max() < 1


def faulty(experiment: Experiment, fault: str) -> tuple[dict[str, str], str]:
    """Files with one fault, and what the sentence about it says."""
    csv = rows_csv(experiment, CHOSEN)
    lines = csv.splitlines()
    return {
        "another model's rows": ({"x.csv": csv, "x.csv.json": sidecar(OTHER_FINGERPRINT)}, "was made for another model"),
        "a missing column": ({"x.csv": csv.replace("cost", "price")}, "x.csv lacks the column 'cost'"),
        "an unknown group": ({"x.csv": csv.replace("5,mlp,18", "5,mlp,384")}, "x.csv, row 4: group_idx"),
        "an unknown layer": ({"x.csv": csv.replace("4,attention", "32,attention")}, "is not a layer of this model"),
        "a row twice": ({"x.csv": "\n".join([*lines, lines[1]])}, "row 5: group_idx 2 is in the table twice"),
        "a word for a number": ({"x.csv": csv.replace("5,mlp,17", "5,mlp,many")}, "row 3: group_idx 'many' is not a number"),
        "no rows": ({"x.csv": lines[0]}, "has no rows"),
        "no text": ({"x.csv": ""}, "x.csv cannot be read"),
        "another model's plan": ({"p.json": plan_text(experiment, fingerprint=OTHER_FINGERPRINT)}, "made for another model"),
        "a plan without layers": ({"p.json": plan_text(experiment, layers=[])}, "one entry per layer is needed"),
        "a plan of another format": ({"p.json": plan_text(experiment, format_version=9)}, "format version 9"),
        "no JSON": ({"p.json": "{"}, "p.json cannot be read"),
        "a list": ({"p.json": "[]"}, "p.json cannot be read"),
        "a broken sidecar": ({"x.csv": csv, "x.csv.json": "{"}, "x.csv.json cannot be read"),
        "two files": ({"x.csv": csv, "y.csv": csv}, "Choose one file"),
        "a sidecar alone": ({"x.csv.json": sidecar(OTHER_FINGERPRINT)}, "Choose one file"),
    }[fault]


def plan_text(experiment: Experiment, **changes) -> str:
    return json.dumps(planned(experiment).to_json() | changes)


FAULTS = (
    *("another model's rows", "a missing column", "an unknown group", "an unknown layer", "a row twice", "no rows", "no text"),
    *("a word for a number", "another model's plan", "a plan without layers", "a plan of another format", "no JSON", "a list"),
    *("a broken sidecar", "two files", "a sidecar alone"),
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_at_fault_gets_one_sentence_and_changes_nothing(experiment, at, fault):
    before = drawn(at)
    files, words = faulty(experiment, fault)
    upload(at, files)
    assert len(at.error) == 1 and words in at.error[0].value
    assert drawn(at) == before and experiment.named_plans() == []


def test_a_table_at_fault_opens_no_experiment(experiment, at):
    upload(at, {"t.csv": rows_csv(experiment, CHOSEN).replace("5,mlp,18", "5,mlp,17")}, meaning="table")
    assert len(at.error) == 1 and "row 4: group_idx 17 is in the table twice" in at.error[0].value
    assert [folder.name for folder in experiment.folder.parent.iterdir()] == ["first"]


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (("number_input", "freeze", 40), "`freeze_top_n_layers` is 40, but this model has 32 layers"),
        (("slider", "ratio", 0.9), "at most 0."),
        (("select_slider", "split", "10:0"), "parameters of attention; only 829,440 can be removed"),
        (("text_input", "protect", "99"), "There is no layer 99"),
        (("text_input", "cut", "3a4"), "layer 3 has 4 groups of kind attention"),
        (("text_input", "cut", "groups"), "does not name groups"),
        (("text_input", "cut", "3a0-3"), "layer 3 would keep 0 groups of kind attention"),
        (("number_input", "floor_mlp", 384), "at most 0."),
    ],
)
def test_what_cannot_be_gets_one_sentence_above_the_last_plan(at, step, words):
    move(at, "slider", "ratio", 0.3)
    before, numbers = drawn(at), strip(at)
    move(at, *step)
    assert len(at.error) == 1 and words in at.error[0].value
    assert drawn(at) == before and strip(at) == numbers
    assert any(caption.value == t("plan.last_valid") for caption in at.caption)
    assert "save_plan" not in [button.key for button in at.button]
    press(at, "plan_undo")
    assert not at.error and drawn(at) == before


def test_what_is_kept_cannot_be_cut(at):
    move(at, "text_input", "keep", "3a1")
    move(at, "text_input", "cut", "3a0-1")
    assert len(at.error) == 1 and "3a1 is both kept and cut by hand" in at.error[0].value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "layer", "layer_min_pruning_rate": 0.6, "layer_max_pruning_rate": 0.4}, "cannot be above the largest"),
        ({"freeze_top_n_layers": 40}, "`freeze_top_n_layers` is 40"),
        ({"protected_layers": "99"}, "There is no layer 99"),
        ({"block_mlp_layer_start": 20, "block_mlp_layer_end": 10, "protected_layers": "99"}, "There is no layer 99"),
        ({"keep_groups": "3z1"}, "does not name groups"),
    ],
)
def test_a_description_edited_by_hand_gets_one_sentence_and_reset_mends_it(experiment, settings, words):
    at = open_plan_page(with_saved(experiment, settings))
    if not at.error:  # no slider gives the saved plan, so it is shown as it is until the sliders are asked
        press(at, "leave_fixed")
    assert len(at.error) == 1 and words in at.error[0].value
    press(at, "plan_reset")
    assert_shows(at, planned(experiment))


@pytest.mark.parametrize(
    "settings",
    [
        {"min_kv_groups": 9},
        {"min_mlp_channels": 5000},
        {"mlp_multiple": 3},
        {"importance_weight": 9.0, "strategy": "layer"},
        {"pruning_distribution": "1:1"},
        {"block_mlp_layer_start": 20, "block_mlp_layer_end": 10},
    ],
)
def test_saved_settings_that_no_widget_shows_still_open(experiment, settings):
    at = open_plan_page(with_saved(experiment, settings))
    assert not at.exception and len(at.error) <= 1


def with_saved(experiment: Experiment, settings: dict) -> Experiment:
    """The experiment with a saved plan, so that the page opens with its settings, of which some were edited."""
    plan = planned(experiment)
    experiment.write_plan(plan, experiment.read_table())
    experiment.write_settings(replace(experiment.settings, **(plan.settings | settings)))
    return experiment


@pytest.mark.parametrize(
    "link", [{"freeze": "40"}, {"floor_kv": "100"}, {"layers32": "29-3"}, {"bounds": "0.5-0.1"}, {"plan": "x"}]
)
def test_a_link_with_what_cannot_be_opens_the_page(experiment, link):
    at = open_plan_page(experiment, **link)
    assert not at.exception and len(at.error) == ("freeze" in link)


def test_without_the_importance_of_layers_only_equal_rates_are_offered(experiment):
    experiment.path("layer_importance_config.json").unlink()
    at = open_plan_page(experiment)
    assert at.number_input(key="freeze").disabled
    move(at, "segmented_control", "strategy", "layer")
    assert len(at.error) == 1 and "needs the importance of layers" in at.error[0].value
    move(at, "segmented_control", "layer_rates", "uniform")
    assert not at.error


def test_use_this_plan_writes_what_is_on_screen(experiment, at):
    move(at, "segmented_control", "strategy", "layer")
    move(at, "slider", "bounds", (0.05, 0.6))
    press(at, "save_plan")
    plan = planned(experiment, "layer", layer_min_pruning_rate=0.05, layer_max_pruning_rate=0.6)
    assert_shows(at, plan)
    saved = experiment.read_plan()
    assert (saved.kept == plan.kept).all()
    kept_settings = experiment.settings.of(PLAN_SETTINGS)
    assert kept_settings == {name: saved.settings[name] for name in PLAN_SETTINGS}
    assert any(success.value == t("plan.saved") for success in at.success)
    move(at, "slider", "ratio", 0.1)
    assert not at.success and at.button(key="save_plan")
