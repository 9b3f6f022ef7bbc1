"""The whole road in a real browser, on the demo model: see it, measure, shape a plan, cut, read, take it home, load it
elsewhere. Figures on screen are held against the files, and against what this test works out for itself.
"""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from tests.browser.reference import greedy_plan, logits_elsewhere, masked_logits
from tests.browser.studio import JOB_SECONDS, MAKES_PICTURES, SCREENS, Studio, sentence, wait_until, worker_stands_still
from ui import tour

DEMO_PARAMETERS, NUM_LAYERS = 6_561_920, 32
ATTENTION_GROUP_COST, MLP_CHANNEL_COST = 10_240, 384
RATIO, NAMED_LAYER = 0.30, 17
SPARED_LAYERS = (0, 1, 2, NAMED_LAYER, 30, 31)  # by default the first 3 and last 2, and the one named here
BYTES_PER_PARAMETER = 2  # the demo model is stored as bfloat16
SAMPLES, EVAL_WINDOWS = (128, 32) if MAKES_PICTURES else (16, 16)


def test_the_whole_road(studio: Studio, server, new_context, tmp_path):
    see_the_model(studio)
    experiment = measure_importance(studio, server.output_root)
    layers = shape_a_plan(studio, experiment, tmp_path)
    studio.frame("4_plan")
    a_link_opens_the_same_plan(studio, new_context)
    use_the_plan(studio, experiment, layers)
    cut(studio)
    studio.screenshot("prune")
    studio.frame("6_cut", at="prune.result")
    read_what_changed(studio, experiment, layers, tmp_path)
    studio.follow_the_tour("export")
    at_stop(studio, "export")
    home = take_home(studio, experiment, tmp_path)
    studio.screenshot("export")
    studio.frame("7_export")
    studio.follow_the_tour("learn")
    at_stop(studio, "learn")
    studio.frame("8_learn")
    loads_elsewhere_with_the_same_logits(home, layers)


def test_a_plan_edited_by_hand_cuts_attention(studio: Studio, server, tmp_path):
    """The folder is the truth: what an editor wrote into plan.json is what the app shows and cuts."""
    experiment = a_second_plan_beside_the_first(studio, server.output_root)
    layers = edit_by_hand(experiment)
    studio.go("prune")
    removed = sum(4 - len(layer["attention"]) for layer in layers)
    expect(studio.page.get_by_text(f"{removed} attention groups")).to_be_visible()
    cut(studio)
    studio.screenshot("prune_attention")
    read_what_changed(studio, experiment, layers, tmp_path)
    home = take_home(studio, experiment, tmp_path)
    assert_four_query_heads_per_kv_head(home, layers)
    loads_elsewhere_with_the_same_logits(home, layers)


@pytest.mark.parametrize("language", ["en", "zh"] if MAKES_PICTURES else ["en"])
def test_links_open_every_screen_without_a_serious_finding_of_axe_core_dark_and_light(
    studio: Studio, server, new_context, language
):
    other = Studio(new_context(color_scheme="dark").new_page(), server.url, studio.screenshots, language)
    for screen in SCREENS:
        other.page.emulate_media(color_scheme="dark")
        other.open(screen, experiment=first_experiment(server.output_root).name, lang=language)
        expect(other.page.get_by_text(other.said("explain.title"))).to_be_visible()
        expect(other.alerts()).to_have_count(0)
        other.screenshot("_".join([screen if screen != "recover" else "recover_form", "dark", language]))
        assert other.findings() == [], screen
        other.turn_light()
        assert other.findings() == [], screen
    other.page.close()


def test_no_request_left_this_machine(studio: Studio, server):
    elsewhere = [url for url in server.requested if not re.match(r"(http|ws)://(localhost|127\.0\.0\.1):|data:|blob:", url)]
    assert server.requested and not elsewhere


def at_stop(studio: Studio, screen: str) -> None:
    """The guided tour says where it is and what to do."""
    number, count = tour.STOPS.index(screen) + 1, len(tour.STOPS)
    said = sentence(f"tour.{screen}", number=number, count=count).replace("*", "")
    expect(studio.page.locator(".st-key-tour_stop")).to_contain_text(said)


# stretches of the road ------------------------------------------------------------------------------------------------


def see_the_model(studio: Studio) -> None:
    studio.open("model", tour="true")
    at_stop(studio, "model")
    studio.frame("1_model")
    for label, value in (
        ("model.parameters", "6,561,920"),
        ("model.layers", "32"),
        ("model.heads", "16"),
        ("model.kv_heads", "4"),
        ("model.gqa", "4 : 1"),
        ("model.disk", "12.5 MiB"),
    ):
        expect(studio.metric(label)).to_have_text(value)
    rows = {row["component"]: row["parameters"] for row in studio.grid("model.shares.alt")}
    assert list(rows.values()) == ["1310720", "4718592", "524288", "8320"]
    expect(studio.page.get_by_text("10,240")).to_be_visible()
    studio.screenshot("model")


