"""Experiments whose files were damaged, beside a whole one: each page opens, says what is damaged, and shows the others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis.__main__ import main as analyse
from pruning.__main__ import main
from pruning.experiment import Experiment, list_experiments
from pruning.planning.allocation import allocate_global
from pruning.planning.protection import Protection
from pruning.runs import results, steps
from pruning.runs.sensitivity.results import INSIDE, question
from pruning.runs.trials import JUDGED_BY, Waiting
from pruning.settings import plan_settings
from tests.requests import ask_by_settings, ask_to_learn, ask_to_try
from tests.runs.quick_runs import new_experiment, quick_settings, save_tiny_model, write_text
from ui.translation import t

from .conftest import ROOT

PAGES = ("model", "importance", "plan", "prune", "recover", "compare", "export", "learn")
TABLE, RESULT = "global_group_table.csv", "pruning_analysis.csv"
RECOVERED = {"reconstruct": True, "reconstruct_tokens": 64, "finetune": True, "finetune_steps": 2, "finetune_samples": 8}
RECOVERED |= {"finetune_batch_size": 2, "save_model": True, "test_before_prune": True, "test_after_prune": True}


def removed(path: Path) -> None:
    path.unlink()


def content(text: str | bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def changed(*keys: str | int, to) -> Callable[[Path], None]:
    """The value at this place of a JSON file replaced."""

    def change(path: Path) -> None:
        whole = inner = json.loads(path.read_text())
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        path.write_text(json.dumps(whole))

    return change


def without(*keys: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        whole = inner = json.loads(path.read_text())
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        path.write_text(json.dumps(whole))

    return change


def setting(name: str, to) -> tuple[str, Callable[[Path], None]]:
    return "description.txt", changed("settings", name, to=to)


def failed_with_log(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """A job that failed, whose log the page shows."""

    def change(path: Path) -> None:
        job = json.loads(path.read_text())
        damage(path.parent / job["log"])
        error = {"code": "unexpected", "values": {"reason": "x"}, "message": "x"}
        path.write_text(json.dumps(job | {"kind": "prune", "state": "failed", "error": error}))

    return change


def of_another_process(path: Path) -> None:
    """A job that ran when the machine went down; another program has its process id now."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "process": [1, 5.0]}))


