"""Of a model on the hub just the weights are fetched and counted that transformers loads, against a server on this machine."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.planning.examples import small_config

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
BIN_INDEX = INDEX.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
SHARDS = {"model-00001-of-00002.safetensors": "1", "model-00002-of-00002.safetensors": "22"}
BIN_SHARDS = {"pytorch_model-00001-of-00002.bin": "1", "pytorch_model-00002-of-00002.bin": "22"}
OTHERS = {"config.json": json.dumps(small_config()), "consolidated.safetensors": "no", "model-old.safetensors": "no"}
REPOSITORIES = {  # files, and those of them that hold the weights
    "own/both": ({"model.safetensors": "333", "model.safetensors.index.json": INDEX} | SHARDS, ["model.safetensors"]),
    "own/shards": ({"model.safetensors.index.json": INDEX, "pytorch_model.bin": "4444"} | SHARDS, [*SHARDS]),
    "own/bin": ({"pytorch_model.bin": "4444", "pytorch_model.bin.index.json": BIN_INDEX} | BIN_SHARDS, ["pytorch_model.bin"]),
    "own/more": ({"pytorch_model.bin.index.json": BIN_INDEX} | BIN_SHARDS, [*BIN_SHARDS]),
}
PROGRAM = """
    import json, sys
    from pruning.model.model_source import fetch, summarize
    found = {}
    for name in sys.argv[1:]:
        files = sorted(path.name for path in fetch(name).iterdir() if path.suffix in (".safetensors", ".bin"))
        found[name] = (files, summarize(name).weight_bytes)
    print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    """The list of a repository's files, and each file."""

    def do_GET(self):
        for name, (files, _) in REPOSITORIES.items():
            files = OTHERS | files
            if self.path.startswith(f"/api/models/{name}/tree/"):
                return self._answer(json.dumps([{"type": "file", "path": f, "size": len(files[f]), "oid": f} for f in files]))
            if self.path.startswith((f"/api/models/{name}/revision/", f"/api/models/{name}?")):
                siblings = [{"rfilename": file, "size": len(content)} for file, content in files.items()]
                return self._answer(json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}))
            if self.path.startswith(f"/{name}/resolve/{COMMIT}/"):
                return self._answer(files[self.path.rpartition("/")[2]])
        self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, content: str) -> None:
        self.send_response(200)
        headers = {"Content-Length": len(content), "ETag": f'"{abs(hash(content)):x}"', "X-Repo-Commit": COMMIT}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_only_the_weights_that_transformers_loads_are_fetched_and_counted(hub, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *REPOSITORIES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = {}
    for name, (files, weights) in REPOSITORIES.items():
        expected[name] = [weights, sum(len(files[file]) for file in weights)]
    assert json.loads(done.stdout) == expected
