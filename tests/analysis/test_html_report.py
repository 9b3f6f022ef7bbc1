"""The report holds what the folder holds, in one file that loads nothing and runs nothing but its own script."""

import json
import re
from html.parser import HTMLParser

import pytest

from analysis.catalogue import english
from analysis.report import html_page, write_report
from pruning.errors import PruningError
from pruning.experiment import RESULT_FILE, SAMPLES_FILE, Experiment
from pruning.files import write_csv, write_json
from pruning.planning import matrices
from pruning.planning.allocation import allocate_global
from pruning.planning.protection import Protection
from pruning.settings import plan_settings
from tests.analysis.test_experiments import BASIS, make
from tests.planning.examples import random_table, small_shape

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Reader(HTMLParser):
    """Tags of a page with their attributes, and the words outside of scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.words, self._inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    """An experiment that was cut, of a model without weights."""
    experiment = make(tmp_path, "cut", {"before": 20.5, "after": 31.25, "repaired": 25.0}, pruning_ratio=0.15)
    table = random_table(small_shape())
    plan = allocate_global(table, 0.15, Protection.resolve(4), settings=plan_settings(experiment.settings))
    experiment.write_table(table)
    experiment.write_plan(plan, table)
    experiment.update_metrics(size_bytes={"before": 4000, "after": 3000})
    write_csv(experiment.path(RESULT_FILE), matrices.matrix_table(plan, 2))
    write_json(experiment.path(SAMPLES_FILE), {"format_version": 1, "prompt": "x =", "before": "1 < 2", "after": "1 & 1"})
    return experiment


def figures_of(page: str) -> list[dict]:
    return json.loads(re.search(r'<script id="figures" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_shows_what_the_files_hold(experiment, tmp_path):
    write_report(experiment, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text, plan = Reader(page).text, experiment.read_plan()
    for shown in ("20.5000", "31.2500", "25.0000", "15.00%", f"{plan.actual_ratio:.2%}", f"{plan.shape_after.parameters:,}"):
        assert shown in text
    for shown in ("x =", "1 < 2", "1 & 1", BASIS["corpus_sha256"], "8 windows of 128 tokens", "pruning_ratio 0.15"):
        assert shown in text
    checks = matrices.checks(plan, matrices.matrix_table(plan, 2))
    for check in checks:
        assert check.sentence() in text
    assert page.count('<li class="pass">') == len(checks) and '<li class="fail">' not in page
    kept = [f"{layer.num_key_value_heads}" for layer in plan.resized_layers]
    assert all(count in text for count in kept)


def test_every_chart_has_a_place_with_words_for_it(experiment):
    page = html_page(experiment)
    places = [attributes for tag, attributes in Reader(page).tags if attributes.get("role") == "img"]
    figures = figures_of(page)
    assert len(places) == len(figures) == 8
    assert all(place["aria-label"].strip() for place in places)
    [bars] = [figure for figure in figures if figure["layout"]["title"]["text"] == english("chart.perplexity.title")]
    assert [trace["y"] for trace in bars["data"]] == [[20.5], [31.25], [25.0]]


def test_the_page_names_nothing_outside_of_itself(experiment):
    tags = Reader(html_page(experiment)).tags
    assert not [tag for tag, attributes in tags if {"src", "href", "srcset", "action"} & attributes.keys()]
    [policy] = [attributes["content"] for _, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_all_that_comes_from_the_experiment_is_escaped(experiment):
    plain = Reader(html_page(experiment))
    experiment.change_settings(**{"base_model": EVIL, "corpus": EVIL, EVIL: EVIL})
    experiment.update_metrics(basis=BASIS | {"dataset": EVIL}, perplexity={"after": {EVIL: 3.0}})
    write_json(experiment.path(SAMPLES_FILE), {"format_version": 1, "prompt": EVIL, "before": EVIL, "after": "{{plotly}}"})
    page = html_page(experiment)
    read = Reader(page)
    assert sum(tag == "script" for tag, _ in read.tags) == sum(tag == "script" for tag, _ in plain.tags)
    assert not [tag for tag, _ in read.tags if tag == "img"]
    assert EVIL in read.text and "{{plotly}}" in read.text
    assert len(figures_of(page)) == 8


def test_what_was_not_done_is_left_out(tmp_path):
    measured = make(tmp_path, "measured")
    measured.write_table(random_table(small_shape()))
    page = html_page(measured)
    assert len(figures_of(page)) == 1
    for key in ("report.perplexity", "report.result", "report.plan", "prune.samples"):
        assert english(key) not in Reader(page).words
    assert figures_of(html_page(make(tmp_path, "empty"))) == []


def test_a_plan_from_a_file_has_a_report_too(experiment):
    table = experiment.read_table()
    experiment.write_plan(allocate_global(table, 0.1, Protection.none(4)), table)
    assert english("plan.target.none") in Reader(html_page(experiment)).text


def test_an_experiment_that_cannot_be_read_is_refused_in_a_sentence(experiment, tmp_path):
    experiment.path("description.txt").write_text("{")
    with pytest.raises(PruningError, match=r"description.txt cannot be read"):
        write_report(experiment, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("description.txt", '{"format_version": 1, "fingerprint": "abc"}'),
        (SAMPLES_FILE, '{"format_version": 1, "before": "x"}'),
        (RESULT_FILE, "a,b\n1,2\n"),
        ("metrics.json", '{"format_version": 1, "perplexity": [1]}'),
    ],
)
def test_files_of_another_make_are_refused_in_a_sentence(experiment, file, content):
    experiment.path(file).write_text(content)
    with pytest.raises(PruningError, match=rf"{file} (cannot be read|lacks the column)"):
        html_page(experiment)


def test_numbers_that_are_not_finite_are_named(experiment):
    experiment.update_metrics(perplexity={"after": {BASIS["dataset"]: None}})
    assert english("prune.infinite") in Reader(html_page(experiment)).text