LATIN = content(b'{"format_version": 1, "prompt": "\xff\xfe\xe4"}')
KINDS = {
    "description missing": ("description.txt", removed),
    "description empty": ("description.txt", content("")),
    "description cut short": ("description.txt", cut_short),
    "description a list": ("description.txt", content("[1]")),
    "description null": ("description.txt", content("null")),
    "description of a later format": ("description.txt", changed("format_version", to=99)),
    "description a folder": ("description.txt", a_folder),
    "description a loop": ("description.txt", a_loop),
    "description not UTF-8": ("description.txt", LATIN),
    "description nested too deep": ("description.txt", content("[" * 100_000)),
    "settings missing": ("description.txt", without("settings")),
    "settings a list": ("description.txt", changed("settings", to=[1])),
    "unknown strategy": setting("strategy", "magic"),
    "strategy a list": setting("strategy", ["global"]),
    "a negative number": setting("num_samples", -5),
    "text for a number": setting("seq_len", "many"),
    "a list for a number": setting("pruning_ratio", [0.3]),
    "a number for text": setting("base_model", 7),
    "a ratio beyond its range": setting("pruning_ratio", 3.5),
    "not a number": ("description.txt", lambda path: path.write_text(path.read_text().replace('"seed": 0', '"seed": NaN'))),
    "a huge number": setting("min_kv_groups", 10**300),
    "an impossible range of layers": setting("block_mlp_layer_end", 10**6),
    "a protection that is none": setting("protected_layers", "x-y"),
    "model a number": ("description.txt", changed("model", to=3)),
    "config a list": ("description.txt", changed("model", "config", to=[])),
    "config with text for a size": ("description.txt", changed("model", "config", "hidden_size", to="wide")),
    "fingerprint a number": ("description.txt", changed("fingerprint", to=12)),
    "table empty": (TABLE, content("")),
    "table cut short": (TABLE, cut_short),
    "table without columns": (TABLE, content("layer_idx,group_type\n0,attention\n")),
    "table not UTF-8": (TABLE, content(b"layer_idx,\xff\xfe\n1,2\n")),
    "table a folder": (TABLE, a_folder),
    "table with text for scores": (
        TABLE,
        content("layer_idx,group_type,group_idx,importance,cost,score\n0,attention,0,a,b,c\n"),
    ),
    "table of another model": (f"{TABLE}.json", changed("fingerprint", to="0" * 64)),
    "sidecar not JSON": (f"{TABLE}.json", content("{")),
    "sidecar with text for its calibration": (f"{TABLE}.json", changed("calibration", to="text")),
    "layers not JSON": ("layer_importance_config.json", content("{")),
    "layers too few": ("layer_importance_config.json", changed("layers", to=[])),
    "plan not JSON": ("plan.json", content("{")),
    "plan of another model": ("plan.json", changed("fingerprint", to="0" * 64)),
    "plan with text for groups": ("plan.json", changed("layers", 1, "mlp", to="all")),
    "plan a folder": ("plan.json", a_folder),
    "plan with settings that are none": ("plan.json", changed("settings", "pruning_ratio", to="much")),
    "metrics not JSON": ("metrics.json", content("{")),
    "metrics missing": ("metrics.json", removed),
    "metrics with text for figures": ("metrics.json", changed("parameters", to="many")),
    "metrics without what a figure refers to": ("metrics.json", without("basis")),
    "metrics with a list for perplexities": ("metrics.json", changed("perplexity", to=[1, 2])),
    "metrics with text for a perplexity": ("metrics.json", changed("perplexity", "after", to={"text": "good"})),
    "metrics with a number too large": ("metrics.json", lambda path: path.write_text('{"format_version": 1, "ratio": 1e999}')),
    "metrics with text for a check": ("metrics.json", changed("export_check", to="passed")),
    "metrics with half a recovery": ("metrics.json", changed("recovery", to={"method": "lora"})),
    "metrics with text for speed": ("metrics.json", changed("latency", to={"after": ["fast"]})),
    "samples not JSON": ("samples.json", content("{")),
    "samples without a text": ("samples.json", content('{"format_version": 1}')),
    "samples with numbers": ("samples.json", content('{"format_version": 1, "prompt": 1, "before": 2, "after": [3]}')),
    "samples not UTF-8": ("samples.json", LATIN),
    "result empty": (RESULT, content("")),
    "result without columns": (RESULT, content("a,b\n1,2\n")),
    "result cut short": (RESULT, cut_short),
    "repair not JSON": ("repair.json", content("{")),
    "repair without its text": ("repair.json", without("calibration")),
    "repair with text for matrices": ("repair.json", changed("matrices", to="all")),
    "training not JSON": ("recovery.json", content("{")),
    "training without points": ("recovery.json", changed("points", to=[])),
    "training with text for points": ("recovery.json", changed("points", to="many")),
    "training without its validation": ("recovery.json", changed("validation", to={})),
    "cost not JSON": ("recovery_cost.json", content("{")),
    "cost with text for seconds": ("recovery_cost.json", changed("seconds_per_step", to="soon")),
    "request not JSON": ("request.json", content("{")),
    "request without arguments": ("request.json", changed("arguments", to=None)),
    "trials not JSON": ("trials.json", content("{")),
    "trials of another make": ("trials.json", changed("trials", to=[{"a": 1}])),
    "trials with text for a perplexity": ("trials.json", changed("trials", 0, "perplexity", to="good")),
    "finding not JSON": ("sensitivity/*.json", content("{")),
    "finding with text for points": ("sensitivity/*.json", changed("points", to="many")),
    "named plan not JSON": ("plans/kept.json", content("{")),
    "job not JSON": ("job.json", content("{")),
    "job without its kind": ("job.json", without("kind")),
    "job in an unknown state": ("job.json", changed("state", to="dreaming")),
    "job in an unknown step": ("job.json", changed("step", to="dream")),
    "job with text for times": ("job.json", changed("started", to="early")),
    "job with a process that cannot be": ("job.json", changed("process", to=[10**30, 0.0])),
    "job of a process that is another one now": ("job.json", of_another_process),
    "log not UTF-8": ("job.json", failed_with_log(content(b"\xff\xfe\xe4"))),
    "log a folder": ("job.json", failed_with_log(a_folder)),
    "log missing": ("job.json", failed_with_log(removed)),
    "config of the saved model not JSON": ("model/config.json", content("{")),
    "card of the saved model not UTF-8": ("model/README.md", content(b"---\n\xff\n---\n\xe4")),
    "weights of the saved model cut short": ("model/model.safetensors", cut_short),
}
# Where nothing is said, because nothing is lost by it.
HARMLESS = ("an impossible range of layers", "a protection that is none")
HARMLESS += ("training without points", "job with a process that cannot be", "job of a process that is another one now")
HARMLESS += ("log not UTF-8", "log a folder", "log missing")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Experiment:
    """An experiment that has every file: measured, tried, learned from, cut, saved, repaired and trained."""
    place = tmp_path_factory.mktemp("whole")
    text = write_text(place / "values.txt")
    settings = quick_settings(save_tiny_model(place / "tiny"), text, layer_importance_samples=2, **RECOVERED)
    experiment = new_experiment(place / "experiments", "good", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})
        for job in ("measure", "global"):  # the second leaves layers out, which it does not need
            steps.run(job, experiment)
    table = experiment.read_table()
    experiment.write_named_plan("kept", allocate_global(table, 0.03, Protection.none(5), settings={"pruning_ratio": 0.03}))
    ask_to_learn(experiment, question(experiment, table, INSIDE))
    steps.run("learn", experiment)
    judged_by = experiment.settings.of(JUDGED_BY)
    ask_to_try(experiment, [Waiting(plan_settings(experiment.settings))], judged_by)
    steps.run("try", experiment)
    ask_by_settings(experiment, "cost", experiment.settings)
    steps.run("cost", experiment)
    ask_by_settings(experiment, "recover", experiment.settings)
    experiment.update_metrics(latency={"after": [{"batch_size": 1, "decode_tokens_per_second": 5.0}]})
    return experiment


