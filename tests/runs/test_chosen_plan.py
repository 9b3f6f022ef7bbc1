"""A file that a person downloaded, edited and gives back: the plan it says, or the fault and its row."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.files import write_json
from pruning.plan_from_file import plan_from_file
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.planner import plan_from_settings
from pruning.settings import resolve
from tests.planning.examples import random_table, small_config, small_shape

SHAPE = small_shape(num_hidden_layers=6, intermediate_size=20)
RATIO = 0.2
TABLE, GROUPS, PLAN = "global_group_table.csv", "groups_to_prune.csv", "plan.json"


@pytest.fixture
def run(tmp_path) -> Experiment:
    """A finished `global` run of a model whose fingerprint is abc."""
    experiment = Experiment.create(tmp_path, "run")
    header = CheckpointHeader(tmp_path, small_config(num_hidden_layers=6, intermediate_size=20), {}, ())
    header.__dict__["fingerprint"] = "abc"  # of a model without weights
    settings = resolve({"pruning_ratio": RATIO, "cut_groups": "0m3", "keep_groups": "2m0"})
    experiment.write_settings(settings)
    experiment.write_model(header, {})
    table = random_table(SHAPE)
    experiment.write_table(table)
    experiment.write_plan(plan_from_settings(table, settings).plan, table)
    return experiment


def chosen(path: Path, fingerprint: str = "abc", **given):
    source = {TABLE: "table", GROUPS: "groups", PLAN: "plan"}[path.name]
    return plan_from_file(SHAPE, fingerprint, resolve({source: path, "pruning_ratio": RATIO} | given))


def edit(path: Path, change) -> None:
    frame = change(pd.read_csv(path))
    frame.to_csv(path, index=False)


def fault(path: Path, fingerprint: str = "abc", **given) -> str:
    with pytest.raises(PruningError) as caught:
        chosen(path, fingerprint, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path}", path.name)


# round trips ----------------------------------------------------------------------------------------------------------


def test_a_downloaded_list_of_groups_gives_the_same_plan(run):
    again = chosen(run.path(GROUPS))
    np.testing.assert_array_equal(again.plan.kept, run.read_plan().kept)
    assert (again.plan.fingerprint, again.warnings) == ("abc", ())


def test_a_downloaded_plan_gives_the_same_plan_with_its_settings_and_hand_changes(run):
    again, plan = chosen(run.path(PLAN)).plan, run.read_plan()
    assert again.to_json() == plan.to_json()
    assert len(plan.by_hand) == 2


def test_the_whole_table_with_the_ratio_gives_the_plan_of_the_run(run):
    by_hand = {"cut_groups": "0m3", "keep_groups": "2m0"}
    again = chosen(run.path(TABLE), **by_hand)
    assert again.plan.to_json() == run.read_plan().to_json()
    assert again.table.source == run.read_table().source | {"from_file": True} and again.warnings == ()


def test_a_table_in_another_order_is_the_same(run):
    expected = chosen(run.path(TABLE)).plan
    edit(run.path(TABLE), lambda frame: frame.sample(frac=1, random_state=3))
    np.testing.assert_array_equal(chosen(run.path(TABLE)).plan.kept, expected.kept)


def test_rows_that_were_dropped_are_kept_groups(run):
    lowest = chosen(run.path(TABLE)).plan.groups
    edit(run.path(TABLE), lambda frame: frame[~((frame["layer_idx"] == 2) & (frame["group_type"] == "mlp"))])
    plan = chosen(run.path(TABLE)).plan
    assert plan.kept[lowest.slice_of(2, "mlp")].all()
    assert not plan.kept.all()
    edit(run.path(GROUPS), lambda frame: frame.iloc[3:])
    assert (~chosen(run.path(GROUPS)).plan.kept).sum() == (~run.read_plan().kept).sum() - 3


def test_edited_scores_rank(run):
    best = pd.read_csv(run.path(TABLE)).query("layer_idx == 3 and group_type == 'mlp'").iloc[-1]
    before = chosen(run.path(TABLE)).plan
    assert best["group_idx"] in before.kept_groups(3, "mlp")

    def make_worst(frame):
        row = (frame["layer_idx"] == 3) & (frame["group_type"] == "mlp") & (frame["group_idx"] == best["group_idx"])
        frame.loc[row, "score"] = 1e-9
        return frame

    edit(run.path(TABLE), make_worst)
    again = chosen(run.path(TABLE))
    assert best["group_idx"] not in again.plan.kept_groups(3, "mlp")
    assert again.table.frame().iloc[0]["group_idx"] == best["group_idx"]
    assert again.table.frame().iloc[0]["importance"] == pytest.approx(1e-9 * 24)


def test_an_edited_importance_alone_does_not_rank(run):
    """The score is what ranks: a row whose importance was changed and whose score was not keeps its place."""
    expected = chosen(run.path(TABLE)).plan
    edit(run.path(TABLE), lambda frame: frame.assign(importance=1.0))
    np.testing.assert_array_equal(chosen(run.path(TABLE)).plan.kept, expected.kept)


def test_a_list_that_was_made_from_a_plan_has_no_scores_and_can_be_given_back(run):
    plan = run.read_plan()
    run.write_plan(plan)
    frame = pd.read_csv(run.path(GROUPS))
    assert frame["score"].isna().all() and len(frame) == (~plan.kept).sum()
    np.testing.assert_array_equal(chosen(run.path(GROUPS)).plan.kept, plan.kept)


# whose model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [TABLE, GROUPS, PLAN])
def test_a_file_of_another_model_is_refused(run, name):
    assert fault(run.path(name), fingerprint="xyz") == (
        f"{name} was made for another model (fingerprint abc, this model has xyz)."
    )


@pytest.mark.parametrize("name", [TABLE, GROUPS, PLAN])
def test_a_file_that_does_not_say_whose_it_is_is_taken_with_a_warning(run, name):
    if name == PLAN:
        write_json(run.path(PLAN), json.loads(run.path(PLAN).read_text()) | {"fingerprint": None})
    else:
        run.path(f"{name}.json").unlink()
    again = chosen(run.path(name))
    assert [str(warning).replace(str(run.folder), "") for warning in again.warnings] == [
        f"/{name} does not say which model it was made for (no fingerprint beside it or in it). Its groups and costs fit "
        "this model."
    ]
    assert again.plan.fingerprint == "abc"


def test_a_table_of_a_model_of_another_size_without_its_sidecar_is_refused_by_its_costs(run):
    run.path(f"{TABLE}.json").unlink()
    edit(run.path(TABLE), lambda frame: frame.assign(cost=frame["cost"] * 2))
    assert "row 2: cost" in fault(run.path(TABLE)) and "is not the cost of this group" in fault(run.path(TABLE))


# faults ---------------------------------------------------------------------------------------------------------------


def set_cell(frame, row: int, column: str, value):
    frame = frame.astype({column: object})
    frame.loc[row - 2, column] = value
    return frame


@pytest.mark.parametrize("name", [TABLE, GROUPS])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.drop(columns="group_idx"), "lacks the column 'group_idx'; it needs: layer_idx, group_type, group_idx"),
        (lambda f: set_cell(f, 5, "layer_idx", 6), "row 5: layer_idx"),
        (lambda f: set_cell(f, 5, "group_idx", 20), "row 5: group_idx"),
        (lambda f: set_cell(f, 5, "group_type", "head"), "row 5: group_type 'head' must be attention or mlp"),
        (lambda f: set_cell(f, 5, "cost", 7), "row 5: cost"),
        (lambda f: pd.concat([f.iloc[:4], f.iloc[[1]], f.iloc[4:]]), "row 6: group_idx"),
        (lambda f: f.iloc[:0], "has no rows"),
    ],
)
def test_each_fault_names_its_row(run, name, change, sentence):
    edit(run.path(name), change)
    assert sentence in fault(run.path(name)) and fault(run.path(name)).startswith(name)


def test_a_list_that_breaks_a_floor_names_the_row(run):
    channels = pd.read_csv(run.path(TABLE)).query("layer_idx == 4 and group_type == 'mlp'")
    edit(run.path(GROUPS), lambda _: channels)
    assert fault(run.path(GROUPS)) == (
        f"{GROUPS}, row 21: cut too, layer 4 keeps fewer than 1 group of kind mlp, which must stay."
    )
    assert chosen(run.path(GROUPS), remove_empty_layers=True).plan.kept_counts[4].tolist() == [2, 0]


def test_a_plan_that_breaks_a_floor_names_the_layer(run):
    content = json.loads(run.path(PLAN).read_text())
    content["layers"][4]["mlp"] = []
    write_json(run.path(PLAN), content)
    assert "plan.json, layer 4: 0 groups of kind mlp would stay, at least 1 must" in fault(run.path(PLAN))
    write_json(run.path(PLAN), content | {"remove_empty_layers": True})
    assert chosen(run.path(PLAN)).plan.kept_counts[4, 1] == 0


def test_exactly_one_file_must_be_given(run, tmp_path):
    both = {"table": run.path(TABLE), "groups": run.path(GROUPS)}
    for given in ({}, both):
        with pytest.raises(PruningError, match="Give one of --groups, --table or --plan: the file that says what is cut"):
            plan_from_file(SHAPE, "abc", resolve(given))
    shutil.rmtree(run.folder)
    for name in (TABLE, GROUPS, PLAN):
        assert fault(run.path(name)) == f"The file {name} is not there."


@pytest.mark.parametrize("name", [TABLE, GROUPS, PLAN])
def test_a_file_of_something_else_is_named(run, name):
    run.path(name).write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff")
    assert fault(run.path(name)).startswith(f"{name} cannot be read: ")


@pytest.mark.parametrize("strategy", [[], {}, "none"])
def test_a_strategy_that_is_none_is_told(run, strategy):
    content = json.loads(run.path(PLAN).read_text())
    write_json(run.path(PLAN), content | {"settings": {"strategy": strategy}})
    assert "its settings are not those of a plan" in fault(run.path(PLAN))