def measure_importance(studio: Studio, output_root: Path) -> Path:
    """128 windows of 128 tokens stand there; the preset `quick` is measured. Returns the experiment's folder."""
    studio.follow_the_tour("importance")
    at_stop(studio, "importance")
    studio.frame("2_measure")
    expect(studio.field("setting.num_samples")).to_have_value("128")
    expect(studio.field("setting.seq_len")).to_have_value("128")
    studio.screenshot("importance_empty")
    if SAMPLES == 16:
        studio.press("importance.preset.quick")
        expect(studio.field("setting.num_samples")).to_have_value("16")
    studio.press("importance.start")
    expect(studio.button("job.cancel")).to_be_visible()
    experiment = first_experiment(output_root)
    with worker_stands_still(experiment):
        studio.page.reload()
        expect(studio.button("job.cancel")).to_be_visible()  # a reload is a new session; it finds the job again
        expect(studio.page.get_by_text(re.compile(r"\d+ of \d+ samples, [\d.]+ samples/s .* s left"))).to_be_visible()
        expect(studio.button("importance.start")).to_be_disabled()
        studio.screenshot("importance_running", of_a_running_job=True)
    expect(studio.page.get_by_text(sentence("explain.title"))).to_be_visible(timeout=JOB_SECONDS * 1000)
    expect(studio.page.get_by_text(f"{SAMPLES} windows of 128 tokens of python-stdlib")).to_be_visible()
    studio.sees_charts(3)
    studio.screenshot("importance")
    studio.frame("3_importance", at="importance.result")
    return experiment


def shape_a_plan(studio: Studio, experiment: Path, tmp_path: Path) -> list[dict]:
    """Moves the ratio with the keyboard, protects a layer by name; returns the groups that stay by an own calculation."""
    table = pd.read_csv(experiment / "global_group_table.csv")
    studio.follow_the_tour("plan")
    at_stop(studio, "plan")
    default = greedy_plan(table, 0.25, (0, 1, 2, 30, 31), DEMO_PARAMETERS)
    expect(studio.metric("plan.parameters")).to_have_text(f"{parameters_of(default):,}")
    ratio = studio.page.get_by_role("slider", name=sentence("setting.pruning_ratio"))
    for _ in range(5):
        ratio.press("ArrowRight")
    expect(studio.metric("plan.target")).to_have_text("30.00%")
    studio.enter("setting.protected_layers", str(NAMED_LAYER))

    layers = greedy_plan(table, RATIO, SPARED_LAYERS, DEMO_PARAMETERS)
    after = parameters_of(layers)
    assert 0 <= RATIO - (1 - after / DEMO_PARAMETERS) < ATTENTION_GROUP_COST / DEMO_PARAMETERS
    for label, value in (
        ("plan.parameters", f"{after:,}"),
        ("plan.actual", f"{1 - after / DEMO_PARAMETERS:.2%}"),
        ("plan.size", f"{after * BYTES_PER_PARAMETER / 2**20:.1f} MiB"),
        ("plan.heads_removed", f"{4 * NUM_LAYERS - sum(len(layer['attention']) for layer in layers):,}"),
        ("plan.channels_removed", f"{384 * NUM_LAYERS - sum(len(layer['mlp']) for layer in layers):,}"),
        ("plan.layers_removed", "0"),
    ):
        expect(studio.metric(label)).to_have_text(value)
    studio.sees_charts(5)
    filter_and_download_the_table(studio, table, layers, tmp_path)
    studio.screenshot("plan")
    return layers


def filter_and_download_the_table(studio: Studio, table: pd.DataFrame, layers: list[dict], tmp_path: Path) -> None:
    studio.pick("groups.layers", "16", NAMED_LAYER)
    studio.choose("groups.type", "chart.kind.mlp")
    wanted = table[table["layer_idx"].isin((16, NAMED_LAYER)) & (table["group_type"] == "mlp")]
    expect(studio.page.get_by_text(sentence("groups.count", count=2 * 384))).to_be_visible()
    first = [[str(row.layer_idx), str(row.group_idx)] for row in wanted.head(5).itertuples()]
    columns = sentence("table.layer"), sentence("table.group")
    wait_until(lambda: [[row[column] for column in columns] for row in studio.grid("groups.alt")[:5]] == first)

    studio.choose("groups.fate", "groups.fate.cut")
    cut_here = wanted[
        [group not in layers[layer]["mlp"] for layer, group in zip(wanted.layer_idx, wanted.group_idx, strict=True)]
    ]
    assert len(cut_here) and set(cut_here["layer_idx"]) == {16}  # the protected layer keeps all
    expect(studio.page.get_by_text(sentence("groups.count", count=len(cut_here)))).to_be_visible()
    downloaded = pd.read_csv(studio.download("groups.download", tmp_path / "groups.csv"))
    pd.testing.assert_frame_equal(downloaded, cut_here.reset_index(drop=True))


