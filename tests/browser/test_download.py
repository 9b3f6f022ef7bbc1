"""A file of 1.5 GB comes through the browser whole, while the server stays small; broken off, it goes on."""

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from pruning.experiment import Experiment
from pruning.export.hugging_face import save_model
from pruning.planning.checkpoint_header import CheckpointHeader
from pruning.planning.group_table import GroupTable
from pruning.planning.plan import PruningPlan
from pruning.settings import Settings
from tests.browser.studio import Studio
from tests.tiny_models import tiny_model

SIZE = 1_500_000_000
GROWTH = 100 * 2**20
MARKS = range(0, SIZE - 8, SIZE // 7)


@pytest.fixture
def experiment(server, tmp_path) -> Experiment:
    """A cut experiment whose zip is a file of 1.5 GB that takes no room, but for marks along the way."""
    import numpy as np

    save_model(tiny_model("llama"), None, tmp_path / "source")
    header = CheckpointHeader.read(tmp_path / "source")
    made = Experiment.create(server.output_root, "large")
    made.write_settings(Settings(base_model=str(tmp_path / "source"), strategy="global"))
    made.write_model(header, {})
    plan = PruningPlan.keep_all(header.shape, fingerprint=header.fingerprint)
    source = {"fingerprint": header.fingerprint, "importance_method": "taylor"}
    made.write_table(GroupTable(header.shape, np.ones(len(plan.kept)), source))
    made.write_plan(plan)
    save_model(tiny_model("llama"), None, made.model_folder)
    made.path("model", "README.md").write_text("---\n---\nA card.")
    made.path("pruning_analysis.csv").write_text("module\n")
    made.update_metrics(export_check={"hf": {"max_abs_diff": 0.0, "top1": 1.0}})
    with made.path("model.zip").open("wb") as file:
        file.truncate(SIZE)
        for place in MARKS:
            file.seek(place)
            file.write(place.to_bytes(8, "big"))
    return made


def test_a_file_of_any_size_is_downloaded_and_goes_on_where_it_broke_off(studio: Studio, server, experiment, tmp_path):
    studio.open("export", experiment=experiment.name)
    link = studio.link("export.download")
    expect(link).to_be_visible()
    before = server.process.memory_info().rss
    with Peak(server.process) as peak:
        with studio.page.expect_download() as started:
            link.click()
        whole = Path(started.value.path())
        assert whole.stat().st_size == SIZE
        assert_marks(whole)
        started.value.delete()

        url = f"{server.url}/{link.get_attribute('href')}"
        part = tmp_path / "part"
        etag = fetch(url, server.cookie, part, "bytes=0-", at_most=SIZE // 2)
        assert part.stat().st_size == SIZE // 2
        fetch(url, server.cookie, part, f"bytes={SIZE // 2}-", etag)
        assert part.stat().st_size == SIZE
        assert_marks(part)
        part.unlink()
    assert peak.rss - before < GROWTH, f"the server grew by {(peak.rss - before) / 2**20:.0f} MiB"
    assert answer(url) == 403
    assert answer(url.replace("download/", "download/x"), server.cookie) == 404
    experiment.path("model.zip").write_bytes(b"made anew")
    assert answer(url, server.cookie) == 410


class Peak:
    """The largest resident memory of a process within a `with` block."""

    def __init__(self, process: psutil.Process):
        self.process, self.rss, self._over = process, 0, threading.Event()

    def __enter__(self) -> "Peak":
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.rss = max(self.rss, self.process.memory_info().rss)


def assert_marks(path: Path) -> None:
    with path.open("rb") as file:
        for place in MARKS:
            file.seek(place)
            assert int.from_bytes(file.read(8), "big") == place


def fetch(url: str, cookie: str, path: Path, span: str, etag: str | None = None, at_most: int | None = None) -> str:
    """Appends what a range request gives to a file, breaking off after `at_most` bytes; returns the file's etag."""
    headers = {"Range": span, "Cookie": cookie} | ({"If-Range": etag} if etag else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer, path.open("ab") as file:
        assert answer.status == 206 and answer.headers["Content-Encoding"] == "identity"
        left = at_most or SIZE
        while left and (content := answer.read(min(left, 2**20))):
            if content.count(0) == len(content):
                file.seek(len(content), os.SEEK_CUR)  # a hole, as in the source
                file.truncate()
            else:
                file.write(content)
            left -= len(content)
        return answer.headers["ETag"]


def answer(url: str, cookie: str = "") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Cookie": cookie})) as found:
            return found.status
    except urllib.error.HTTPError as error:
        return error.code
