"""The group table: order, CSV round trip, and what a person is told about a faulty row."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings

from pruning.errors import PruningError
from pruning.experiment import read_table
from pruning.files import write_csv, write_json
from pruning.planning.group_table import COLUMNS, FORMAT_VERSION, GroupTable
from tests.planning.examples import random_table, small_shape, tables


def csv_text(table: GroupTable) -> str:
    return table.frame().to_csv(index=False)


def read_frame(frame: pd.DataFrame, shape=None) -> GroupTable:
    return GroupTable.from_frame(frame, shape or small_shape(), {}, "edited.csv")


NOTHING_MEASURED = replace(random_table(small_shape()), importance=np.full(4 * (2 + 6), np.nan))


@given(table=tables())
@example(table=NOTHING_MEASURED)
def test_csv_round_trip_is_exact(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "global_group_table.csv"
    write_csv(path, table.frame())
    write_json(path.with_name(path.name + ".json"), {"format_version": FORMAT_VERSION} | table.source)
    if not len(table.order):  # a file without rows is more likely a mistake than a plan to cut nothing
        with pytest.raises(PruningError, match="has no rows"):
            read_table(path, table.shape)
        return
    read = read_table(path, table.shape)
    np.testing.assert_array_equal(read.importance, table.importance)  # equal to the last bit; NaN equals NaN
    assert read.source == table.source
    assert csv_text(read) == csv_text(table)


@given(table=tables())
@settings(max_examples=50)
def test_order_is_by_score_then_layer_then_attention_then_index(table):
    rows = table.frame().to_dict("records")
    keys = [(r["score"], r["layer_idx"], r["group_type"] == "mlp", r["group_idx"]) for r in rows]
    assert keys == sorted(keys)
    assert len(rows) == np.count_nonzero(~np.isnan(table.importance))


def test_score_is_importance_per_parameter():
    frame = random_table(small_shape()).frame()
    np.testing.assert_array_equal(frame["score"], frame["importance"] / frame["cost"])
    assert list(frame.columns) == COLUMNS
    assert set(frame.loc[frame["group_type"] == "attention", "cost"]) == {8 * 2 * 6}
    assert set(frame.loc[frame["group_type"] == "mlp", "cost"]) == {3 * 8}


def test_rows_may_be_edited_reordered_and_dropped():
    table = random_table(small_shape())
    frame = table.frame().sample(frac=1, random_state=0).iloc[:20].astype({"importance": str})  # an editor may give text
    read = read_frame(frame)
    assert np.count_nonzero(~np.isnan(read.importance)) == 20
    measured = ~np.isnan(read.importance)
    np.testing.assert_array_equal(read.importance[measured], table.importance[measured])


def test_a_table_without_sidecar_is_of_unknown_source(tmp_path):
    write_csv(tmp_path / "table.csv", random_table(small_shape()).frame())
    assert read_table(tmp_path / "table.csv", small_shape()).source == {}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("layer_idx", 4, "layer_idx 4 is not a layer of this model"),
        ("layer_idx", -1, "layer_idx -1 is not a layer of this model"),
        ("layer_idx", 1.5, "layer_idx 1.5 is not a layer of this model"),
        ("layer_idx", "two", "layer_idx 'two' is not a number"),
        ("layer_idx", float("inf"), "layer_idx inf is not a layer of this model"),
        ("group_type", "heads", "group_type 'heads' must be attention or mlp"),
        ("group_type", None, "group_type None must be attention or mlp"),
        ("group_idx", 99, "group_idx 99 is not a group of this layer"),
        ("group_idx", -1, "group_idx -1 is not a group of this layer"),
        ("group_idx", 0.5, "group_idx 0.5 is not a group of this layer"),
        ("importance", "high", "importance 'high' is not a number"),
        ("importance", None, "importance None is not a number"),
        ("importance", float("inf"), "importance inf is not a finite number"),
        ("cost", 5, "cost 5 is not the cost of this group"),
    ],
)
def test_a_faulty_row_is_named_as_a_spreadsheet_counts(column, value, reason):
    frame = random_table(small_shape()).frame().astype({column: object})
    frame.loc[6, column] = value
    with pytest.raises(PruningError) as caught:
        read_frame(frame)
    assert str(caught.value) == f"edited.csv, row 8: {reason}."


def test_a_number_is_shown_as_it_stands_in_the_file(tmp_path):
    table = random_table(small_shape())
    write_csv(tmp_path / "t.csv", table.frame().assign(group_idx=7))
    with pytest.raises(PruningError, match=r"row 2: group_idx 7 is not a group of this layer\."):
        read_table(tmp_path / "t.csv", table.shape)


def test_a_row_that_stands_twice_is_named():
    frame = random_table(small_shape()).frame()
    with pytest.raises(PruningError, match=r"row 34: group_idx .* is in the table twice"):
        read_frame(pd.concat([frame, frame.iloc[[3]]], ignore_index=True))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column):
    with pytest.raises(PruningError, match=f"lacks the column '{column}'"):
        read_frame(random_table(small_shape()).frame().drop(columns=column))


def test_a_table_of_another_model_is_refused():
    with pytest.raises(PruningError, match="row 2"):
        read_frame(random_table(small_shape()).frame(), small_shape(hidden_size=16))


def test_a_file_that_is_no_table_is_named(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PruningError, match=r"table.csv cannot be read"):
        read_table(tmp_path / "table.csv", small_shape())
    with pytest.raises(PruningError, match=r"missing\.csv is not there"):
        read_table(tmp_path / "missing.csv", small_shape())


def test_an_infinite_score_names_its_group():
    importance = random_table(small_shape()).importance.copy()
    importance[8 + 1] = np.inf  # layer 0: 2 attention groups and 6 channels; layer 1: attention group 1
    with pytest.raises(PruningError, match="layer 1, attention group 1 is not a finite number"):
        GroupTable(small_shape(), importance, {})


def test_restricted_and_selected():
    table = random_table(small_shape()).restricted(range(1, 3))
    assert set(table.frame()["layer_idx"]) == {1, 2}
    chosen = table.frame(table.select([2, 3], "mlp"))
    assert set(chosen["layer_idx"]) == {2}
    assert len(chosen) == 6
    assert chosen["score"].is_monotonic_increasing


def test_block_importance_sums_what_was_measured():
    table = random_table(small_shape()).restricted(range(1, 3))
    sums = table.frame().groupby(["layer_idx", "group_type"])["importance"].sum()
    assert table.block_importance[2, 1] == pytest.approx(sums[2, "mlp"], rel=1e-12)
    assert table.block_importance[0].tolist() == [0, 0]