def a_link_opens_the_same_plan(studio: Studio, new_context) -> None:
    other = Studio(new_context().new_page(), studio.url, studio.screenshots)
    other.page.goto(studio.page.url)
    expect(other.metric("plan.target")).to_have_text("30.00%")
    expect(other.field("setting.protected_layers")).to_have_value(str(NAMED_LAYER))
    expect(other.metric("plan.parameters")).to_have_text(studio.metric("plan.parameters").inner_text())
    other.page.close()


def use_the_plan(studio: Studio, experiment: Path, layers: list[dict]) -> None:
    studio.press("plan.save")
    studio.follow("plan.next", "prune")
    at_stop(studio, "prune")
    studio.frame("5_prune")
    assert kept_in(experiment / "plan.json") == layers
    pruned = pd.read_csv(experiment / "groups_to_prune.csv")
    assert pruned["cost"].sum() == DEMO_PARAMETERS - parameters_of(layers)
    studio.screenshot("prune_empty")


def cut(studio: Studio) -> None:
    studio.expand("prune.judge")
    studio.enter("setting.eval_windows", str(EVAL_WINDOWS))
    studio.press("prune.start")
    expect(studio.button("job.cancel")).to_be_visible()
    expect(studio.page.get_by_text(sentence("prune.matrices"), exact=True)).to_be_visible(timeout=JOB_SECONDS * 1000)
    studio.settle()


def read_what_changed(studio: Studio, experiment: Path, layers: list[dict], tmp_path: Path) -> None:
    metrics = json.loads((experiment / "metrics.json").read_text())
    after = parameters_of(layers)
    assert metrics["parameters"] == {"before": DEMO_PARAMETERS, "after": after}
    [before_cut], [after_cut] = (metrics["perplexity"][stage].values() for stage in ("before", "after"))
    for label, value in (
        ("prune.parameters.before", f"{DEMO_PARAMETERS:,}"),
        ("prune.parameters.after", f"{after:,}"),
        ("plan.actual", f"{1 - after / DEMO_PARAMETERS:.2%}"),
        ("prune.size.before", "12.5 MiB"),
        ("prune.size.after", f"{metrics['size_bytes']['after'] / 2**20:.1f} MiB"),
        ("prune.perplexity.before", f"{before_cut:.2f}"),
        ("prune.perplexity.after", f"{after_cut:.2f}"),
    ):
        expect(studio.metric(label)).to_have_text(value)
    assert 1 < before_cut < after_cut
    basis = metrics["basis"]
    assert (basis["windows"], basis["seq_len"], basis["predicted_tokens"]) == (EVAL_WINDOWS, 128, EVAL_WINDOWS * 127)
    expect(studio.page.get_by_text(f"{basis['dataset']}, {EVAL_WINDOWS} windows of 128 tokens")).to_be_visible()
    studio.sees_charts(3)
    read_the_matrices(studio, experiment, layers, tmp_path)


def read_the_matrices(studio: Studio, experiment: Path, layers: list[dict], tmp_path: Path) -> None:
    """The table on screen, its download and pruning_analysis.csv give every matrix the size that the plan gives it."""
    matrices = pd.read_csv(experiment / "pruning_analysis.csv")
    pd.testing.assert_frame_equal(pd.read_csv(studio.download("prune.matrices.download", tmp_path / "matrices.csv")), matrices)
    assert matrices["params_after"].sum() == parameters_of(layers)
    sizes = matrices.dropna(subset="layer_idx").set_index(["layer_idx", "module"])["shape_after"]
    for layer_idx, layer in enumerate(layers):
        for module, shape in matrix_shapes(layer).items():
            assert json.loads(sizes[layer_idx, module]) == shape, (layer_idx, module)
    studio.pick("groups.layers", "5")
    wait_until(lambda: {row[sentence("table.layer")] for row in studio.grid("prune.matrices")} == {"5"})
    shown = {row[sentence("table.module")]: row for row in studio.grid("prune.matrices")}
    for module, shape in matrix_shapes(layers[5]).items():
        row = shown[module]
        assert json.loads(row[sentence("table.shape_after")]) == shape
        assert int(row[sentence("table.params_after")]) == np.prod(shape)


