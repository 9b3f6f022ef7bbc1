"""The route for downloads: a random link for one file and one hour; whole, or from where it broke off."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from ui.export import downloads

CONTENT = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture
def client():
    return TestClient(Starlette(routes=[downloads.route()], middleware=[Middleware(GZipMiddleware)]))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(CONTENT)
    return path


def test_the_file_comes_whole_uncompressed_and_under_its_name(client, file):
    answer = client.get(f"/{downloads.address(file, 'first.zip')}")
    assert answer.status_code == 200 and answer.content == CONTENT
    assert answer.headers["content-encoding"] == "identity" and answer.headers["accept-ranges"] == "bytes"
    assert int(answer.headers["content-length"]) == len(CONTENT)
    assert answer.headers["content-disposition"] == 'attachment; filename="first.zip"'


def test_a_range_goes_on_where_the_download_broke_off(client, file):
    address = f"/{downloads.address(file, 'first.zip')}"
    first = client.get(address, headers={"Range": "bytes=0-4999999"})
    rest = client.get(address, headers={"Range": "bytes=5000000-", "If-Range": first.headers["etag"]})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert rest.headers["content-range"] == f"bytes 5000000-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert first.content + rest.content == CONTENT


def test_it_is_reached_below_a_base_path_and_asked_for_without_a_body(client, file):
    address = downloads.address(file, "first.zip")
    assert client.head(f"/some/where/{address}").headers["content-length"] == str(len(CONTENT))


def test_a_guessed_token_is_404_and_names_nothing(client, file):
    downloads.address(file, "first.zip")
    for guess in ("", "x", "0" * 43, "..%2F..%2Fetc"):
        answer = client.get(f"/download/{guess}/first.zip")
        assert answer.status_code == 404 and str(file.parent) not in answer.text


def test_an_hour_later_it_is_410(client, file, monkeypatch):
    address = downloads.address(file, "first.zip")
    later = downloads.time.time() + 3600
    monkeypatch.setattr(downloads.time, "time", lambda: later - 5)
    assert client.get(f"/{address}").status_code == 200
    monkeypatch.setattr(downloads.time, "time", lambda: later + 5)
    assert client.get(f"/{address}").status_code == 410


def test_another_file_under_the_same_name_needs_another_link(client, file):
    address = downloads.address(file, "first.zip")
    file.write_bytes(b"made anew")
    assert client.get(f"/{address}").status_code == 410
    again = downloads.address(file, "first.zip", known=address)
    assert again != address and client.get(f"/{again}").content == b"made anew"
    file.unlink()
    assert client.get(f"/{again}").status_code == 410


def test_a_link_is_kept_while_it_is_good_for_long_and_belongs_to_one_file(file, tmp_path, monkeypatch):
    address = downloads.address(file, "first.zip")
    assert downloads.address(file, "first.zip", known=address) == address
    other = tmp_path / "other.zip"
    other.write_bytes(CONTENT)
    assert downloads.address(other, "first.zip", known=address) != address
    later = downloads.time.time() + 2000
    monkeypatch.setattr(downloads.time, "time", lambda: later)
    assert downloads.address(file, "first.zip", known=address) != address
    assert downloads.address(file, "first.zip", known="download/forged/first.zip") != "download/forged/first.zip"
