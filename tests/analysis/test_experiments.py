"""Experiments as one table: what their files hold, damaged ones named, numbers that cannot be compared kept apart."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import charts
from analysis.report import html_page
from analysis.size import experiment_sizes
from pruning.__main__ import main
from pruning.experiment import Experiment, list_experiments
from pruning.experiment_table import (
    bases,
    differing_settings,
    experiment_table,
    kept_sizes,
    protection_of,
    settings_of_plan,
    stamp,
)
from pruning.planning.allocation import allocate_global
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.planning.protection import Protection
from pruning.runs.status import state_of
from pruning.settings import plan_settings, resolve
from tests.planning.examples import random_table, small_config, small_shape

BASIS = {
    "dataset": "a text",
    "seq_len": 128,
    "windows": 8,
    "corpus_sha256": "0" * 64,
    "python": "3.11",
    "predicted_tokens": 1016,
}


def make(root, name, perplexity=None, parameters=900, basis=BASIS, strategy="global", **settings) -> Experiment:
    """An experiment as a run leaves it, of a model without weights."""
    experiment = Experiment.create(root, name)
    header = CheckpointHeader(root, small_config(), {}, ())
    header.__dict__["fingerprint"] = "abc"
    given = {"base_model": "demo", "experiment_name": name, "output_root": str(root)} | settings
    experiment.write_settings(resolve(given, strategy))
    experiment.write_model(header, {"numpy": np.__version__})
    if perplexity is not None:
        experiment.update_metrics(
            basis=basis,
            parameters={"before": 1000, "after": parameters},
            ratio={"target": 0.25, "target_basis": "model", "actual": 1 - parameters / 1000},
            size_bytes={"before": 2000, "after": 2 * parameters},
            perplexity={stage: {basis["dataset"]: value} for stage, value in perplexity.items()},
        )
    return experiment


def table_of(root):
    return experiment_table(list_experiments(root), state_of)


def test_a_row_holds_what_the_files_hold(tmp_path):
    make(tmp_path, "one", {"before": 20.0, "after": 31.0, "recovered": 25.0}, protected_layers="2", pruning_distribution="3:7")
    [row] = table_of(tmp_path).rows.to_dict("records")
    assert (row["name"], row["model"], row["method"], row["strategy"]) == ("one", "demo", "taylor", "global")
    assert (row["ratio_target"], row["ratio_actual"]) == (0.25, pytest.approx(0.1))
    assert (row["split"], row["protected"]) == ("3:7", "0,2-3")  # four layers: the first and the last by default
    assert (row["parameters"], row["bytes"], row["parameters_before"]) == (900, 1800, 1000)
    assert [row[f"perplexity_{stage}"] for stage in ("before", "after", "recovered")] == [20, 31, 25]
    assert math.isnan(row["perplexity_repaired"])
    assert row["perplexity"] == 25  # of the last stage


def test_the_speed_is_that_of_the_cut_model_writing_alone(tmp_path):
    speeds = [{"batch_size": size, "decode_tokens_per_second": 10.0 * size} for size in (8, 1)]
    make(tmp_path, "one").update_metrics(
        latency={"before": [{"batch_size": 1, "decode_tokens_per_second": 3.0}], "after": speeds}
    )
    assert list(table_of(tmp_path).rows["tokens_per_second"]) == [10]


@pytest.mark.parametrize(
    ("settings", "protected"),
    [
        ({"strategy": "uniform"}, "none"),
        ({"protected_layers": "none"}, "none"),
        ({"layer_start": 1, "layer_end": 2}, "0,2-3"),
        ({"block_attention_layer_start": 2, "block_mlp_layer_start": 0, "block_mlp_layer_end": 4}, "attention 0-1,3, mlp none"),
    ],
)
def test_protected_layers_are_named(tmp_path, settings, protected):
    make(tmp_path, "one", **settings)
    assert list(table_of(tmp_path).rows["protected"]) == [protected]


def test_what_was_not_measured_is_missing_and_what_is_not_finite_is_infinite(tmp_path):
    make(tmp_path, "planned")
    make(tmp_path, "broken-model", {"before": 20.0, "after": None})
    rows = table_of(tmp_path).rows.set_index("name")
    assert rows.loc["planned", ["parameters", "perplexity", "ratio_actual"]].isna().all()
    assert rows.loc["planned", "state"] == "empty"
    assert math.isinf(rows.loc["broken-model", "perplexity"])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("description.txt", "{"),
        ("description.txt", '{"format_version": 1}'),
        ("description.txt", '{"format_version": 1, "settings": []}'),
        ("metrics.json", '{"format_version": 9}'),
        ("metrics.json", '{"format_version": 1, "perplexity": {"after": 3}}'),
        ("metrics.json", '{"format_version": 1, "parameters": {"after": "many"}}'),
        ("job.json", "[]"),
        ("job.json", '{"format_version": 1, "kind": "global", "state": "running", "process": ["a", "b"]}'),
    ],
)
def test_a_damaged_experiment_has_a_sentence_and_the_others_their_rows(tmp_path, capsys, file, content):
    make(tmp_path, "whole", {"before": 20.0, "after": 31.0})
    make(tmp_path, "hurt").path(file).write_text(content)
    found = table_of(tmp_path)
    assert set(found.rows["name"]) == {"whole", "hurt"}
    assert list(found.faults) == ["hurt"] and str(found.faults["hurt"])
    assert found.rows.set_index("name").loc["hurt", "state"] == "damaged"
    assert found.rows.set_index("name").loc["whole", "perplexity"] == 31
    assert main(["list", f"--output_root={tmp_path}"]) == 0
    rows, sentences = capsys.readouterr().out.split("\n\n")
    assert sorted(line.split()[:2] for line in rows.splitlines()[1:]) == [["hurt", "damaged"], ["whole", "empty"]]
    assert sentences.startswith("hurt: ") and file in sentences


def test_sizes_of_a_damaged_experiment_are_a_sentence_and_the_others_have_theirs(tmp_path):
    make(tmp_path, "whole", {"before": 20.0, "after": 31.0})
    for name, content in (("hurt", "{bad"), ("foreign", '{"format_version": 1, "parameters": {"after": "many"}}')):
        make(tmp_path, name).path("metrics.json").write_text(content)
    sizes = experiment_sizes(list_experiments(tmp_path)).set_index("experiment")
    assert sizes.loc["whole", "parameters_after"] == 900 and pd.isna(sizes.loc["whole", "fault"])
    assert all("cannot be read" in sizes.loc[name, "fault"] for name in ("hurt", "foreign"))


# plans from files -----------------------------------------------------------------------------------------------------


def applied(root, name: str, made: PruningPlan, **source) -> Experiment:
    experiment = make(root, name, **source)
    experiment.write_plan(made)
    return experiment


def test_a_cut_by_a_file_has_the_settings_that_its_plan_says(tmp_path):
    settings = resolve({"protected_layers": "none", "pruning_distribution": "3:7", "pruning_ratio": 0.2}, "layer")
    plan = allocate_global(random_table(small_shape()), 0.1, Protection.none(4))
    applied(tmp_path, "known", replace(plan, settings=plan_settings(settings)), plan="plan.json")
    applied(tmp_path, "unknown", plan, groups="groups.csv")
    rows = table_of(tmp_path).rows.set_index("name")
    shown = ["method", "strategy", "split", "protected"]
    assert list(rows.loc["known", shown]) == ["-", "layer", "3:7", "none"]
    assert (rows.loc["known", "ratio_target"], rows.loc["known", "target_basis"]) == (0.2, "prunable")
    assert list(rows.loc["unknown", shown]) == ["-", "file", "-", "-"]
    assert rows.loc["unknown", ["ratio_target", "target_basis"]].isna().all()


def test_a_cut_by_a_table_has_the_method_that_the_table_says(tmp_path):
    table = GroupTable(small_shape(), random_table(small_shape()).importance, {"method": "wanda"})
    experiment = make(tmp_path, "edited", table="table.csv")
    experiment.write_table(table)
    assert list(table_of(tmp_path).rows["method"]) == ["wanda"]


def test_report_list_and_picture_say_the_same_of_a_cut_by_a_file(tmp_path, capsys):
    plan = allocate_global(random_table(small_shape()), 0.1, Protection.none(4))
    experiment = applied(tmp_path, "unknown", plan, groups="some/groups.csv")
    assert "demo, cut by the file groups.csv; importance: -, strategy: file." in html_page(experiment)
    assert main(["list", f"--output_root={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2:5] == ["demo", "-", "file"]
    assert protection_of(experiment, plan.shape, settings_of_plan(experiment)) is None


def test_an_empty_folder_gives_an_empty_table(tmp_path):
    assert table_of(tmp_path).rows.empty and table_of(tmp_path / "missing").rows.empty


def test_the_stamp_changes_when_the_table_does(tmp_path):
    def now():
        return stamp(list_experiments(tmp_path), state_of)

    one = make(tmp_path, "one")
    first = now()
    assert now() == first
    one.update_metrics(parameters={"after": 3})
    second = now()
    make(tmp_path, "two")
    assert len({first, second, now()}) == 3


def test_perplexities_on_different_texts_are_kept_apart(tmp_path):
    for name, basis in (("a", BASIS), ("b", BASIS), ("c", BASIS | {"corpus_sha256": "1" * 64}), ("d", BASIS | {"windows": 9})):
        make(tmp_path, name, {"after": 30.0}, basis=basis)
    make(tmp_path, "not-measured")
    assert sorted(map(sorted, bases(table_of(tmp_path).rows).values())) == [["a", "b"], ["c"], ["d"]]


def test_settings_that_differ_are_listed_and_names_are_not(tmp_path):
    first, second = make(tmp_path, "a", seed=1), make(tmp_path, "b", seed=2, protected_layers="1")
    listed = differing_settings(first, second)
    assert listed.to_numpy().tolist() == [["seed", "1", "2"], ["protected_layers", "-", "1"]]


def test_kept_sizes_stand_side_by_side():
    table = random_table(small_shape())
    whole, cut = PruningPlan.keep_all(small_shape()), allocate_global(table, 0.25, Protection.resolve(4))
    sizes = kept_sizes(whole, cut)
    assert sizes[["attention_second", "mlp_second"]].to_numpy().tolist() == cut.kept_counts.tolist()
    assert list(sizes["layer_idx"]) == list(range(small_shape().num_layers))


# charts ---------------------------------------------------------------------------------------------------------------


def test_the_front_is_what_no_other_point_beats():
    random = np.random.default_rng(0)
    parameters, perplexity = random.integers(1, 40, 200).astype(float), random.integers(1, 40, 200).astype(float)
    front = charts.pareto_front(parameters, perplexity)

    def beaten(i: int) -> bool:
        as_good = (parameters <= parameters[i]) & (perplexity <= perplexity[i])
        return bool((as_good & ((parameters < parameters[i]) | (perplexity < perplexity[i]))).any())

    best = {(parameters[i], perplexity[i]) for i in range(200) if not beaten(i)}
    assert [(parameters[i], perplexity[i]) for i in front] == sorted(best)


def t(key: str, **values) -> str:
    return f"{key} {json.dumps(values)}"


def rows_of(tmp_path) -> pd.DataFrame:
    make(tmp_path, "small", {"before": 20.0, "after": 40.0}, 600)
    make(tmp_path, "good", {"before": 20.0, "after": 25.0}, 800)
    make(tmp_path, "beaten", {"before": 20.0, "after": 30.0}, 900, importance_method="wanda")
    make(tmp_path, "elsewhere", {"before": 5.0, "after": 6.0}, 700, basis=BASIS | {"dataset": "other"})
    make(tmp_path, "infinite", {"before": 20.0, "after": None}, 500)
    return table_of(tmp_path).rows


def test_only_comparable_experiments_are_joined(tmp_path):
    figure = charts.pareto(rows_of(tmp_path), t, "good")
    fronts = {tuple(zip(trace.x, trace.y, strict=True)) for trace in figure.data if trace.meta["kind"] == "front"}
    assert fronts == {((600, 40), (800, 25), (1000, 20)), ((700, 6), (1000, 5))}
    points = {point[0] for trace in figure.data if trace.meta["kind"] == "experiment" for point in trace.customdata}
    assert points == {"small", "good", "beaten", "elsewhere"}
    [ring] = [trace for trace in figure.data if trace.meta["kind"] == "current"]
    assert (list(ring.x), list(ring.y)) == ([800], [25])


def test_ranges_drawn_on_axes_filter_the_rows(tmp_path):
    rows = rows_of(tmp_path)
    [lines] = charts.parallel(rows, t).data
    labels = [dimension.label.split()[0].rpartition(".")[2] for dimension in lines.dimensions]
    assert "tokens_per_second" not in labels  # nobody measured it
    ranges = [None] * len(labels)
    assert set(rows[charts.parallel_filter(rows, ranges)]["name"]) == {"small", "good", "beaten", "elsewhere"}
    ranges[labels.index("perplexity")] = [[0, 10], [35, 50]]
    assert set(rows[charts.parallel_filter(rows, ranges)]["name"]) == {"small", "elsewhere"}
    ranges[labels.index("parameters")] = [[650, 1000]]
    assert set(rows[charts.parallel_filter(rows, ranges)]["name"]) == {"elsewhere"}
    methods = lines.dimensions[labels.index("method")]
    assert list(methods.ticktext) == ["taylor", "wanda"]
    ranges = [None] * len(labels)
    ranges[labels.index("method")] = [[0.6, 1.4]]
    assert set(rows[charts.parallel_filter(rows, ranges)]["name"]) == {"beaten"}


def test_a_filter_is_forgotten_when_an_axis_means_something_else(tmp_path):
    rows = rows_of(tmp_path)
    before = charts.parallel_revision(rows)
    make(tmp_path, "another", {"after": 22.0}, 850)
    assert charts.parallel_revision(table_of(tmp_path).rows) == before
    make(tmp_path, "l1", {"after": 22.0}, 850, importance_method="l1")
    assert charts.parallel_revision(table_of(tmp_path).rows) != before
