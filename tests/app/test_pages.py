"""What each page says, when there is nothing yet, when input is wrong, and when there is something."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pruning.model.model_source import DEMO_FOLDER
from ui import access

from .conftest import ROOT, on_page


def sentences(at) -> list[str]:
    return [element.value for element in at.error]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("importance", "Nothing is measured"),
        ("plan", "Measure importance first"),
        ("prune", "Measure importance first"),
        ("export", "Measure importance first"),
    ],
)
def test_empty_state_says_what_comes_first(app, page, words):
    at = on_page(app, page)
    assert not at.exception and not at.error
    assert any(words in info.value for info in at.info)


def test_prune_and_export_ask_for_a_plan_and_a_cut(app_with_table):
    at = on_page(app_with_table, "prune")
    assert any("no plan yet" in info.value for info in at.info)
    at = at.switch_page(str(ROOT / "pages" / "export.py")).run()
    assert any("no cut model" in info.value for info in at.info)


def test_model_page_shows_the_sizes_of_the_demo_model(app):
    at = app.run()
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown["Parameters"] == "6,561,920"
    assert (shown["Layers"], shown["Query heads"], shown["KV heads"], shown["GQA ratio"]) == ("32", "16", "4", "4 : 1")
    components = at.dataframe[0].value.set_index("component")
    assert components["parameters"].sum() == 6_561_920
    assert components["share"].sum() == pytest.approx(1)


def broken_copy(folder: Path, **changes) -> Path:
    """The demo model with other values in its config."""
    shutil.copytree(DEMO_FOLDER, folder, ignore=shutil.ignore_patterns("train.py", "__*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def cut_short(folder: Path) -> Path:
    broken_copy(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


def test_model_page_counts_a_head_that_the_config_denies_and_says_it(app, tmp_path):
    folder = broken_copy(tmp_path / "own-head")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": -weights["model.embed_tokens.weight"]}, folder / "model.safetensors")
    at = app.run()
    at.segmented_control(key="source").set_value("folder").run()
    at.text_input(key="model_folder").set_value(str(folder)).run()
    assert "7,086,208" in [metric.value for metric in at.metric]  # 4096 x 128 more than the demo model
    assert sum("the files hold a head of its own" in caption.value for caption in at.caption) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "nowhere", "neither a folder here nor a Hugging Face id"),
        (lambda f: f.mkdir() or f, "no config.json"),
        (lambda f: broken_copy(f, model_type="gpt2"), "'gpt2' is not supported. Supported are: llama, mistral"),
        (lambda f: broken_copy(f, intermediate_size=512), "contradict config.json"),
        (cut_short, "cut short or damaged"),
    ],
    ids=["missing", "empty", "gpt2", "contradicting", "truncated"],
)
def test_a_folder_that_cannot_be_opened_gets_one_sentence(app, tmp_path, make, words):
    folder = make(tmp_path / "model")
    at = app.run()
    at.segmented_control(key="source").set_value("folder").run()
    at.text_input(key="model_folder").set_value(str(folder)).run()
    assert not at.exception
    assert len(at.error) == 1 and words in at.error[0].value


def test_a_hub_id_without_network_names_the_offline_choices(app):
    at = app.run()
    at.segmented_control(key="source").set_value("hub").run()
    at.text_input(key="model_hub").set_value("nobody/nothing-of-this-name").run()
    assert not at.exception
    assert len(at.error) == 1 and "demo model or a local folder" in at.error[0].value


@pytest.mark.parametrize(
    ("protected", "words"),
    [
        ("99", "There is no layer 99: this model has the layers 0 to 31"),
        ("abc", "is not a list of layers"),
        ("0-31", "Every layer is protected"),
    ],
)
def test_layers_that_cannot_be_protected_get_one_sentence(app_with_table, protected, words):
    at = on_page(app_with_table, "plan")
    at.text_input(key="protect").set_value(protected).run()
    assert not at.exception
    assert len(at.error) == 1 and words in at.error[0].value


def test_a_ratio_beyond_what_is_left_names_the_largest(app_with_table):
    at = on_page(app_with_table, "plan")
    at.slider(key="ratio").set_value(0.9).run()
    assert len(at.error) == 1 and "at most 0." in at.error[0].value


def test_a_link_opens_the_same_plan(app_with_table):
    app_with_table.query_params |= {"ratio": "0.3", "protect": "17"}
    at = on_page(app_with_table, "plan")
    assert at.slider(key="ratio").value == 0.3
    assert at.text_input(key="protect").value == "17"
    assert next(m for m in at.metric if m.label == "Target ratio").value == "30.00%"


def start_with(at, corpus: str, **fields):
    """Fills in the form of the Importance page and presses Start."""
    at.selectbox(key="corpus_kind").set_value(corpus).run()
    for key, value in fields.items():
        (at.text_area if key == "corpus_text" else at.text_input)(key=key).set_value(value)
    return at.button(key="start").click().run()


@pytest.mark.parametrize(
    ("corpus", "fields", "words"),
    [
        ("python-stdlib", {"new_experiment_name": "../x"}, "cannot be a folder name"),
        ("file", {"corpus_file": "/nowhere/text.docx"}, "There is no corpus"),
        ("file", {"corpus_file": "/nowhere/text.txt"}, "is not there"),
        ("dataset", {"corpus_dataset": ""}, "There is no corpus"),
        ("pasted", {"corpus_text": "  "}, "holds no text"),
    ],
)
def test_wrong_input_to_a_measurement_starts_nothing(app, corpus, fields, words):
    at = start_with(on_page(app, "importance"), corpus, **fields)
    assert not at.exception
    assert any(words in sentence for sentence in sentences(at))
    from ui import workspace

    assert workspace.experiments() == []


def test_typed_paths_stay_inside_the_roots_of_a_public_server(tmp_path, monkeypatch):
    assert access.allowed_roots("127.0.0.1") is None
    assert access.allowed_roots("localhost") is None
    monkeypatch.setenv(access.ROOTS_VARIABLE, str(tmp_path))
    assert tmp_path in access.allowed_roots("0.0.0.0")
    assert access.allowed_roots("") is not None


def test_a_public_server_refuses_a_folder_outside_its_roots(app, tmp_path, monkeypatch):
    monkeypatch.setenv(access.ROOTS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(access, "_is_loopback", lambda address: False)
    at = app.run()
    at.segmented_control(key="source").set_value("folder").run()
    at.text_input(key="model_folder").set_value(str(broken_copy(tmp_path / "elsewhere"))).run()
    assert len(at.error) == 1 and "outside the allowed folders" in at.error[0].value
