"""Uploading to the hub, against a server on this machine that answers the calls an upload makes."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from pruning.errors import PruningError
from pruning.export import hub
from pruning.export.hugging_face import save_model
from tests.export.shapes import CUTS, pruned

TOKEN = "hf_a_secret_that_must_not_show"


class StandIn(BaseHTTPRequestHandler):
    """Create, preupload, LFS batch, PUT, commit and delete, as the hub's client calls them."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        server.calls.append(f"POST {self.path}")
        server.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "bad token"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            server.created.append(asked)
            status = 409 if server.is_there else 200
            return self._answer(status, {"url": f"http://{self.headers['Host']}/{asked.get('organization')}/{asked['name']}"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": self._mode(f["path"]), "shouldIgnore": False} for f in files]
            return self._answer(200, {"files": modes})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            upload = {"href": f"http://{self.headers['Host']}/lfs", "header": {}}
            objects = [o | {"actions": {"upload": upload}} for o in json.loads(body)["objects"]]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/main" in self.path and not server.refuses:
            server.commit = [json.loads(line) for line in body.splitlines()]
            return self._answer(200, {"commitUrl": f"{server.url}/o/n/commit/abc", "commitOid": "abc", "success": True})
        return self._answer(500, {"error": "no"})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._answer(200, {})

    def do_DELETE(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.calls.append(f"DELETE {self.path}")
        self._answer(200, {})

    def _mode(self, path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"

    def _answer(self, status: int, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    made = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    made.calls, made.created, made.tokens, made.large = [], [], set(), {}
    made.commit, made.is_there, made.refuses = None, False, False
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{made.server_port}"
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model(pruned("llama", CUTS["different sizes"], vocab_size=67)[1], None, folder)
    (folder / "README.md").write_text("the card for this machine")
    return folder


@pytest.mark.parametrize("around", [" {} ", "{}\r\n"])
def test_white_space_around_a_token_is_no_part_of_it(server, folder, around):
    hub.push(folder, "owner/small", around.format(TOKEN), "the card", endpoint=server.url)
    assert server.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", ["hf_secret\nhf_other", "hf_s\u00e9cret"])
def test_a_token_that_no_header_can_carry_is_refused_without_being_said(folder, token):
    with pytest.raises(PruningError, match="copy it again") as refused:
        hub.push(folder, "owner/small", token, "the card")
    assert "hf_" not in str(refused.value)


@pytest.mark.parametrize("name", ["owner/n\u00e4me", "owner/x-", "owner/x.", f"owner/{'x' * 120}"])
def test_names_that_the_hub_refuses_are_refused_before(name):
    with pytest.raises(PruningError, match="hub") as refused:
        hub.check_repository(name)
    assert refused.value.code == "hub_name"


def test_everything_goes_in_one_private_commit(server, folder, tmp_path):
    (tmp_path / "model-F16.gguf").write_bytes(b"GGUF" * 1000)
    url = hub.push(folder, "owner/small", TOKEN, "the card", (tmp_path / "model-F16.gguf",), endpoint=server.url)
    assert url == f"{server.url}/owner/small"
    assert server.created[0]["visibility"] == "private" and server.created[0]["name"] == "small"
    committed = {entry["value"]["path"]: entry["value"] for entry in server.commit[1:]}
    assert committed.keys() == {file.name for file in folder.iterdir()} | {"model-F16.gguf"}
    assert base64.b64decode(committed["README.md"]["content"]) == b"the card"
    assert base64.b64decode(committed["config.json"]["content"]) == (folder / "config.json").read_bytes()
    weights = (folder / "model.safetensors").read_bytes()
    assert server.large[committed["model.safetensors"]["oid"]] == weights
    assert server.tokens == {f"Bearer {TOKEN}"}


def test_public_is_said_and_an_existing_repository_is_added_to(server, folder):
    hub.push(folder, "owner/small", TOKEN, "the card", private=False, endpoint=server.url)
    assert server.created[0]["visibility"] == "public"
    server.is_there = True
    hub.push(folder, "owner/small", TOKEN, "the card", endpoint=server.url)


def test_a_wrong_token_is_one_sentence_without_the_token(server, folder, caplog):
    with pytest.raises(PruningError, match="does not let this token write to owner/small") as caught:
        hub.push(folder, "owner/small", "hf_wrong_secret", "the card", endpoint=server.url)
    assert "hf_wrong" not in str(caught.value) + caplog.text and server.commit is None
    assert [call for call in server.calls if "commit" in call] == []


def test_a_failed_upload_takes_a_new_repository_back_and_leaves_an_old_one(server, folder):
    server.refuses = True
    with pytest.raises(PruningError, match="did not take the upload"):
        hub.push(folder, "owner/small", TOKEN, "the card", endpoint=server.url)
    assert "DELETE /api/repos/delete" in server.calls
    server.calls.clear()
    server.is_there = True
    with pytest.raises(PruningError, match="did not take the upload"):
        hub.push(folder, "owner/small", TOKEN, "the card", endpoint=server.url)
    assert not [call for call in server.calls if call.startswith("DELETE")]


def test_a_hub_that_does_not_answer_is_one_sentence(folder, server):
    with pytest.raises(PruningError, match="The hub could not be reached"):
        hub.push(folder, "owner/small", TOKEN, "the card", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["small", "a/b/c", "owner/", "owner/na me", "../x", "owner/x..y", "https://x/y"])
def test_an_impossible_name_is_refused_before_anything_is_sent(folder, name):
    with pytest.raises(PruningError, match="cannot name a repository"):
        hub.push(folder, name, TOKEN, "the card", endpoint="http://127.0.0.1:9")


def test_without_a_token_nothing_is_sent(folder):
    with pytest.raises(PruningError, match="needs a Hugging Face token"):
        hub.push(folder, "owner/small", None, "the card", endpoint="http://127.0.0.1:9")
