"""A base from the Hugging Face Hub: the real client against a server on the loopback address that answers alike."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import copy_project, make_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/small-gpt2"


class Hub(ThreadingHTTPServer):
    """Serves one model at one commit, under the branch `main` and the tag `v1`."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked = []
        self.broken = False

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if self.server.broken:
            return self.reply(503, b"")
        if path == f"/api/models/{NAME}":
            return self.describe("main")
        if path.startswith(f"/api/models/{NAME}/revision/"):
            return self.describe(path.rpartition("/")[2])
        if path == f"/api/models/{NAME}/tree/{COMMIT}":
            return self.list_files()
        if path.startswith(f"/{NAME}/resolve/"):
            revision, name = path.removeprefix(f"/{NAME}/resolve/").split("/", 1)
            file = self.server.folder / name
            if revision == COMMIT and file.exists():
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                return self.reply(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def describe(self, revision):
        if revision not in ("main", "v1", COMMIT):
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        names = sorted(path.name for path in self.server.folder.iterdir())
        described = {
            "id": NAME,
            "modelId": NAME,
            "sha": COMMIT,
            "cardData": {"license": "apache-2.0"},
            "siblings": [{"rfilename": name} for name in names],
            "tags": [],
        }
        return self.reply(200, json.dumps(described).encode(), {"Content-Type": "application/json"})

    def list_files(self):
        found = [
            {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.name.encode()).hexdigest(),
            }
            for path in sorted(self.server.folder.iterdir())
        ]
        return self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def reply(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = copy_project(tmp_path_factory.mktemp("project"), OMP_NUM_THREADS="1")
    made.set(base__hub=NAME, tokenize__max_length="64")
    return made


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "served"
    make_base(folder, dtype="float16")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_custom.py").write_text("raise SystemExit('remote code ran')")
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fresh(project, hub, tmp_path):
    """Environment of a command that asks our hub and has nothing in its cache."""
    shutil.rmtree(project.path("model/base"), ignore_errors=True)
    return {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache")}


@pytest.mark.parametrize("revision", ["null", "v1", COMMIT])
def test_a_model_of_the_hub_is_stored_with_its_commit(project, hub, fresh, revision):
    project.set(base__revision=revision)
    assert f"at commit {COMMIT}" in project.ok("python", "-m", "stages.base", **fresh)
    provenance = project.json("model/base/provenance.json")
    assert (provenance["name"], provenance["source"], provenance["commit"]) == (NAME, "hub", COMMIT)
    assert provenance["licence"] == "apache-2.0"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert provenance["files"][name] == hashlib.sha256((hub.folder / name).read_bytes()).hexdigest()


def test_only_configuration_safetensors_and_tokenizer_are_fetched(project, hub, fresh):
    project.set(base__revision="null")
    project.ok("python", "-m", "stages.base", **fresh)
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling_custom.py"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"base__hub": "someone/else"}, "the Hub has no model someone/else"),
        ({"base__hub": "a/b.git"}, "is no name a model of the Hub can have"),
        ({"base__revision": "v9"}, f"{NAME} has no revision v9"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(project, fresh, change, expected):
    project.set(base__hub=NAME, base__revision="null")
    project.set(**change)
    error = project.fails("python", "-m", "stages.base", **fresh)
    assert expected in error
    assert error.count("\n") == 1
    assert not project.path("model/base").exists()


def test_a_hub_out_of_order_is_one_line(project, hub, fresh):
    project.set(base__hub=NAME, base__revision="null")
    hub.broken = True
    assert "the Hub answered 503" in project.fails("python", "-m", "stages.base", **fresh)


@pytest.mark.parametrize("offline", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_no_connection_is_one_line(project, fresh, offline):
    project.set(base__hub=NAME, base__revision="null")
    error = project.fails("python", "-m", "stages.base", **fresh | offline)
    assert "no connection to the Hub" in error
    assert error.count("\n") == 1


def test_a_model_with_pickles_only_is_refused(project, hub, fresh):
    project.set(base__hub=NAME, base__revision="null")
    (hub.folder / "model.safetensors").unlink()
    assert "pickles are never read" in project.fails("python", "-m", "stages.base", **fresh)
    assert not any("pytorch_model" in path for path in hub.asked if "/resolve/" in path)
