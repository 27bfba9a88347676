"""A base from the Hugging Face Hub: the real client against a server on the loopback address that answers alike."""

import gzip
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import ssl
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest
from conftest import CODE, HOME, copy_project, environment, make_base, ran
from hub_server import COMMIT, TOKEN, Hub
from huggingface_hub.errors import GatedRepoError

from stages.lib.hub import errors

NAME = "someone/small-gpt2"
LATER = "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = "/model.safetensors?X-Signature"  # as the storage is asked for them
DESCRIPTION = f"/api/models/{NAME}"
# What a stage does with the Hub, without what it imports besides.
FETCH = """
import json, sys
from stages.lib.common import cli
from stages.lib.hub import snapshot
def main():
    found = snapshot.download(sys.argv[1], sys.argv[2] or None)
    print(json.dumps([str(found.folder), found.name, found.commit]))
cli.run(main)
"""
BIG = os.urandom(3 * 2**20)
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": BIG,
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
    "added_tokens.json": b"",
    "pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"raise SystemExit('remote code ran')",
    "onnx/model.safetensors": b"elsewhere",
    "model-of/a.safetensors": b"elsewhere, too",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "added_tokens.json"}


@pytest.fixture
def hub():
    with Hub() as server:
        server.add(NAME, FILES)
        yield server


@dataclass
class Fetched:
    """What a download ended with."""

    status: int
    said: list[str]
    error: str
    seconds: float
    folder: Path | None = None
    name: str | None = None
    commit: str | None = None

    def content(self, name):
        return (self.folder / name).read_bytes()


@pytest.fixture
def command(hub, tmp_path):
    """The arguments of subprocess for a download."""

    def make(name=NAME, revision=None, before="", **env):
        env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), **env}
        words = [sys.executable, "-c", before + FETCH, name, revision or ""]
        return {"args": words, "cwd": CODE, "env": environment(**env), "stdin": subprocess.DEVNULL}

    return make


@pytest.fixture
def fetch(command):
    """A function that downloads a model, in a process of its own."""

    def run(*args, **env):
        started = time.monotonic()
        result = subprocess.run(**command(*args, **env), capture_output=True, text=True, timeout=120, check=False)
        seconds = time.monotonic() - started
        *said, last = result.stdout.splitlines() or [""]
        if result.returncode:
            return Fetched(result.returncode, result.stdout.splitlines(), result.stderr, seconds)
        folder, name, commit = json.loads(last)
        return Fetched(0, said, result.stderr, seconds, Path(folder), name, commit)

    return run


@pytest.fixture
def ok(fetch):
    """A function for a download that must succeed."""

    def run(*args, **env):
        found = fetch(*args, **env)
        assert found.status == 0, found.error
        for name in WANTED:
            assert found.content(name) == FILES[name]
        return found

    return run


@pytest.fixture
def refused(fetch):
    """A function for a download that must fail in one line; return that."""

    def run(*args, **env):
        found = fetch(*args, **env)
        assert found.status == 1, found
        assert found.error.startswith("error: ")
        assert found.error.count("\n") == 1
        return found.error.removeprefix("error: ").rstrip("\n")

    return run


def blobs(tmp_path):
    return sorted(path for path in (tmp_path / "cache").rglob("blobs/*") if path.is_file())


# Which commit, which files


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT, COMMIT[:8], "refs/pr/3", "a/branch"])
def test_every_kind_of_revision_becomes_a_commit(hub, ok, revision):
    hub.repositories[NAME].refs |= {"refs/pr/3": COMMIT, "a/branch": COMMIT}
    hub.repositories[NAME].commits[LATER] = {"config.json": b"another"}
    found = ok(NAME, revision)
    assert (found.name, found.commit) == (NAME, COMMIT)


