"""What a server that other machines reach lets its visitors do, and what its start says."""

import os
import subprocess
import sys

import pytest
from streamlit.testing.v1 import AppTest

from ui import access, start
from ui.translation import t

from .conftest import ROOT

SESSION = """
import streamlit as st
from ui import workspace

st.session_state.update({typed})
st.text(workspace.consents_to_code("model"))
st.text(workspace.hub_token())
"""


@pytest.fixture(params=[False, True], ids=["this machine", "other machines"])
def others_reach_it(request, monkeypatch) -> bool:
    monkeypatch.setattr(access, "_is_loopback", lambda address: not request.param)
    return request.param


def test_addresses_that_other_machines_reach():
    assert not any(access.is_beyond_loopback(address) for address in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert all(access.is_beyond_loopback(address) for address in ("0.0.0.0", "::", "192.168.0.7", "studio.example", ""))


def in_session(typed: dict) -> list[str]:
    """Whether the model's code may run, and the token, in a session that holds these values."""
    at = AppTest.from_string(SESSION.format(typed=typed), default_timeout=60).run()
    assert not at.exception
    return [element.value for element in at.text]


def test_consent_and_the_own_token_are_for_this_machine_alone(others_reach_it, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of the server")
    given = {"trust_remote_code:model": True}
    assert in_session({}) == ["False", "None" if others_reach_it else "of the server"]
    assert in_session(given | {"hub_token": "typed"}) == [str(not others_reach_it), "typed"]


def test_the_model_page_asks_for_consent_on_this_machine_only(app, others_reach_it, monkeypatch):
    monkeypatch.setenv(access.ROOTS_VARIABLE, str(ROOT))
    app.query_params["model"] = str(ROOT / "assets" / "demo_model")
    at = app.run()
    assert not at.exception and not at.error
    assert len(at.checkbox) == (0 if others_reach_it else 1)
    assert (t("model.no_code") in [caption.value for caption in at.caption]) == others_reach_it


@pytest.mark.parametrize(("before", "sent"), [("", "Bearer hf_own"), ("access.leave_own_token_out()", "None")])
def test_the_library_of_the_hub_sends_no_token_by_itself(before, sent):
    code = f"""
from ui import access
{before}
from huggingface_hub.utils import build_hf_headers
print(build_hf_headers().get("authorization"))
"""
    environment = os.environ | {"HF_TOKEN": "hf_own"}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == sent


def test_the_start_says_what_a_visitor_can_do(others_reach_it, monkeypatch, tmp_path):
    monkeypatch.setenv(access.ROOTS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("PRUNING_OUTPUT_ROOT", str(tmp_path / "results"))
    told = start.told("http://studio:8501/?token=x", "x")
    assert told.rstrip().splitlines()[-2].endswith("Open http://studio:8501/?token=x")
    for what in (str(tmp_path / "models"), str(tmp_path / "results"), "run jobs", "delete every experiment", "link below"):
        assert (what in told) == others_reach_it
    assert "--no-token" in start.told("http://studio:8501/", None)