def damaged(whole: Experiment, root: Path, kind: str) -> tuple[Experiment, str]:
    """A copy of it with one kind of damage, and the name of the damaged file."""
    number = list(KINDS).index(kind)
    pattern, damage = KINDS[kind]
    copy = Experiment(root / f"bad{number}")
    shutil.copytree(whole.folder, copy.folder)
    for path in sorted(copy.folder.glob(pattern)):
        damage(path)
    return copy, path.name.replace(".csv.json", ".csv")


def opened(root: Path, name: str, monkeypatch) -> AppTest:
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(root))
    at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    at.query_params["experiment"] = name
    return at.run()


def on(at: AppTest, page: str) -> AppTest:
    return at.switch_page(str(ROOT / "pages" / f"{page}.py")).run()


def said(at: AppTest) -> list[str]:
    return [element.value for kind in ("error", "warning") for element in getattr(at, kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_opens_with_a_damaged_experiment_open_and_names_the_file(whole, tmp_path, monkeypatch, kind):
    experiment, file = damaged(whole, tmp_path, kind)
    at = opened(tmp_path, experiment.name, monkeypatch)
    failed = {}
    for page in PAGES:
        on(at, page)
        if at.exception:
            failed[page] = at.exception[0].message
        elif kind not in HARMLESS and not any(file in sentence for sentence in said(at)):
            failed[page] = "no word of it"
        elif kind not in HARMLESS and t("sidebar.state.damaged") not in [caption.value for caption in at.sidebar.caption]:
            failed[page] = "not damaged in the sidebar"
    assert not failed


@pytest.fixture(scope="module")
def all_kinds(whole, tmp_path_factory) -> Path:
    """A root with the whole experiment and one of each kind of damage."""
    root = tmp_path_factory.mktemp("all")
    for kind in KINDS:
        damaged(whole, root, kind)
    shutil.copytree(whole.folder, root / "good")
    return root


DAMAGED = {f"bad{number}" for number, kind in enumerate(KINDS) if kind not in HARMLESS}


def test_damaged_experiments_keep_no_page_of_another_from_opening(all_kinds, monkeypatch):
    at = opened(all_kinds, "good", monkeypatch)
    for page in PAGES:
        on(at, page)
        assert not at.exception and not at.error, page
        assert not at.sidebar.error, page
    on(at, "compare")
    states = at.dataframe[0].value.set_index("name")["state"]
    assert set(states[states == t("compare.state.damaged")].index) == DAMAGED
    assert states["good"] == t("compare.state.saved")
    named = {warning.value.partition(":")[0] for warning in at.warning}
    assert named >= DAMAGED


def test_the_command_line_lists_damaged_ones_with_the_reason(all_kinds, capsys):
    assert main(["list", "--output_root", str(all_kinds)]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line for line in told.splitlines() if line.strip()}
    for number, kind in enumerate(KINDS):
        row = next(line for line in told.splitlines() if line.split()[:1] == [f"bad{number}"])
        assert (row.split()[1] == "damaged") == (kind not in HARMLESS)
        if kind not in HARMLESS:
            file = KINDS[kind][0].rpartition("/")[2].replace(".csv.json", ".csv").replace("*", "")
            assert file in lines[f"bad{number}:"]
    row = next(line for line in told.splitlines() if line.startswith("good "))
    assert row.split()[1] == "saved"
    assert analyse(["size", "--output_root", str(all_kinds)]) == 0
    assert "good" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_the_command_line_says_one_sentence_of_a_damaged_one(all_kinds, tmp_path, capsys, name):
    arguments = ["report", name, "--output_root", str(all_kinds), "--output", str(tmp_path / "report.html")]
    assert analyse(arguments) in (0, 2)  # damage that the report does not look at is none of its business
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_experiment_can_be_renamed_and_deleted(whole, tmp_path, kind):
    experiment, _ = damaged(whole, tmp_path, kind)
    renamed = experiment.rename("other")
    assert [one.name for one in list_experiments(tmp_path)] == ["other"]
    renamed.delete()
    assert not list(tmp_path.iterdir())
