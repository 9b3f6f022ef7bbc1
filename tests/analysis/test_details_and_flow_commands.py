"""`details` foretells a plan from a config alone, `flow` draws an experiment, `all` does everything in one go."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from analysis.flow import asked_shares, propagation_lines
from pruning.experiment import DESCRIPTIONS, Experiment
from pruning.planning.allocation import allocate_global
from pruning.planning.protection import Protection
from pruning.planning.shape import ModelShape
from tests.planning.examples import LLAMA_3_8B, random_table, small_shape

ROOT = Path(__file__).parents[2]
RATIO = ("--pruning_ratio", "0.25")


@pytest.fixture
def llama_3_8b(tmp_path) -> Path:
    (tmp_path / "llama-3-8b.json").write_text(json.dumps(LLAMA_3_8B | {"torch_dtype": "bfloat16"}))
    return tmp_path / "llama-3-8b.json"


def test_a_ratio_foretells_parameters_and_memory(analyse, llama_3_8b):
    content = json.loads(analyse("details", "--config", llama_3_8b, *RATIO, "--strategy", "uniform", "--json")[1])
    before, after = content["totals"]["parameters"]
    assert before == 8_030_261_248
    assert 0.25 * before - 32 * 3 * 4096 < before - after <= 0.25 * before
    assert content["memory_bytes"]["weights"] == [2 * before, 2 * after]
    heads_before, heads_after = content["totals"]["KV heads"]
    cache = content["memory_bytes"]["keys and values, 1,024 tokens"]
    assert cache == [1024 * 2 * 2 * 128 * heads for heads in (heads_before, heads_after)]
    assert len({layer["params_after"] for layer in content["layers"]}) == 1


def test_target_and_actual_stand_side_by_side(analyse, llama_3_8b):
    printed = analyse("details", "--config", llama_3_8b, *RATIO)[1]
    assert "target      25.00% of attention and MLP of all layers" in printed
    assert "actual      18.33% of all parameters" in printed
    assert "14.96 GiB -> 12.22 GiB" in printed
    matched = analyse("details", "--config", llama_3_8b, *RATIO, "--match_target")[1]
    assert "target      25.00% of all parameters" in matched and "actual      25.00% of all parameters" in matched


def test_details_of_an_experiment_are_those_of_its_plan(analyse, cut):
    content = json.loads(analyse("details", "tiny-layer", "--output_root", cut.root, "--json")[1])
    metrics = cut.experiment.metrics()
    assert content["totals"]["parameters"] == [metrics["parameters"]["before"], metrics["parameters"]["after"]]
    assert content["actual_ratio"] == metrics["ratio"]["actual"]


def test_rates_can_follow_the_importance_that_an_experiment_measured(analyse, cut):
    measured = cut.experiment.path("layer_importance_config.json")
    content = json.loads(
        analyse("details", cut.source, "--pruning_ratio", "0.3", "--layer_importance_config", measured, "--json")[1]
    )
    counts = cut.experiment.read_plan().kept_counts
    assert [layer["mlp_channels_kept"] for layer in content["layers"]] == counts[:, 1].tolist()
    assert [layer["attention_groups_kept"] for layer in content["layers"]] == counts[:, 0].tolist()


def test_global_can_be_foretold_with_scores(analyse, cut):
    table = cut.experiment.path("global_group_table.csv")
    arguments = ("details", cut.source, "--strategy", "global", "--table", table, "--pruning_ratio", "0.03", "--json")
    content = json.loads(analyse(*arguments)[1])
    expected = allocate_global(cut.experiment.read_table(), 0.03, Protection.resolve(5))
    assert content["actual_ratio"] == expected.actual_ratio


def test_details_need_no_torch(llama_3_8b):
    arguments = ["details", "--config", str(llama_3_8b), *RATIO]
    code = f"import sys; from analysis.__main__ import main; main({arguments!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# the picture ----------------------------------------------------------------------------------------------------------


def test_the_picture_of_an_experiment_is_drawn(analyse, cut, tmp_path):
    code, printed, complaint = analyse("flow", "tiny-layer", "--output_root", cut.root)
    assert (code, complaint) == (0, "") and "pruning_flow.png" in printed
    height, width = imread(tmp_path / "pruning_flow.png").shape[:2]
    assert width >= 1200 and height >= 1200


def test_a_picture_for_a_folder_that_is_not_there_is_one_sentence(analyse, cut):
    code, _, complaint = analyse("flow", "tiny-layer", "--output_root", cut.root, "--output", "nowhere/x.png")
    assert code == 2 and "nowhere/x.png could not be written: No such file or directory" in complaint


def test_rates_stand_for_all_layers_and_scores_for_protected_ones_too(cut):
    shape = small_shape(num_hidden_layers=6)
    table = random_table(shape)
    plan = allocate_global(table, 0.3, Protection.resolve(6))
    asked = asked_shares(plan, table, None)
    removed = plan.removed_parameters.sum(axis=1) / np.array([x.attention_parameters + x.mlp_parameters for x in shape.layers])
    assert (asked >= removed - 1e-12).all() and asked[[0, 5]].sum() > 0 and removed[[0, 5]].sum() == 0
    np.testing.assert_allclose(asked_shares(plan, None, None), removed)
    rates = np.arange(6) / 10
    np.testing.assert_array_equal(asked_shares(plan, table, rates), rates)


def test_propagation_names_the_sizes_of_the_layer_that_loses_most():
    shape = ModelShape.from_config(LLAMA_3_8B)
    plan = allocate_global(random_table(shape), 0.25, Protection.resolve(32))
    index = int(np.argmax(plan.removed_parameters.sum(axis=1)))
    kv, width = plan.kept_counts[index]
    text = "\n".join(propagation_lines(plan))
    assert f"layer {index}," in text
    assert f"q_proj rows 4,096 -> {kv * 512:,}    k_proj, v_proj rows 1,024 -> {kv * 128:,}" in text
    assert f"o_proj columns 4,096 -> {kv * 512:,}" in text
    assert f"gate_proj, up_proj rows 14,336 -> {width:,}    down_proj columns 14,336 -> {width:,}" in text


def test_all_writes_table_and_picture_into_the_experiment(analyse, cut):
    table = cut.experiment.path("pruning_analysis.csv").read_text()
    code, printed, complaint = analyse("all", "--experiment", "tiny-layer", "--output_root", cut.root, "--language", "zh")
    assert (code, complaint) == (0, "")
    metrics = cut.experiment.metrics()
    assert f"{metrics['parameters']['before']:,} -> {metrics['parameters']['after']:,}" in printed
    assert "pass  Parameters after the cut" in printed
    assert all(cut.experiment.has(name) for name in DESCRIPTIONS)
    assert "层编号" in pd.read_csv(cut.experiment.path("pruning_analysis_zh.csv")).columns
    assert cut.experiment.path("pruning_analysis.csv").read_text() == table  # the app reads it


def test_the_report_is_written_where_it_is_asked_for(analyse, cut, tmp_path):
    code, printed, complaint = analyse("report", "tiny-layer", "--output_root", cut.root, "--output", "page.html")
    assert (code, complaint) == (0, "") and "page.html" in printed
    assert "tiny-layer" in (tmp_path / "page.html").read_text()


def test_a_new_cut_takes_along_what_described_the_last(cut, tmp_path):
    experiment = Experiment(shutil.copytree(cut.experiment.folder, tmp_path / "again"))
    for name in DESCRIPTIONS:
        experiment.path(name).write_text("of the last cut")
    experiment.forget_result()
    assert not [name for name in DESCRIPTIONS if experiment.has(name)]