def take_home(studio: Studio, experiment: Path, tmp_path: Path) -> Path:
    """Packs, downloads and unpacks; returns the model folder as a person has it then."""
    studio.go("export")
    expect(studio.page.get_by_text(sentence("export.checked").rstrip(".。"))).to_be_visible()
    check = json.loads((experiment / "metrics.json").read_text())["export_check"]["hf"]
    expect(studio.metric("export.difference")).to_have_text(f"{check['max_abs_diff']:.1e}")
    assert check["max_abs_diff"] < 1e-4
    studio.press("export.pack")
    expect(studio.link("export.download")).to_be_visible(timeout=JOB_SECONDS * 1000)
    studio.settle()
    packed = studio.fetch("export.download", tmp_path / "model.zip")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "home")
    return tmp_path / "home" / "model"


def loads_elsewhere_with_the_same_logits(home: Path, layers: list[dict]) -> None:
    assert kept_in(home / "plan.json") == layers
    ids = np.random.default_rng(7).integers(3, 4096, size=(2, 96))
    found, parameters = logits_elsewhere(home, ids)
    assert parameters == parameters_of(layers)
    assert np.abs(found - masked_logits(layers, ids)).max() < 1e-4


# the plan with attention ----------------------------------------------------------------------------------------------


def a_second_plan_beside_the_first(studio: Studio, output_root: Path) -> Path:
    """A plan for an experiment that was cut goes into a new one beside it; nothing is overwritten."""
    first = first_experiment(output_root)
    studio.open("plan", experiment=first.name, ratio="0.1")
    expect(studio.metric("plan.target")).to_have_text("10.00%")
    studio.press("plan.save")
    expect(studio.page.get_by_role("link", name=sentence("plan.next"), exact=True)).to_be_visible()
    second = output_root / f"{first.name}-2"
    assert (second / "plan.json").is_file() and f"experiment={second.name}" in studio.page.url
    assert (first / "pruning_analysis.csv").is_file() and not (second / "pruning_analysis.csv").exists()
    return second


def edit_by_hand(experiment: Path) -> list[dict]:
    """Takes one or two KV groups from each of twelve layers, another one in each."""
    content = json.loads((experiment / "plan.json").read_text())
    for layer_idx in range(4, 16):
        gone = {layer_idx % 4} if layer_idx % 2 else {layer_idx % 4, (layer_idx + 1) % 4}
        content["layers"][layer_idx]["attention"] = [group for group in range(4) if group not in gone]
    (experiment / "plan.json").write_text(json.dumps(content))
    return kept_in(experiment / "plan.json")


def assert_four_query_heads_per_kv_head(home: Path, layers: list[dict]) -> None:
    config = json.loads((home / "config.json").read_text())
    own_sizes = {int(layer_idx): sizes for layer_idx, sizes in config["per_layer_config"].items()}
    for layer_idx, layer in enumerate(layers):
        sizes = config | own_sizes.get(layer_idx, {})
        assert sizes["num_attention_heads"] == 4 * sizes["num_key_value_heads"] == 4 * len(layer["attention"])
        assert sizes["intermediate_size"] == len(layer["mlp"])


def first_experiment(output_root: Path) -> Path:
    """The one that was named by the app; a branch of it has a longer name."""
    return min(output_root.glob("demo-taylor-*"), key=lambda folder: len(folder.name))


# what a plan means ----------------------------------------------------------------------------------------------------


def kept_in(plan: Path) -> list[dict]:
    return [{kind: layer[kind] for kind in ("attention", "mlp")} for layer in json.loads(plan.read_text())["layers"]]


def parameters_of(layers: list[dict]) -> int:
    attention = sum(4 - len(layer["attention"]) for layer in layers) * ATTENTION_GROUP_COST
    return DEMO_PARAMETERS - attention - sum(384 - len(layer["mlp"]) for layer in layers) * MLP_CHANNEL_COST


def matrix_shapes(layer: dict) -> dict[str, list[int]]:
    """Rows and columns of a layer's matrices: hidden size 128, heads of 8, four query heads per KV head."""
    kv, channels = 8 * len(layer["attention"]), len(layer["mlp"])
    return {
        "q_proj": [4 * kv, 128],
        "k_proj": [kv, 128],
        "v_proj": [kv, 128],
        "o_proj": [128, 4 * kv],
        "gate_proj": [channels, 128],
        "up_proj": [channels, 128],
        "down_proj": [128, channels],
    }
