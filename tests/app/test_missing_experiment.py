"""An experiment that was renamed or deleted elsewhere while a page shows it: one sentence, and the experiments there are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pruning.experiment import Experiment
from pruning.runs import results, steps
from tests.runs.quick_runs import new_experiment, quick_settings, save_tiny_model, write_text
from ui import workspace
from ui.translation import t

from .conftest import ROOT

PAGES = ("model", "importance", "plan", "prune", "recover", "compare", "export", "learn")
EMPTY = ("empty.not_measured", "empty.not_planned", "empty.not_cut", "empty.not_recoverable", "importance.empty")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Experiment:
    """An experiment that was measured, cut and saved, its job over."""
    place = tmp_path_factory.mktemp("whole")
    text = write_text(place / "values.txt")
    settings = quick_settings(save_tiny_model(place / "tiny"), text, layer_importance_samples=2, save_model=True)
    experiment = new_experiment(place / "experiments", "shown", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})
        for job in ("measure", "global"):
            steps.run(job, experiment)
    return experiment


@pytest.fixture
def root(whole, tmp_path, monkeypatch) -> Path:
    """A root with it and another one."""
    for name in ("shown", "another"):
        shutil.copytree(whole.folder, tmp_path / "experiments" / name)
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path / "experiments"))
    return tmp_path / "experiments"


def opened(page: str, name: str = "shown") -> AppTest:
    at = AppTest.from_file(ROOT / "pages" / "main.py", default_timeout=60)
    at.query_params["experiment"] = name
    at.run()
    at = at.switch_page(str(ROOT / "pages" / f"{page}.py")).run()
    assert not at.exception
    return at


def delete(root: Path) -> None:
    Experiment.open(root, "shown").delete()


def rename(root: Path) -> None:
    """On the command line or by hand: this server does not learn of it."""
    Experiment.open(root, "shown").rename("elsewhere")


def remove_all_files_by_hand(root: Path) -> None:
    for path in (root / "shown").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def assert_gone(at: AppTest, others: set[str]) -> None:
    """One sentence, the experiments there are, and nothing that is not so."""
    assert not at.exception and not at.error
    [sentence] = [warning.value for warning in at.warning]
    assert sentence == t("missing.gone", name="shown")
    assert {button.label for button in at.button if button.key.startswith("open:")} == others
    assert not {t(key) for key in EMPTY} & {info.value for info in at.info}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("act", "left"), [(delete, set()), (rename, {"elsewhere"}), (remove_all_files_by_hand, set())])
def test_every_page_says_so_and_offers_the_others(root, page, act, left):
    at = opened(page)
    act(root)
    assert_gone(at.run(), {"another"} | left)
    at.button(key="open:another").click().run()
    assert not at.exception and not at.warning and at.query_params["experiment"] == "another"
    assert at.title[0].value == t(f"{page}.title")  # the same page, of the other


# What is pressed while the experiment goes: callbacks run before the page, sliders and buttons of a fragment without it.
PRESSED: dict[str, tuple[str, Callable[[AppTest], object]]] = {
    "measure by another method": ("importance", lambda at: at.button(key="start_other").click()),
    "slider of the plan": ("plan", lambda at: at.slider(key="ratio").set_value(0.4)),
    "save the plan": ("plan", lambda at: at.button(key="save_plan").click()),
    "undo of the plan": ("plan", lambda at: at.button(key="plan_reset").click()),
    "cut": ("prune", lambda at: at.button(key="cut").click()),
    "recover": ("recover", lambda at: at.button(key="recover_start").click()),
    "measure the cost": ("recover", lambda at: at.button(key="measure_cost").click()),
    "pack": ("export", lambda at: at.button(key="pack").click()),
    "make a GGUF": ("export", lambda at: at.selectbox(key="export_format").set_value("gguf-f16")),
    "rename": ("compare", lambda at: at.button(key="rename_do").click()),
    "delete": ("compare", lambda at: at.button(key="delete").click()),
    "a chapter": ("learn", lambda at: at.segmented_control(key="learn_section").set_value("cut")),
}


@pytest.mark.parametrize("what", PRESSED)
def test_what_is_pressed_meanwhile_says_so_too(root, what):
    page, press = PRESSED[what]
    at = opened(page)
    if what == "measure by another method":
        at.segmented_control(key="importance_section").set_value("methods").run()
    if what == "save the plan":
        at.slider(key="ratio").set_value(0.02).run()
    delete(root)
    press(at).run()
    assert_gone(at, {"another"})
    assert sorted(path.name for path in root.iterdir()) == ["another"]


def test_a_rename_in_another_tab_names_the_new_name_and_leads_there(root):
    at, other = opened("plan"), opened("compare")
    other.text_input(key="new_name:shown").set_value("better")
    other.button(key="rename_do").click().run()
    assert not other.warning and other.query_params["experiment"] == "better"
    other.text_input(key="new_name:better").set_value("best")
    other.button(key="rename_do").click().run()
    at.run()
    [warning] = at.warning
    assert warning.value == t("missing.renamed", name="shown", new_name="best")
    at.button(key="open:best").click().run()
    assert not at.exception and not at.warning and at.query_params["experiment"] == "best"


@pytest.mark.parametrize("name", ["never-was", "../up", "a b"])
@pytest.mark.parametrize("page", ["plan", "compare"])
def test_a_link_to_one_that_never_was_says_so(root, page, name):
    at = opened(page, name)
    [warning] = at.warning
    assert name in warning.value.replace("\\", "") and str(root) in warning.value.replace("\\", "")
    at.button(key="open_none").click().run()
    assert not at.exception and not at.warning and "experiment" not in at.query_params


def test_a_job_of_one_that_is_gone_leaves_no_folder(root):
    experiment = Experiment.open(root, "shown")
    delete(root)
    with pytest.raises(Exception, match="could not be written"):
        steps.run("pack", experiment)
    assert not experiment.folder.exists()


def test_the_name_of_a_new_experiment_is_not_taken_for_the_renamed_one(root):
    workspace.rename(Experiment.open(root, "shown"), "moved")
    shutil.copytree(root / "another", root / "shown")
    assert not opened("plan").warning