def test_only_what_is_needed_is_fetched(hub, ok):
    found = ok()
    asked = {path.partition(f"/resolve/{COMMIT}/")[2] for path in hub.paths("/resolve/")}
    assert asked == WANTED - {"added_tokens.json"}  # which is empty
    assert {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*")} == WANTED


def test_a_model_of_nothing_that_is_read_is_an_empty_folder(hub, fetch):
    hub.add("a/gguf", {"model.Q4_0.gguf": b"GGUF", "checkpoint-5/config.json": b"{}"})
    found = fetch("a/gguf", "main")
    assert (found.status, found.error) == (0, "")
    assert list(found.folder.iterdir()) == []


def test_a_branch_that_moves_meanwhile_is_followed_no_further(hub, ok):
    repository = hub.repositories[NAME]
    repository.commits[LATER] = {name: content + b" " for name, content in FILES.items()}
    hub.fail("/resolve/", status=None, then=lambda: repository.refs.update(main=LATER))
    assert ok().commit == COMMIT
    assert ok(NAME, COMMIT).commit == COMMIT


def test_a_renamed_repository_gives_its_new_name(hub, ok):
    hub.renamed["someone/old"] = NAME
    found = ok("someone/old")
    assert (found.name, found.commit) == (NAME, COMMIT)
    assert f"someone/old is called {NAME} now: set base.hub to that" in found.said


def test_other_tools_find_what_was_fetched(hub, ok, tmp_path):
    ok()
    code = (
        "from huggingface_hub import snapshot_download, hf_hub_download\n"
        f"print(hf_hub_download({NAME!r}, 'model.safetensors'))\n"
        f"print(snapshot_download({NAME!r}, allow_patterns=['*.json', 'model.safetensors']))\n"
        f"snapshot_download({NAME!r})\n"  # which lacks files, and says so
    )
    env = environment(HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert [Path(line).name for line in result.stdout.splitlines()] == ["model.safetensors", COMMIT]
    assert "IncompleteSnapshotError" in result.stderr


def test_what_other_tools_fetched_is_found(hub, ok, tmp_path):
    env = environment(HF_HOME=str(tmp_path / "cache"), HF_ENDPOINT=hub.address)
    code = f"import huggingface_hub as h; h.snapshot_download({NAME!r}, revision={COMMIT!r})"
    subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    hub.asked.clear()
    ok(NAME, COMMIT)
    assert not hub.asked


def test_a_commit_that_lies_whole_in_the_cache_needs_no_network(hub, ok):
    ok(NAME, COMMIT)
    hub.asked.clear()
    ok(NAME, COMMIT)
    assert not hub.asked
    ok(NAME, COMMIT, HF_ENDPOINT="http://127.0.0.1:9")
    ok(NAME, COMMIT, HF_HUB_OFFLINE="1")


def test_one_that_lacks_a_file_is_completed(hub, ok):
    (ok(NAME, COMMIT).folder / "config.json").unlink()
    hub.asked.clear()
    ok(NAME, COMMIT)
    assert len(hub.asked) == 0  # its content is still among the blobs
    found = ok(NAME, COMMIT)
    (found.folder / "config.json").resolve().unlink()
    ok(NAME, COMMIT)
    assert hub.paths("/resolve/") == [f"/{NAME}/resolve/{COMMIT}/config.json"]


def test_offline_a_branch_is_what_it_was(hub, ok, refused):
    ok(NAME, "v1")
    hub.asked.clear()
    assert ok(NAME, "v1", HF_HUB_OFFLINE="1").commit == COMMIT
    assert "HF_HUB_OFFLINE forbids" in refused(NAME, "main", HF_HUB_OFFLINE="1")
    assert not hub.asked


# What is refused, and how it is said


def private(hub):
    hub.repositories[NAME].private = True


def gated(hub):
    hub.repositories[NAME].gated = True


def disabled(hub):
    hub.repositories[NAME].disabled = True


def answers(status, **more):
    return lambda hub: hub.fail("/api/", status=status, **more)


HTML = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("change", "asked", "env", "expected"),
    [
        (None, ["someone/else"], {}, "the Hub has no model someone/else, or it is private: mend base.hub"),
        (None, ["someone/else"], {"HF_TOKEN": TOKEN}, "no model someone/else, or your token may not see it"),
        (None, ["a--b/c"], {}, "a--b/c is no name a model of the Hub can have"),
        (None, [NAME, "v9"], {}, f"{NAME} has no revision v9 on the Hub: mend base.revision"),
        (None, [NAME, "a" * 40], {}, f"{NAME} has no revision {'a' * 40} on the Hub"),
        (
            private,
            [],
            {},
            f"the Hub has no model {NAME}, or it is private: mend base.hub in params.yaml, or run hf auth",
        ),
        (gated, [], {}, "asks for consent: give it on http://127.0.0.1"),
        (gated, [], {"HF_TOKEN": TOKEN}, "the account of your token has not got it: ask for it on http://127.0.0.1"),
        (None, [], {"HF_TOKEN": "hf_wrong"}, "the Hub does not accept your token: set HF_TOKEN"),
        (None, [], {"HF_TOKEN": "hf_wr\x0bng"}, "the token holds a character that no token has: mend HF_TOKEN"),
        (None, [], {"HF_TOKEN": "секрет"}, "the token holds a character that no token has: mend HF_TOKEN"),
        (disabled, [], {}, f"the Hub has disabled {NAME}"),
        (answers(403), [], {}, f"the Hub refuses {NAME} (403)"),
        (answers(418), [], {}, f"answered 418 when asked for {NAME}"),
        (answers(200, body=b"<html>Log in</html>", headers=HTML), [], {}, "does not answer as the Hub does"),
        (answers(200, body=b'["a", "list"]'), [], {}, "does not answer as the Hub does"),
        (answers(200, body=b'{"id": "a/b", "sha": null}'), [], {}, "without name or commit"),
        (answers(302, headers={"Location": "/api/"}), [], {}, "does not answer as the Hub does"),
        (None, [], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids to ask the Hub: unset it"),
        (None, [], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9 refuses the connection"),
        (None, [], {"HF_ENDPOINT": "localhost:1"}, "HF_ENDPOINT is 'localhost:1', no address of a server"),
        (None, [], {"HF_ENDPOINT": "http://me:secret@127.0.0.1:9"}, "127.0.0.1:9 refuses the connection"),
        (None, [], {"HTTP_PROXY": "nonsense://x"}, "the address of a proxy cannot be used"),
        (None, [], {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": "http://127.0.0.1:9"}, ", and to HTTP_PROXY"),
    ],
)
def test_what_does_not_work_is_one_line(hub, refused, tmp_path, change, asked, env, expected):
    if change:
        change(hub)
    line = refused(*asked, **env)
    assert expected in line
    assert "secret" not in line
    assert env.get("HF_TOKEN", "hf_") not in line
    assert not blobs(tmp_path)


def test_a_description_without_hashes_is_not_the_hubs(hub, refused):
    said = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}
    hub.fail("/api/", status=200, body=json.dumps(said).encode())
    assert "files without size and hash" in refused()


def test_hashes_that_would_lead_elsewhere_are_refused(hub, refused, tmp_path):
    sibling = {"rfilename": "config.json", "size": 1, "blobId": "../../../../escaped"}
    hub.fail("/api/", status=200, body=json.dumps({"id": NAME, "sha": COMMIT, "siblings": [sibling]}).encode())
    assert "files without size and hash" in refused()


def test_who_may_see_it_gets_it(hub, ok):
    repository = hub.repositories[NAME]
    repository.private = repository.gated = repository.agreed = True
    ok(HF_TOKEN=TOKEN)
    shown = {one.headers.get("authorization") for one in hub.asked if one.host == "hub" and NAME in one.path}
    assert shown == {f"Bearer {TOKEN}"}
    # The storage, which is another server, has the signed address only.
    assert not [one for one in hub.asked if one.host == "storage" and "authorization" in one.headers]


def test_the_token_of_a_login_is_taken(hub, ok, tmp_path):
    hub.repositories[NAME].private = True
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/token").write_text(f"{TOKEN}\n")
    ok()


# Patience


@pytest.mark.parametrize(
    ("path", "status", "headers", "seconds"),
    [
        (DESCRIPTION, 429, {"Retry-After": "2"}, 2),
        ("/resolve/", 503, {}, 1),
        (WEIGHTS, 429, {"RateLimit": '"api";r=0;t=2', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 3),
    ],
)
def test_a_busy_hub_is_asked_again_when_it_wants(hub, ok, path, status, headers, seconds):
    hub.fail(path, times=1, status=status, headers=headers)
    found = ok()
    assert [line for line in found.said if f"the answer is {status}; trying again in {seconds} s" in line]
    first, second, *_ = [one.at for one in hub.asked if path in one.path]
    assert second - first >= seconds


def test_the_hour_at_which_to_ask_again_may_be_given(hub, ok):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)
    hub.fail(DESCRIPTION, times=1, status=503, headers={"Retry-After": when})
    (line,) = [line for line in ok().said if "trying again" in line]
    assert 1 <= int(re.search(r"in (\d+) s", line)[1]) <= 4


def test_one_that_asks_for_an_hour_is_not_waited_for(hub, refused):
    hub.fail(DESCRIPTION, status=429, headers={"Retry-After": "3600"})
    assert "asks to wait 60 minutes: run the same command again then" in refused()


def caused_by(error, cause):
    error.__cause__ = cause
    return error


ASKED = httpx2.Request("GET", "https://hub.example:8443/a")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx2.ProxyError("no", request=ASKED), "the proxy does not let us through to hub.example:8443. Look to your"),
        (
            caused_by(httpx2.ConnectError("no", request=ASKED), ssl.SSLCertVerificationError()),
            "the certificate of hub.example:8443 is not to be trusted. If your network has one of its own",
        ),
        (httpx2.ConnectError("no", request=ASKED), "there is no connection to hub.example:8443. Look to your network"),
        (httpx2.ReadError("no", request=ASKED), "the connection to hub.example:8443 broke again and again. Run the"),
    ],
)
def test_what_is_wrong_with_a_connection_is_one_line(error, expected):
    assert errors.explain(error, NAME, None).startswith(f"{NAME} is not fetched: {expected}")


def test_a_password_in_the_address_of_the_hub_is_not_shown(monkeypatch):
    monkeypatch.setattr(errors.constants, "ENDPOINT", "https://me:secret@hub.example")
    refusal = httpx2.Response(401, request=ASKED)
    told = errors.explain(GatedRepoError("no", response=refusal), NAME, None)
    assert told.startswith(f"{NAME} asks for consent: give it on its page, then run hf auth login")


@pytest.mark.slow
@pytest.mark.parametrize(("status", "expected"), [(429, "429, too many requests"), (500, "the Hub answered 500")])
def test_a_hub_out_of_order_is_one_line(hub, refused, status, expected):
    hub.fail(DESCRIPTION, status=status)
    assert expected in refused()
    assert len(hub.asked) == 5


@pytest.mark.slow
def test_silence_is_told_within_thirty_seconds(hub, command):
    hub.fail(WEIGHTS, hang=True)
    started = time.monotonic()
    process = subprocess.Popen(**command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    assert "no answer for 10 s; trying again" in first
    assert time.monotonic() - started < 30
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 1
    assert "no answer for 10 s, again and again. Try again later" in error


@pytest.mark.parametrize(
    ("look_up", "expected"),
    [
        ("raise socket.gaierror(-3, 'Temporary failure in name resolution')", "no-hub.invalid was not found (DNS)"),
        # For minutes: neither a time-out of the client nor Ctrl-C would end that.
        ("time.sleep(60)", "no-hub.invalid could not be reached: no answer for 1 s, again and again"),
    ],
)
def test_a_name_that_is_not_found_or_looked_up_forever_is_told(fetch, look_up, expected):
    found = fetch(
        HF_ENDPOINT="http://no-hub.invalid",
        HF_HUB_DOWNLOAD_TIMEOUT="1",
        before=f"import socket, time\ndef look_up(*_, **__):\n    {look_up}\nsocket.getaddrinfo = look_up\n",
    )
    assert (found.status, found.error.count("\n")) == (1, 1)
    assert expected in found.error


@pytest.mark.parametrize("reset", [False, True])
def test_a_file_is_taken_up_where_the_connection_broke(hub, ok, reset):
    hub.fail(WEIGHTS, times=1, cut_at=2**20, reset=reset)
    hub.fail(WEIGHTS, times=1, cut_at=2**21, reset=reset)
    found = ok()
    assert len([line for line in found.said if "model.safetensors: the connection broke; trying again" in line]) == 2
    ranges = [one.headers.get("range") for one in hub.asked if one.host == "storage"]
    assert ranges == [None, f"bytes={2**20}-", f"bytes={2**21}-"]


def test_a_storage_without_parts_of_files_gives_it_anew(hub, ok):
    hub.fail(WEIGHTS, times=1, cut_at=2**20)
    hub.fail(WEIGHTS, times=1, status=200, body=BIG)
    ok()


@pytest.mark.parametrize("body", [BIG + b"!", BIG[:-1]])
def test_another_length_than_there_should_be_is_found(hub, ok, body):
    """Where the answer does not say its length, it ends when the connection does."""
    hub.fail(WEIGHTS, times=1, status=200, headers={"Content-Length": None, "Connection": "close"}, body=body)
    ok()


def test_a_mirror_that_compresses_unasked_is_understood(hub, ok):
    packed = gzip.compress(FILES["config.json"])
    hub.fail(f"/resolve/{COMMIT}/config.json", status=200, headers={"Content-Encoding": "gzip"}, body=packed)
    ok()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_page_in_the_place_of_a_file_is_not_the_hubs(hub, refused, name):
    hub.fail(f"/resolve/{COMMIT}/{name}", status=200, headers=HTML, body=b"<html>Log in to this network, please</html>")
    assert "does not answer as the Hub does (a file has not the size" in refused()


@pytest.mark.slow
def test_a_network_that_breaks_again_and_again_is_one_line(hub, refused):
    hub.fail(WEIGHTS, cut_at=2**20)
    line = refused()
    assert "broke again and again. Run the same command again: it goes on where it stopped" in line


# Damage


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_bit_is_found_and_the_file_fetched_anew(hub, ok, name):
    hub.fail(
        WEIGHTS if name == "model.safetensors" else f"resolve-cache/models/{NAME}/{COMMIT}/{name}", times=1, flip=7
    )
    assert f"{name}: what came does not have the hash that the Hub gives; fetching it anew" in ok().said


def test_one_that_comes_damaged_twice_stays_nowhere(hub, refused, tmp_path):
    hub.fail(WEIGHTS, flip=2**20)
    assert "model.safetensors of someone/small-gpt2 came twice without the hash" in refused()
    assert not [path for path in blobs(tmp_path) if path.stat().st_size >= 2**20]


def test_a_damaged_part_is_not_built_upon(hub, ok):
    hub.fail(WEIGHTS, times=1, cut_at=2**20, flip=7)
    ok()
    assert [one.headers.get("range") for one in hub.asked if one.host == "storage"] == [None, f"bytes={2**20}-", None]


@pytest.mark.parametrize("linked", [True, False])
def test_damage_in_the_cache_is_mended(hub, ok, refused, linked):
    folder = ok(NAME, COMMIT).folder
    for name in ("model.safetensors", "config.json"):
        content = bytearray(FILES[name])
        content[7] ^= 1
        place = folder / name
        if not linked:  # a cache on a file system without links
            place.resolve().unlink()
            place.unlink()
        place.write_bytes(content)
    assert "HF_HUB_OFFLINE" in refused(NAME, COMMIT, HF_HUB_OFFLINE="1")
    hub.asked.clear()
    ok(NAME, COMMIT)
    assert len(hub.paths("/resolve/")) == 2


# Interruption, and what is seen


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "what"), [(WEIGHTS, {"pace": 0.3}), (WEIGHTS, {"hang": True}), (DESCRIPTION, {"status": 503})]
)
def test_ctrl_c_ends_it_at_once(hub, command, tmp_path, path, what):
    hub.fail(path, **what)
    process = subprocess.Popen(**command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: hub.paths(path))
    time.sleep(0.7)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - started < 5  # under a second by itself; the time-out comes after ten
    assert process.returncode == 130
    assert error == "error: interrupted: the same command starts it again\n"


