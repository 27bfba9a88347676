"""A Hugging Face Hub on the loopback address: its answers in their form, and whatever can go wrong with them.

    with Hub() as hub:
        hub.add("someone/small-gpt2", folder)
        ... HF_ENDPOINT=hub.address

What it knows: descriptions of models by branch, tag, full and short commit and `refs/pr/N`, with and without hashes;
lists of files; files by `resolve`, the small ones from the Hub itself and those of Git LFS by a redirect to a storage
host (a second port) with a signed address; parts of files; renamed, private and gated repositories; tokens. What it
takes stands in hub_writing.py.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hub_writing import TOKEN_TO_READ, Writing

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_aValidTokenOfSomebody"
_IN_LFS = ("*.safetensors", "*.bin", "*.onnx", "*.h5")


@dataclass
class Repository:
    """A model: its files at each commit, and the names of commits."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    card: dict = field(default_factory=lambda: {"license": "apache-2.0"})
    private: bool = False
    gated: bool = False
    agreed: bool = False  # the account of TOKEN, to the conditions of a gated one
    disabled: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag, a reference or a commit of at least seven digits stands for."""
        if revision in self.refs:
            return self.refs[revision]
        return next((one for one in self.commits if len(revision) >= 7 and one.startswith(revision)), None)


@dataclass
class Fault:
    """What happens, `times` times, to requests whose path holds `path`.

    `hang`: no answer. `status`, `headers` (None: without that one), `body`: another. `cut_at`: the connection ends
    after that many bytes of the whole file, with a reset if `reset`. `flip`: the byte of which a bit is turned over.
    `pace`: seconds before each 64 KiB. `then`: called before the answer.
    """

    path: str
    times: float = float("inf")
    hang: bool = False
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    cut_at: int | None = None
    reset: bool = False
    flip: int | None = None
    pace: float = 0.0
    then: object = None


@dataclass(frozen=True)
class Asked:
    """A request that came: at "hub" or "storage"."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    at: float


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Both servers, and what they hold."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.stored: dict[str, bytes] = {}  # what was brought to the storage, by its SHA-256
        self._over = threading.Event()
        self._hub = _Server(self, _HubAnswer)
        self._storage = _Server(self, _StorageAnswer)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._storage.server_port}"

    def add(self, name: str, files: Path | dict[str, bytes], commit: str = COMMIT, **more) -> Repository:
        """Hold a model at one commit, under the branch `main` and the tag `v1`."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir()}
        made = Repository({commit: dict(files)}, {"main": commit, "v1": commit}, **more)
        self.repositories[name] = made
        return made

    def fail(self, path: str, **what) -> Fault:
        """Have something go wrong from now on."""
        self.faults.append(Fault(path, **what))
        return self.faults[-1]

    def paths(self, part: str = "") -> list[str]:
        """The paths that were asked for and hold `part`."""
        return [one.path for one in self.asked if part in one.path]

    def __enter__(self) -> Hub:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, answer: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), answer)
        self.hub = hub

    def handle_error(self, request, client_address):
        pass  # a client that went away


class _Answer(BaseHTTPRequestHandler, Writing):
    protocol_version = "HTTP/1.1"
    host = ""
    known = TOKEN
    git_hash = staticmethod(git_hash)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.do_GET()

    def do_PUT(self):
        self.do_GET()

    @property
    def hub(self):
        return self.server.hub

    @property
    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def in_lfs(self, name):
        return any(fnmatchcase(name, pattern) for pattern in _IN_LFS)

    def do_GET(self):
        hub = self.hub
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        hub.asked.append(
            Asked(
                self.host,
                self.command,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
                time.monotonic(),
            )
        )
        self.fault = next((one for one in hub.faults if one.times > 0 and one.path in unquote(self.path)), Fault(""))
        self.fault.times -= 1
        if self.fault.then:
            self.fault.then()
        if self.fault.hang:
            hub._over.wait()
            self.close_connection = True
        elif self.fault.status:
            self.reply(self.fault.status, self.fault.body, self.fault.headers)
        else:
            self.answer(address.path)

    def reply(self, status, body=b"", headers=None):
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        if self.host == "hub" and "Authorization" not in self.headers:
            headers["X-HF-Warning"] = "unauthenticated; You are sending unauthenticated requests to the HF Hub."
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, data, status=200, headers=None):
        body = json.dumps(data).encode()
        self.reply(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})

    def refuse(self, status, code, message):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        self.reply_json({"error": message}, status, headers)

    def send_content(self, content, headers):
        """The content, or the part of it that is asked for, with what is to go wrong."""
        start = 0
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), int(last or len(content) - 1)
            if start >= len(content):
                return self.reply(416, headers={"Content-Range": f"bytes */{len(content)}"})
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            content = content[: end + 1]
        else:
            self.send_response(200)
        more = {"Accept-Ranges": "bytes", "Content-Length": str(len(content) - start)}
        for name, value in {**more, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(content, start)
        return None

    def _send(self, content, start):
        fault = self.fault
        if fault.flip is not None:
            content = content[: fault.flip] + bytes([content[fault.flip] ^ 1]) + content[fault.flip + 1 :]
        end = len(content) if fault.cut_at is None else min(fault.cut_at, len(content))
        for at in range(start, end, 2**16):
            if fault.pace and self.server.hub._over.wait(fault.pace):
                break
            self.wfile.write(content[at : min(at + 2**16, end)])
        if end < len(content):
            self.wfile.flush()
            self.close_connection = True
            if fault.reset:
                time.sleep(0.2)  # what was sent would be lost with the reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


class _HubAnswer(_Answer):
    host = "hub"

    def answer(self, path):
        parts = path.strip("/").split("/")
        if self.command == "POST":
            return self.write(path)
        if path == "/api/agent-harnesses":  # once a day, for what a client calls itself
            return self.reply_json({"standardEnvVars": [], "harnesses": {}})
        if parts[:2] == ["api", "resolve-cache"]:
            _, _, _, owner, model, commit, *file = parts
            return self.send_file(self.server.hub.repositories[f"{owner}/{model}"], unquote(commit), "/".join(file))
        api = parts[:2] == ["api", "models"]
        owner, model, *rest = parts[2:] if api else parts
        name = f"{owner}/{model}"
        if new := self.server.hub.renamed.get(name):
            where = self.path.replace(f"/{name}", f"/{new}", 1)
            return self.reply(307, f"Temporary Redirect. Redirecting to {where}".encode(), {"Location": where})
        repository = self.server.hub.repositories.get(name)
        if self.refused(repository, files=not api):
            return None
        kind, revision = (rest[0], unquote(rest[1])) if rest else ("revision", "main")
        commit = repository.commit(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if kind == "revision":
            return self.reply_json(self.description(name, repository, commit))
        if kind == "tree":
            return self.reply_json([entry for _, entry in self.entries(repository.commits[commit])])
        return self.resolve(name, repository, commit, unquote("/".join(rest[2:])))

    def refused(self, repository, files):
        """Refuse who may not see it, as the Hub does: an unknown token is refused whatever is asked for."""
        token = self.token
        if token and token not in (TOKEN, TOKEN_TO_READ):
            self.refuse(401, None, "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not token):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repository.disabled:
            self.refuse(403, None, "Access to this resource is disabled.")
        elif files and repository.gated and not token:
            self.refuse(401, "GatedRepo", "Access to this model is restricted. You must be authenticated to access it.")
        elif files and repository.gated and not repository.agreed:
            self.refuse(403, "GatedRepo", "Access to this model is restricted and you are not in the authorized list.")
        else:
            return False
        return True

    def entries(self, files):
        for name, content in sorted(files.items()):
            entry = {"type": "file", "oid": git_hash(content), "size": len(content), "path": name}
            if lfs := _pointer(name, content):
                entry["oid"] = git_hash(lfs)
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": len(lfs)}
            yield name, entry

    def description(self, name, repository, commit):
        siblings = []
        for file, entry in self.entries(repository.commits[commit]):
            sibling = {"rfilename": file}
            if "blobs" in self.query:
                sibling |= {"blobId": entry["oid"], "size": entry["size"]}
                if lfs := entry.get("lfs"):
                    sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            siblings.append(sibling)
        return {
            "_id": "621ffdc036468d709f17434d",
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit,
            "lastModified": "2024-02-19T10:57:45.000Z",
            "createdAt": "2022-03-02T23:29:04.000Z",
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": repository.disabled,
            "downloads": 1,
            "likes": 0,
            "tags": ["gpt2"],
            "pipeline_tag": "text-generation",
            "library_name": "transformers",
            "cardData": repository.card,
            "siblings": siblings,
        }

    def resolve(self, name, repository, commit, file):
        content = repository.commits[commit].get(file)
        if content is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if _pointer(file, content):
            sha256 = hashlib.sha256(content).hexdigest()
            headers["Location"] = f"{self.server.hub.storage}/{sha256}/{file}?X-Signature={sha256[:16]}"
        else:
            sha256 = git_hash(content)
            headers["Location"] = f"/api/resolve-cache/models/{name}/{commit}/{file}"
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content)), "ETag": f'"{sha256}"'}
        # As the Hub's, 302 to the storage and 307 to itself.
        self.reply(302 if _pointer(file, content) else 307, b"Redirecting", headers)

    def send_file(self, repository, commit, file):
        content = repository.commits[commit][file]
        self.send_content(content, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit})


class _StorageAnswer(_Answer):
    host = "storage"

    def answer(self, path):
        if "Authorization" in self.headers or "X-Signature" not in self.query:
            self.reply(400, b"<Error><Code>InvalidArgument</Code></Error>")  # the signature alone opens it
            return
        if self.command == "PUT":
            self.put(path)
            return
        wanted = path.split("/")[1]
        contents = (
            content
            for repository in self.server.hub.repositories.values()
            for files in repository.commits.values()
            for content in files.values()
        )
        content = next(one for one in contents if hashlib.sha256(one).hexdigest() == wanted)
        self.send_content(content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})


def _pointer(name: str, content: bytes) -> bytes | None:
    """What stands in Git for a file of Git LFS."""
    if not any(fnmatchcase(name, pattern) for pattern in _IN_LFS):
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
