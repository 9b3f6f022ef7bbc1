"""Names and texts of strangers are shown as they are: no picture of them is fetched, no link is made, nothing is styled."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from pruning.__main__ import main
from pruning.experiment import Experiment
from tests.browser.conftest import ROOT, _end, _free_port, _wait_until_up, is_healthy
from tests.browser.studio import SCREENS, Studio
from tests.runs.quick_runs import quick_flags, save_tiny_model, write_text

OUTSIDE = "outside.example"
PICTURE = f"![x](http://{OUTSIDE}/x.png)[a](http://{OUTSIDE})<a href='http://{OUTSIDE}'>b</a><img src=http://{OUTSIDE}/y.png>"
PICTURE_IN_A_NAME = PICTURE.replace("/", "&#47;")  # Markdown reads it as the same; a file can be called so
TEXTS = (
    *(PICTURE, PICTURE_IN_A_NAME, f"www.{OUTSIDE}", f"see (https://{OUTSIDE}/a),", f"me@{OUTSIDE}", f"<http://{OUTSIDE}>"),
    *(":smile:", ":red[hot]", ":red-background[hot]", ":streamlit:", "a::red[b]", ":::note", "$x^2$", "a `b` *c* ~~d~~", "**"),
    *(
        "__init__",
        "_x_",
        "a_b_c",
        "-> b",
        "a -- b",
        "--",
        "# h",
        "- item",
        "-",
        "+",
        "1. item",
        "===",
        "a\n\n# h\n    code",
        "|a|b|",
    ),
    *("[^1]", f"[x]: http://{OUTSIDE}", "\\", "C:\\folder\\x", "a & b &lt; c", "3:7", "{x}", "a  b"),
)
SENTENCES = ("{text}", "The text {text}.", "**{text}** it is", "{text!r} it is")
SMALL_APP = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
import streamlit as st
from ui import translation

texts, sentences = json.loads(pathlib.Path({file!r}).read_text())
translation.sentences = lambda language: dict(enumerate(sentences))
for i, text in enumerate(texts):
    for j in range(len(sentences)):
        with st.container(key=f"text{{i}}_{{j}}"):
            st.markdown(translation.t(j, text=text))
"""


@pytest.fixture
def page_of_texts(tmp_path, browser) -> Iterator[Page]:
    """A page on which each text stands in each sentence; what it asks for is in `page.requested`."""
    texts, script, log = tmp_path / "texts.json", tmp_path / "script.py", tmp_path / "server.log"
    texts.write_text(json.dumps((TEXTS, SENTENCES)))
    script.write_text(SMALL_APP.format(root=str(ROOT), file=str(texts)))
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port), "--server.headless", "true"]
    with log.open("wb") as output:
        started = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        _wait_until_up(started, log, lambda: is_healthy(f"http://localhost:{port}"))
        context = browser.new_context()
        page = context.new_page()
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(f"http://localhost:{port}")
        yield page
        context.close()
    finally:
        _end(psutil.Process(started.pid))
        started.wait()


def test_a_value_in_a_sentence_is_shown_as_it_is(page_of_texts: Page):
    expect(page_of_texts.locator(f".st-key-text{len(TEXTS) - 1}_{len(SENTENCES) - 1} p")).to_be_visible()
    for i, text in enumerate(TEXTS):
        for j, sentence in enumerate(SENTENCES):
            place = page_of_texts.locator(f".st-key-text{i}_{j}")
            wanted = " ".join(sentence.replace("**", "").format(text=text).split())
            assert place.inner_text().strip() == wanted, (text, sentence)
            marked = place.locator("p :not(code):not(strong), h1, h2, ul, ol, pre, table, a, img")
            assert marked.count() == 0, (text, place.inner_html())
            assert place.locator("strong").count() == ("**" in sentence)
    assert not [url for url in page_of_texts.requested if OUTSIDE in url]


# an experiment whose names and files are full of them -------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(server, tmp_path_factory) -> Experiment:
    """Cut, repaired and saved; the names of model and text, the card and what the files say hold pictures and links."""
    folder = tmp_path_factory.mktemp("strange")
    model, text = save_tiny_model(folder / PICTURE_IN_A_NAME), write_text(folder / f"{PICTURE_IN_A_NAME}.txt")
    flags = quick_flags(model, text, server.output_root, experiment_name="strange", pruning_ratio=0.03)
    assert main(["global", *flags, "--save_model", "--reconstruct"]) == 0
    made = Experiment.open(server.output_root, "strange")
    for path in made.folder.glob("*.json"):
        said = path.read_text(encoding="utf-8")
        for name in (json.dumps(str(text))[1:-1], text.name, "taylor"):
            said = said.replace(f'"{name}"', json.dumps(PICTURE))
        path.write_text(said, encoding="utf-8")
    with made.path("model", "README.md").open("a", encoding="utf-8") as card:
        card.write(f"\n{PICTURE}\n")
    return made


@pytest.fixture(scope="module")
def strange_model(tmp_path_factory) -> Path:
    """A folder whose tensors say that their numbers are pictures."""
    folder = save_tiny_model(tmp_path_factory.mktemp("dtype") / "model")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].replace(b'"F32"', json.dumps(PICTURE).encode())
    weights.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    return folder


def test_no_page_fetches_or_links_what_an_experiment_names(server, new_context, experiment):
    studio = Studio(new_context().new_page(), server.url, server.output_root)
    for screen in SCREENS:
        studio.open(screen, experiment=experiment.name)
        assert_nothing_from_outside(studio, server, screen)
    for section in ("groups", "methods"):
        studio.open("importance", experiment=experiment.name, importance_section=section)
        assert_nothing_from_outside(studio, server, section)


def test_the_model_page_shows_the_numbers_of_a_stranger_as_text(server, new_context, strange_model):
    studio = Studio(new_context().new_page(), server.url, server.output_root)
    studio.open("model", model=str(strange_model))
    expect(studio.page.get_by_text(OUTSIDE).first).to_be_visible()
    assert_nothing_from_outside(studio, server, "model")
    shutil.rmtree(strange_model)


def assert_nothing_from_outside(studio: Studio, server, place: str) -> None:
    studio.settle()
    assert OUTSIDE in studio.page.locator("body").inner_text(), place
    found = studio.page.locator(f"[href*='{OUTSIDE}'], [src*='{OUTSIDE}'], [*|href*='{OUTSIDE}']")
    assert found.count() == 0, (place, found.first.evaluate("node => node.outerHTML"))
    assert not [url for url in server.requested if f"//{OUTSIDE}" in url or f"//www.{OUTSIDE}" in url], place
    assert server.forbidden == [], place
