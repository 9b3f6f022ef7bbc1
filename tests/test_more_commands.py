"""`importance`, `list`, `export`, settings from a file, dry runs, and settings that contradict the model or each other."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pruning.__main__ import main
from pruning.commands.arguments import read_config
from pruning.experiment import Experiment
from pruning.model.model_source import DEMO_FOLDER
from pruning.settings import SETTINGS, resolve
from tests.runs.quick_runs import files_of, save_tiny_model, write_text

QUICK = ("--num_samples=4", "--seq_len=16", "--layer_importance_samples=2", "--gradient_batch_size=2")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("source")
    return f"--base_model={save_tiny_model(folder / 'model')}", f"--corpus={write_text(folder / 'text.txt')}"


@pytest.fixture(scope="module")
def measured(source, tmp_path_factory) -> Experiment:
    """An experiment that `importance` made."""
    root = tmp_path_factory.mktemp("prune_log")
    table = f"--save_table_path={root / 'table.json'}"
    assert main(["importance", *source, *QUICK, f"--output_root={root}", "--experiment_name=measured", table]) == 0
    return Experiment.open(root, "measured")


def test_importance_measures_groups_and_layers_and_cuts_nothing(measured):
    assert measured.is_measured and not measured.is_planned and not measured.is_cut
    assert len(measured.read_layer_importance().importance) == 5


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_table_that_was_saved_elsewhere_gives_the_plan_of_the_run(measured, source, tmp_path, suffix):
    shared = [*source, *QUICK, f"--output_root={tmp_path}", "--pruning_ratio=0.03"]
    table = tmp_path / f"table.{suffix}"
    assert main(["global", *shared, "--experiment_name=run", f"--save_table_path={table}"]) == 0
    assert main(["apply", *shared, "--experiment_name=applied", f"--table={table}"]) == 0
    kept = [Experiment.open(tmp_path, name).read_plan().kept for name in ("run", "applied")]
    assert (kept[0] == kept[1]).all()


def test_the_json_table_holds_what_the_csv_holds(measured):
    content = json.loads((measured.folder.parent / "table.json").read_text())
    assert content["fingerprint"] == measured.description()["fingerprint"]
    pd.testing.assert_frame_equal(pd.DataFrame(content["groups"]), pd.read_csv(measured.path("global_group_table.csv")))


def test_list_names_every_experiment_and_how_far_it_got(measured, capsys):
    assert main(["list", f"--output_root={measured.folder.parent}"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["experiment", "state"] and row.split()[:2] == ["measured", "measured"]


def test_list_of_an_empty_folder_says_so(tmp_path, capsys):
    assert main(["list", f"--output_root={tmp_path}"]) == 0
    assert "There are no experiments" in capsys.readouterr().out


def test_export_needs_a_checked_model_and_leaves_the_record_of_the_last_run(measured, capsys):
    before = measured.path("job.json").read_bytes()
    assert main(["export", f"--output_root={measured.folder.parent}", "--experiment_name=measured"]) == 2
    assert "holds no saved model. Cut it with --save_model." in capsys.readouterr().err
    assert measured.path("job.json").read_bytes() == before


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_settings_come_from_a_file_and_flags_win(source, tmp_path, suffix):
    settings = {"pruning_ratio": 0.02, "num_examples": 3, "seq_len": 16, "layer_importance_samples": 0}
    config = tmp_path / f"settings.{suffix}"
    lines = "\n".join(f"{name}: {value}" for name, value in settings.items())
    config.write_text(json.dumps(settings) if suffix == "json" else lines)
    run = ["global", *source, f"--config={config}", f"--output_root={tmp_path}", "--experiment_name=run"]
    assert main([*run, "--num_samples=4"]) == 0
    written = Experiment.open(tmp_path, "run").settings
    assert (written.pruning_ratio, written.num_samples, written.seq_len) == (0.02, 4, 16)


def test_values_of_a_yaml_file_are_what_stands_there(tmp_path):
    text = ("pruning_distribution: 2:8", "experiment_name: 2026-01-31", "plan: null", "protected_layers:", "save_model: true")
    (tmp_path / "settings.yaml").write_text("\n".join(text))
    assert (
        resolve(read_config(tmp_path / "settings.yaml")).as_dict().items()
        >= {
            "pruning_distribution": "2:8",
            "experiment_name": "2026-01-31",
            "plan": None,
            "protected_layers": "",
            "save_model": True,
        }.items()
    )


def test_the_description_of_a_run_gives_its_settings_to_another(measured):
    settings = read_config(measured.path("description.txt"))
    assert settings["num_samples"] == 4
    assert not settings.keys() & {"experiment_name", "output_root", "overwrite", "strategy"}


def test_a_dry_run_says_what_the_plan_gives_and_leaves_nothing(measured, source, capsys):
    root = measured.folder.parent
    before = files_of(measured)
    where = [f"--output_root={root}", "--experiment_name=measured"]
    run = ["global", *source, *QUICK, *where, "--pruning_ratio=0.03", "--dry_run"]
    assert main(run) == 0
    shown = capsys.readouterr().out
    assert "from the table of measured" in shown and "asked 3.00% of all parameters" in shown and "fits" in shown
    assert files_of(measured) == before
    assert [e.name for e in root.iterdir() if e.is_dir()] == ["measured"]


@pytest.mark.parametrize("other", ["--num_samples=5", "--importance_method=l1", "--seed=1"])
def test_a_dry_run_takes_no_table_that_the_run_would_not_take(measured, source, capsys, other):
    where = [f"--output_root={measured.folder.parent}", "--experiment_name=measured"]
    quick = [flag for flag in QUICK if flag.partition("=")[0] != other.partition("=")[0]]
    assert main(["global", *source, *quick, *where, "--pruning_ratio=0.03", other, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "from the table" not in shown and "at most 3.00% of all parameters" in shown


def dry_run(capsys, *arguments: str) -> str:
    assert main([*arguments, "--base_model=demo", "--dry_run"]) == 0
    return capsys.readouterr().out


def test_a_dry_run_of_rates_says_the_most_that_they_can_take(capsys):
    shown = dry_run(capsys, "layer", "--pruning_ratio=0.9")
    most = 27 * sum_of_blocks(DEMO_FOLDER) // 2
    assert f"at most {most / 6_561_920:.2%} of all parameters, {most:,} (asked 90.00% of attention and MLP of all" in shown
    shown = dry_run(capsys, "layer", "--pruning_ratio=0.2")
    assert f", {32 * sum_of_blocks(DEMO_FOLDER) // 5:,} (asked 20.00% of attention" in shown


def sum_of_blocks(folder: Path) -> int:
    """Parameters of attention and MLP of one layer, from the sizes in the config."""
    config = json.loads((folder / "config.json").read_text())
    h, d = config["hidden_size"], config["head_dim"]
    heads = 2 * config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    return h * d * heads + 3 * h * config["intermediate_size"]


def test_a_dry_run_takes_the_number_format_that_is_asked_for(capsys):
    shown = [dry_run(capsys, "uniform", "--importance_method=l1", "--device=cpu", f"--dtype={d}") for d in ("auto", "bfloat16")]
    assert "25.2 MiB for l1 in float32" in shown[0] and "12.6 MiB for l1 in bfloat16" in shown[1]


def test_a_dry_run_of_a_baseline_shows_no_plan(capsys):
    shown = dry_run(capsys, "global", "--test_before_prune")
    assert "plan    none: without --pruning_ratio the model as it is is measured" in shown
    assert "25.0 MiB for weights in float32" in shown and "%" not in shown


def test_a_dry_run_of_a_stopped_run_does_not_go_on_with_it(measured, capsys):
    before = files_of(measured)
    where = [f"--output_root={measured.folder.parent}", "--experiment_name=measured"]
    assert main(["importance", *where, "--resume", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "[Step" not in printed and "memory" in printed
    assert files_of(measured) == before


@pytest.mark.parametrize(
    ("command", "flags", "sentence"),
    [
        ("global", ["--no-prune_attention", "--pruning_distribution=2:8"], "cuts what `prune_attention` false spares"),
        ("layer", ["--no-prune_mlp"], "cuts what `prune_mlp` false spares"),
        ("global", ["--no-prune_mlp", "--no-prune_attention"], "nothing may be cut"),
        ("global", ["--head_dim=5"], "`head_dim` is 5, but this model has"),
        ("global", ["--gqa_ratio=3"], "`gqa_ratio` is 3, but this model has 2"),
        ("global", ["--config=gone.json"], "The file gone.json is not there"),
        ("global", ["--config=gone.yaml"], "The file gone.yaml is not there"),
        ("importance", ["--save_table_path=table.txt"], "it must end in .csv or .json"),
        ("importance", ["--save_model"], "--save_model is no flag of `importance`"),
        ("importance", ["--test_after_prune"], "--test_after_prune is no flag of `importance`"),
        ("global", ["--test_before_prune", "--save_model"], "and nothing is cut: `save_model` has no effect."),
        ("layer", ["--test_before_prune", "--test_after_prune"], "nothing is cut: `test_after_prune` has no effect."),
        ("global", ["--table=x.csv"], "--table is no flag of `global`"),
        ("layer", ["--importance_confg=x"], "(did you mean --layer_importance_config?). See --help."),
        ("global", ["--confg=x.json"], "--confg is no flag of `global` (did you mean --config?)."),
        ("global", ["--no-prune_atention"], "(did you mean --no-prune_attention?)."),
        ("layer", ["--block_wise"], "--block_wise is no flag of `layer` (use `layer --pruning_strategy uniform`)."),
        ("list", ["--output_rot", "x"], "--output_rot is no flag of `list` (did you mean --output_root?)."),
        ("export", ["--experiment_nam", "x"], "--experiment_nam is no flag of `export` (did you mean --experiment_name?)."),
        ("apply", ["--groups=x.csv", "--mlp_multiple=8"], "`groups` and `mlp_multiple` cannot be used together"),
        ("list", ["--everything"], "--everything is no flag of `list`. See --help."),
        ("list", ["everything"], "unexpected argument 'everything'. See --help."),
    ],
)
def test_what_cannot_be_is_one_sentence(source, tmp_path, monkeypatch, capsys, command, flags, sentence):
    monkeypatch.chdir(tmp_path)
    given = [] if command in ("list", "export") else [*source, "--experiment_name=run"]
    assert main([command, *given, *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(("command", "setting"), [("global", {"groups": "x.csv"}), ("importance", {"save_model": True})])
def test_a_file_holds_only_settings_that_the_command_has_flags_for(source, tmp_path, capsys, command, setting):
    config = tmp_path / "settings.json"
    config.write_text(json.dumps(setting))
    assert main([command, *source, f"--config={config}"]) == 2
    assert f"--{next(iter(setting))} is no flag of `{command}`" in capsys.readouterr().err


def test_a_yaml_file_that_holds_no_settings_is_refused(source, tmp_path, capsys):
    config = tmp_path / "list.yaml"
    config.write_text("- 1\n- 2\n")
    assert main(["global", *source, f"--config={config}"]) == 2
    assert "it is not an object of settings" in capsys.readouterr().err


@pytest.mark.parametrize("old", [(old, s.name) for s in SETTINGS.values() for old in s.old_names], ids=lambda pair: pair[0])
def test_every_old_name_is_taken_with_one_line_and_not_beside_another_value(tmp_path, monkeypatch, capsys, old):
    monkeypatch.chdir(tmp_path)
    name, now = old
    setting = SETTINGS[now]
    values = list(setting.choices[:2]) or {str: ["a", "b"], int: ["3", "4"], float: ["0.2", "0.3"]}[setting.kind]
    assert main(["layer", "--base_model=./gone", f"--{name}={values[0]}"]) == 2
    error = capsys.readouterr().err
    assert f"Note: --{name} is now called --{now}." in error and "'./gone' is neither a folder" in error
    assert main(["layer", "--base_model=./gone", f"--{name}={values[0]}", f"--{now}={values[1]}"]) == 2
    assert f"`{now}` was given twice with different values" in capsys.readouterr().err
