"""`python -m analysis diff`: figures of a real cut and of a plan for Llama-3-8B, checks, CSV in English and Chinese."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis.diff_summary import CHINESE_COLUMNS
from benchmarks._sparse_model import sparse_model
from pruning.planning.shape import ModelShape
from tests.planning.examples import LLAMA_3_8B

ROOT = Path(__file__).parents[2]
PARAMETERS_8B = 8_030_261_248
SMALL = {"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 6}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
RANGES = [f"--block_{kind}_layer_{end}" for kind in ("attention", "mlp") for end in ("start", "end")]
LAYER_WISE_8B = ["--strategy", "layer", "--pruning_ratio", "0.25", "--pruning_distribution", "2:8"]
LAYER_WISE_8B += [text for pair in zip(RANGES, ("3", "30", "3", "30"), strict=True) for text in pair]


@pytest.fixture
def llama_3_8b(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    return tmp_path / "config.json"


def independent_8b() -> dict[tuple[int | None, str], tuple[int, int]]:
    """(layer, module) -> parameters before, after; from the sizes of the model and the rules of docs/methods.md, by hand.

    Rate 25 % of attention + MLP, a fifth of that from attention in whole groups of 5,242,880, the rest from the MLP.
    """
    h, f, d, n_q, n_kv, vocabulary = 4096, 14336, 128, 32, 8, 128256
    attention, mlp = 2 * h * n_q * d + 2 * h * n_kv * d, 3 * h * f
    budget = 0.25 * (attention + mlp)
    groups = round(0.2 * budget / (h * d * (2 * 4 + 2)))
    channels = int((budget - groups * h * d * (2 * 4 + 2)) / (3 * h))
    figures: dict = {(None, "embed_tokens"): (vocabulary * h,) * 2, (None, "lm_head"): (vocabulary * h,) * 2}
    figures[None, "norm"] = (h, h)
    for layer in range(32):
        kv, width = (n_kv - groups, f - channels) if 3 <= layer <= 29 else (n_kv, f)
        for module in ("q_proj", "o_proj"):
            figures[layer, module] = (h * n_q * d, h * 4 * kv * d)
        for module in ("k_proj", "v_proj"):
            figures[layer, module] = (h * n_kv * d, h * kv * d)
        for module in ("gate_proj", "up_proj", "down_proj"):
            figures[layer, module] = (h * f, h * width)
        for module in ("input_layernorm", "post_attention_layernorm"):
            figures[layer, module] = (h, h)
    return figures


def test_llama_3_8b_at_25_percent_equals_an_independent_calculation(analyse, llama_3_8b):
    code, printed, _ = analyse("diff", "--config", llama_3_8b, *LAYER_WISE_8B, "--json")
    assert code == 0
    content, expected = json.loads(printed), independent_8b()
    found = {(row["layer_idx"], row["module"]): (row["params_before"], row["params_after"]) for row in content["matrices"]}
    assert found == expected
    before, after = (sum(pair[i] for pair in expected.values()) for i in range(2))
    assert before == PARAMETERS_8B
    assert (content["total"]["params_before"], content["total"]["params_after"]) == (before, after)
    assert content["total"]["bytes_after"] == 2 * after
    assert content["total"]["sparsity"] == pytest.approx(0.183, abs=0.0005)  # docs/methods.md section 4
    for layer in content["layers"]:
        mine = [pair for (index, _), pair in expected.items() if index == layer["layer_idx"]]
        assert (layer["params_before"], layer["params_after"]) == tuple(map(sum, zip(*mine, strict=True)))
        assert layer["sparsity"] == pytest.approx(layer["planned_sparsity"], abs=1e-12)
    for kind in content["retention"]:
        assert kind["shared"] and kind["layers"] == list(range(3, 30)) and kind["retention"] == 0.75
    assert all(check["passed"] for check in content["checks"]) and len(content["checks"]) == 5


def test_llama_3_8b_needs_neither_torch_nor_two_seconds(llama_3_8b):
    def run(code: str) -> tuple[str, float]:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout, time.perf_counter() - start

    arguments = ["diff", "--config", str(llama_3_8b), *LAYER_WISE_8B, "--output", str(llama_3_8b.parent / "o.csv")]
    code = f"import sys; from analysis.__main__ import main; main({arguments!r}); print('torch' in sys.modules)"
    printed, seconds = run(code)
    assert printed.splitlines()[-1] == "False"
    # Two seconds, on a machine that is not asked to do other things: pandas alone is the measure of how busy it is.
    assert seconds < 2 or seconds < 3 * run("import pandas")[1]


@pytest.mark.parametrize("command", ["diff", "details"])
def test_the_plan_of_a_model_of_another_size_is_refused(analyse, cut, tmp_path, command):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"num_hidden_layers": 5}))
    code, _, complaint = analyse(command, "--config", "config.json", "--plan", cut.experiment.path("plan.json"))
    assert code == 2 and "plan.json was made for another model (" in complaint and complaint.count("\n") == 1


# a real cut -----------------------------------------------------------------------------------------------------------


def rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def test_a_cut_experiment_is_described_from_its_files(analyse, cut, tmp_path):
    code, printed, complaint = analyse("diff", "--pruned_model", "tiny-layer", "--output_root", cut.root)
    assert (code, complaint) == (0, "")
    assert printed.count("\npass  ") == 6 and "FAIL" not in printed
    before, after = (load_file(f / "model.safetensors") for f in (cut.source, cut.experiment.model_folder))
    table = rows(tmp_path / "pruning_analysis.csv")
    assert table["params_before"].sum() == sum(t.numel() for t in before.values())
    assert table["params_after"].sum() == sum(t.numel() for t in after.values())
    for row in table.itertuples():
        name = next(n for n in after if f"{row.module}.weight" in n and (row.layer_idx == "" or f".{row.layer_idx}." in n))
        assert json.loads(row.shape_after) == list(after[name].shape)
    assert (table["params_after"] < table["params_before"]).any()


def test_two_folders_give_the_same_as_the_experiment_and_as_folder_and_plan(analyse, cut, tmp_path):
    plan = cut.experiment.path("plan.json")
    ways = {
        "experiment": ["--pruned_model", cut.experiment.folder],
        "folders": ["--original_model", cut.source, "--pruned_model", cut.experiment.model_folder],
        "plan": ["--original_model", cut.source, "--plan", plan],
    }
    for name, arguments in ways.items():
        assert analyse("diff", *arguments, "--output", f"{name}.csv")[0] == 0
    contents = {name: (tmp_path / f"{name}.csv").read_text() for name in ways}
    assert len(set(contents.values())) == 1
    assert contents["plan"] == cut.experiment.path("pruning_analysis.csv").read_text()


def test_a_folder_without_a_plan_is_described_and_says_so(analyse, cut, tmp_path):
    weights = load_file(cut.experiment.model_folder / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    code, printed, _ = analyse("diff", "--original_model", cut.source, "--pruned_model", tmp_path / "pytorch_model.bin")
    assert code == 0 and printed.count("\npass  ") == 4
    assert "There is no plan.json made for this model, so sizes are not compared with a plan." in printed
    expected = pd.read_csv(cut.experiment.path("pruning_analysis.csv")).drop(columns=["bytes_before", "bytes_after"])
    found = pd.read_csv(tmp_path / "pruning_analysis.csv").drop(columns=["bytes_before", "bytes_after"])
    pd.testing.assert_frame_equal(found, expected)


def test_the_plan_of_another_model_is_not_held_against_this_one(analyse, cut, tmp_path):
    """The same sizes with other weights: a model before the cut that this plan was not made for."""
    other = shutil.copytree(cut.source, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, other / "model.safetensors")
    code, printed, _ = analyse("diff", "--original_model", other, "--pruned_model", cut.experiment.model_folder)
    assert code == 0 and printed.count("\npass  ") == 4 and "no plan.json made for this model" in printed
    plan = ("--plan", cut.experiment.path("plan.json"))
    code, _, complaint = analyse("diff", "--original_model", other, *plan)
    assert code == 2 and "was made for another model" in complaint


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("model.layers.2.self_attn.o_proj.weight", "Sides that meet"),
        ("model.layers.2.mlp.up_proj.weight", "Sides that meet"),
        ("model.layers.0.self_attn.q_proj.weight", "kept every size"),
    ],
)
def test_a_wrong_cut_fails_its_check_and_the_command(analyse, cut, tmp_path, name, check):
    weights = load_file(cut.experiment.model_folder / "model.safetensors")
    weights[name] = weights[name][:-1, :-1].contiguous()
    (tmp_path / "wrong").mkdir()
    for file in ("config.json", "plan.json"):
        (tmp_path / "wrong" / file).write_text(cut.experiment.path("model", file).read_text())
    save_file(weights, tmp_path / "wrong" / "model.safetensors")
    code, printed, _ = analyse("diff", "--original_model", cut.source, "--pruned_model", tmp_path / "wrong")
    failed = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert code == 1 and any(check in line and f"at fault: layer {name.split('.')[2]}" in line for line in failed)


def test_retention_that_layers_do_not_share_is_listed(analyse, tmp_path):
    shapes = ModelShape.from_config(SMALL).tensor_shapes()
    for layer, width in ((1, 12), (2, 12), (3, 18), (4, 12)):
        for module in ("gate_proj", "up_proj"):
            shapes[f"model.layers.{layer}.mlp.{module}.weight"] = (width, 8)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (8, width)
    before, after = sparse_model(tmp_path / "before", SMALL), sparse_model(tmp_path / "after", SMALL, shapes)
    printed = analyse("diff", "--original_model", before, "--pruned_model", after)[1]
    assert "attention: nothing was cut" in printed
    assert "mlp: 3 of 4 cut layers keep 50.00%; others are 3: 75.00%" in printed


def test_layers_that_went_need_a_plan(analyse, tmp_path):
    before = sparse_model(tmp_path / "before", SMALL)
    shorter = sparse_model(tmp_path / "after", SMALL | {"num_hidden_layers": 5})
    code, _, complaint = analyse("diff", "--original_model", before, "--pruned_model", shorter)
    assert code == 2 and "has no plan.json, so it does not say which layers went. Give --plan." in complaint


def test_a_sharded_model_of_16_gb_is_compared_without_its_weights(analyse, tmp_path):
    before = sparse_model(tmp_path / "8b")
    arguments = ["--original_model", before, *LAYER_WISE_8B, "--json"]
    content = json.loads(analyse("diff", *arguments)[1])
    assert content["total"]["params_before"] == PARAMETERS_8B
    shapes = {}
    for row in content["matrices"]:
        prefix = "" if row["layer_idx"] is None else f"layers.{row['layer_idx']}."
        block = {"attention": "self_attn.", "mlp": "mlp."}.get(row["kind"], "")
        name = "lm_head.weight" if row["module"] == "lm_head" else f"model.{prefix}{block}{row['module']}.weight"
        shapes[name] = tuple(json.loads(row["shape_after"]))
    after = sparse_model(tmp_path / "cut", LLAMA_3_8B, shapes)
    found = json.loads(analyse("diff", "--original_model", before, "--pruned_model", after, "--json")[1])
    assert found["total"] == content["total"] and all(check["passed"] for check in found["checks"])


# the CSV that notebooks of the old tools read -------------------------------------------------------------------------


def test_the_chinese_table_has_the_columns_and_shapes_of_the_old_tools(analyse, llama_3_8b, tmp_path):
    assert analyse("diff", "--config", llama_3_8b, *LAYER_WISE_8B, "--language", "zh", "--output", "zh.csv")[0] == 0
    table = pd.read_csv(tmp_path / "zh.csv")
    columns = ["层编号", "模块名称", "原始维度", "剪枝后维度", "原始参数量", "剪枝后参数量", "保留率", "稀疏度"]
    assert list(table.columns) == columns == list(CHINESE_COLUMNS.values())
    (query,) = table[(table["层编号"] == 5) & (table["模块名称"] == "q_proj")].to_dict("records")
    assert (query["原始维度"], query["剪枝后维度"]) == ("4096 × 4096", "3072 × 4096")
    assert (query["原始参数量"], query["剪枝后参数量"]) == (4096 * 4096, 3072 * 4096)


def test_notebooks_group_and_average_the_chinese_table(analyse, llama_3_8b, tmp_path):
    analyse("diff", "--config", llama_3_8b, *LAYER_WISE_8B, "--language", "zh", "--output", "zh.csv")
    table = pd.read_csv(tmp_path / "zh.csv")
    of_modules = table.groupby("模块名称")["保留率"].mean()
    assert of_modules["q_proj"] == pytest.approx((27 * 0.75 + 5) / 32)
    assert of_modules["lm_head"] == 1
    of_layers = table.groupby("层编号")[["原始参数量", "剪枝后参数量"]].sum()
    sparsity = 1 - of_layers["剪枝后参数量"] / of_layers["原始参数量"]
    assert list(of_layers.index) == list(range(32))
    np.testing.assert_array_equal(sparsity.to_numpy() > 0, [3 <= layer < 30 for layer in range(32)])
    assert table.groupby("层编号")["稀疏度"].mean()[10] == pytest.approx(7 * 0.25 / 9)
    widths = table[table["模块名称"] == "up_proj"]["剪枝后维度"].str.split(" × ").str[0].astype(int)
    assert sorted(set(widths)) == [10752, 14336]