def test_after_ctrl_c_it_goes_on_where_it_stopped(hub, command, ok, tmp_path):
    fault = hub.fail(WEIGHTS, pace=0.3)
    process = subprocess.Popen(**command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    weights = f"{hashlib.sha256(BIG).hexdigest()}.incomplete"  # a small file before it is incomplete for a moment too
    wait_for(lambda: any(path.stat().st_size for path in blobs(tmp_path) if path.name == weights))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    fault.times = 0
    ok()
    (again,) = [one.headers["range"] for one in hub.asked if one.host == "storage" and "range" in one.headers]
    assert int(again.removeprefix("bytes=").rstrip("-")) > 0


def test_two_commands_fetch_a_file_once(hub, command, ok):
    hub.fail(WEIGHTS, times=1, pace=0.05)
    first = subprocess.Popen(**command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: hub.paths(WEIGHTS))
    found = ok()
    first.communicate(timeout=30)
    assert first.returncode == 0
    assert "model.safetensors: another command is fetching it; waiting for that" in found.said
    assert len(hub.paths(WEIGHTS)) == 1


def test_a_terminal_shows_rate_and_time_left(hub, command):
    hub.fail(WEIGHTS, pace=0.02)
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = subprocess.Popen(**command(), stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    while select.select([main], [], [], 30)[0]:
        try:
            seen += os.read(main, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    assert re.search(rb"\rfetch: +\d+%.*\d\.\d\dM/3\.15MB \[\d\d:\d\d<\d\d:\d\d, +\d.*B per second\]", seen)


def test_elsewhere_there_are_lines(hub, ok):
    hub.fail(WEIGHTS, pace=0.05)
    found = ok(before="from stages.lib.common import cli\ncli.SECONDS_A_LINE = 0.5\n")
    lines = found.error.splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"fetch: [\d.]+k?M?/3\.\d+MB, [\d.]+k?M?B per second, \d\d:\d\d left", line)


# The stage


@pytest.fixture(scope="module")
def base_of_hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    make_base(folder, dtype="float16")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp("project"), OMP_NUM_THREADS="1")
    project.set(base__hub=NAME, tokenize__max_length="64")
    project.commit()
    return project


@pytest.fixture
def project(made, hub, base_of_hub, tmp_path):
    """A project whose base is of the hub, and whose commands have nothing in their cache."""
    hub.add(NAME, base_of_hub)
    shutil.rmtree(made.path("model/base"), ignore_errors=True)
    made.env |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache")}
    return made


def test_the_stage_stores_where_the_model_came_from(project, hub, base_of_hub):
    hub.renamed["someone/old"] = NAME
    project.set(base__hub="someone/old")
    result = project.run("python", "-m", "stages.base", HF_TOKEN=TOKEN)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"base: {NAME} at commit {COMMIT}" in result.stdout
    provenance = project.json("model/base/provenance.json")
    assert (provenance["name"], provenance["source"], provenance["commit"]) == (NAME, "hub", COMMIT)
    assert provenance["licence"] == "mit"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert provenance["files"][name] == hashlib.sha256((base_of_hub / name).read_bytes()).hexdigest()
    kept = [path for path in project.folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert kept == [project.path("tests/hub_server.py")]  # where it was made up
    project.set(base__hub=NAME)


def test_pytorch_is_not_there_yet_while_the_hub_is_asked():
    """It takes a second to unload: Ctrl-C would be as late."""
    code = "import sys, stages.base; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CODE, check=False).returncode == 0


@pytest.mark.slow
def test_dvc_wants_the_folder_to_be_there_and_no_more(project, hub):
    """It cannot be told that a dependency may be missing; but what is in the folder does not matter to it."""
    folder = project.path("model/embedded")
    for file in folder.iterdir():
        if file.name != "README.md":
            file.unlink()
    project.commit("without the weights that are not used")
    project.ok("dvc", "repro", "base")
    hub.asked.clear()

    # What was made from the same folder and settings comes from DVC's cache, without the Hub.
    shutil.rmtree(project.path("model/base"))
    project.path("dvc.lock").unlink()
    assert ran(project.ok("dvc", "repro", "base")) == []
    assert not hub.asked

    (folder / "README.md").write_text("changed")
    assert ran(project.ok("dvc", "repro", "base")) == ["base"]

    project.commit()
    assert ran(project.ok("dvc", "exp", "run", "base", "-S", "base.revision=v1")) == ["base"]
    assert project.json("model/base/provenance.json")["commit"] == COMMIT
    project.set(base__revision="null")

    shutil.rmtree(folder)
    words = "No such file or directory"
    result = project.run("dvc", "repro", "base")
    assert result.returncode != 0
    assert f"failed to reproduce 'base': [Errno 2] {words}: '{folder}'" in result.stderr + result.stdout
    assert f"`{words}: '…/model/embedded'`" in (HOME / "docs/models.md").read_text(encoding="utf-8")
