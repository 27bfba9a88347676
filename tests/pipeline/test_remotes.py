"""The remotes of docs/sharing.md, each with its own lines: what one clone pushes another pulls, and what can fail."""

import os
from contextlib import contextmanager

import pytest
import servers
from conftest import HOME, block_of_the_docs, hashes, ran, stored_as

pytestmark = pytest.mark.slow

URL = {
    "folder": "/mnt/share/my-model",
    "s3": "https://s3.example.com",
    "ssh": "ssh://me@server.example.com/srv/my-model",
    "webdav": "webdavs://cloud.example.com/remote.php/dav/files/me/my-model",
    "web": "https://www.example.com/my-model",
}
PLUGIN = {"s3": "dvc-s3", "ssh": "dvc-ssh", "webdav": "dvc-webdav"}
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def lines_of_the_docs(kind, url):
    """What docs/sharing.md says to type for a remote of this kind, with its address; the installation is checked."""
    lines = [line.replace(URL[kind], url) for line in block_of_the_docs(URL[kind])]
    if kind in PLUGIN:
        assert lines.pop(0) == f"python -m pip install {PLUGIN[kind]}"
    return lines


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    return servers.make_environment(tmp_path_factory.mktemp("plugins"), servers.PLUGINS, inherit=True)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return servers.make_environment(tmp_path_factory.mktemp("servers"), servers.SERVERS)


@pytest.fixture
def remote(programs, tmp_path):
    """A function that starts a server and yields its lines for it, and the wire to it."""

    @contextmanager
    def start(kind):
        root = tmp_path / "remote"
        (root / "my-model").mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            yield lines_of_the_docs(kind, str(root / "my-model")), None
            return
        with getattr(servers, kind)(programs, root) as port:
            wire = servers.Wire(port)
            here = f"127.0.0.1:{wire.port}"
            url = {
                "s3": f"http://{here}",
                "ssh": f"ssh://me@{here}/my-model",
                "webdav": f"webdav://{here}/my-model",
                "web": f"http://{here}/my-model",
            }[kind]
            yield lines_of_the_docs(kind, url), wire

    return start


@pytest.fixture
def first(project, plugins, tmp_path):
    """A project that has the outputs of a run, and the packages of every remote."""
    return with_plugins(project, plugins, tmp_path)


@pytest.fixture
def clone(plugins, tmp_path):
    """A function that clones a project and tells the clone what git does not: passwords."""

    def make(source, name, secrets=()):
        cloned = with_plugins(source.clone(tmp_path / name), plugins, tmp_path)
        cloned.type_in(*secrets)
        return cloned

    return make


def with_plugins(project, plugins, home):
    project.env |= {**KEYS, "HOME": str(home)}
    project.python = str(plugins / "python")
    return project


def set_up(project, lines):
    """A remote as the page has it, its configuration in git; return the lines that each clone types for itself."""
    project.type_in(*lines)
    project.commit("where the outputs are kept")
    config = project.ok("git", "show", "HEAD:.dvc/config")
    assert "store" in config
    assert servers.PASSWORD not in config
    return [line for line in lines if "--local" in line]


@pytest.mark.parametrize("kind", ["folder", "s3", "ssh", "webdav"])
def test_what_one_pushes_another_has_without_running_a_stage(kind, first, remote, clone):
    with remote(kind) as (lines, _):
        secrets = set_up(first, lines)
        assert "pushed" in first.ok("dvc", "push")
        assert "Everything is up to date." in first.ok("dvc", "push")
        assert "7 runs of stages" in first.ok("python", "-m", "tools.remote", "push-runs")
        assert " 0 damaged, 0 lists" in first.ok("python", "-m", "tools.remote", "mend")

        pulling = clone(first, "pulling", secrets)
        pulling.ok("dvc", "pull")
        assert hashes(pulling) == hashes(first)
        assert ran(pulling.ok("dvc", "repro")) == []
        assert pulling.ok("git", "status", "--short") == ""

        running = clone(first, "running", secrets)
        assert ran(running.ok("dvc", "repro", "--pull")) == []
        assert hashes(running) == hashes(first)

        # Without a lock nothing is known of the outputs but what the run-cache says.
        without = clone(first, "without", secrets)
        without.path("dvc.lock").unlink()
        without.ok("dvc", "pull", "--run-cache", "--allow-missing")
        output = without.ok("dvc", "repro", "--pull")
        assert ran(output) == []
        assert "Stage 'train' is cached - skipping run, checking out outputs" in output
        assert hashes(without) == hashes(first)


def test_a_setting_that_one_has_tried_another_need_not_run(first, remote, clone):
    with remote("folder") as (lines, _):
        set_up(first, lines)
        first.set(train__epochs="1")
        first.ok("dvc", "repro")
        tried = hashes(first)
        first.ok("git", "checkout", "-q", ".")
        first.ok("dvc", "checkout")
        first.ok("dvc", "push")
        first.ok("python", "-m", "tools.remote", "push-runs")

        other = clone(first, "other")
        other.set(train__epochs="1")
        other.ok("dvc", "pull", "--run-cache")
        assert ran(other.ok("dvc", "repro", "--pull")) == []
        assert hashes(other) == tried

        # What is no longer there is not promised.
        first.ok("dvc", "gc", "--workspace", "--force")
        assert "6 runs" not in first.ok("python", "-m", "tools.remote", "push-runs")


def test_a_web_server_is_read(first, remote, clone):
    with remote("folder") as (lines, _):
        first.type_in(*lines)
        first.ok("dvc", "push")
        first.ok("git", "checkout", "-q", ".dvc/config")
    with remote("web") as (lines, _):
        set_up(first, lines)
        pulling = clone(first, "pulling")
        pulling.ok("dvc", "pull")
        assert hashes(pulling) == hashes(first)
        running = clone(first, "running")
        assert ran(running.ok("dvc", "repro", "--pull")) == []
        assert hashes(running) == hashes(first)

        change(first)
        assert explained(first.fails("dvc", "push"), "1 files failed to upload")
        for what in ("push-runs", "mend"):
            told = first.fails("python", "-m", "tools.remote", what)
            assert told == "error: a remote by http can only be read: do this with the one by which it is written\n"


def change(project):
    """Something new to push, which takes a while."""
    project.path("data/more.bin").write_bytes(os.urandom(3_000_000))
    project.ok("dvc", "add", "data/more.bin")
    project.commit("more")


def explained(told, words):
    """Whether DVC says these words, and docs/troubleshooting.md what they mean."""
    return words in told and f"| `{words}`" in (HOME / "docs/troubleshooting.md").read_text(encoding="utf-8")


def test_s3_without_a_key_or_with_another_bucket(first, remote):
    with remote("s3") as (lines, _):
        set_up(first, lines)
        none = dict.fromkeys(KEYS, "")
        assert explained(first.fails("dvc", "push", **none), "Unable to locate credentials")
        assert "Unable to locate credentials" in first.fails("python", "-m", "tools.remote", "push-runs", **none)
        first.ok("dvc", "remote", "modify", "store", "url", "s3://other/my-model")
        assert explained(first.fails("dvc", "push"), "The specified bucket does not exist")
        told = first.fails("python", "-m", "tools.remote", "mend")
        assert told == "error: mend was not done to the end: The specified bucket does not exist\n"


@pytest.mark.parametrize(
    ("kind", "wrong", "none"),
    [
        # DVC asks at the terminal for what is missing or refused, and here nobody answers.
        ("ssh", "ERROR: unexpected error", "ERROR: unexpected error"),
        ("webdav", "401 (Not Authorized)", "expected a bytes-like object, NoneType found"),
    ],
)
def test_a_password_that_is_wrong_or_missing(kind, wrong, none, first, remote):
    with remote(kind) as (lines, _):
        set_up(first, [line.replace(servers.PASSWORD, "other") for line in lines])
        assert explained(first.fails("dvc", "push"), wrong)
        assert "mend was not done to the end" in first.fails("python", "-m", "tools.remote", "mend")
        first.ok("dvc", "remote", "modify", "store", "--local", "--unset", "password")
        assert explained(first.fails("dvc", "push"), none)


def test_a_folder_that_webdav_does_not_have(first, remote, tmp_path):
    with remote("webdav") as (lines, _):
        set_up(first, lines)
        (tmp_path / "remote/my-model").rmdir()
        assert explained(first.fails("dvc", "push"), "No such file or directory: ''")


@pytest.mark.parametrize("kind", ["s3", "ssh", "webdav"])
def test_a_server_that_goes_away_in_the_middle_of_a_push(kind, first, remote, clone):
    with remote(kind) as (lines, wire):
        secrets = set_up(first, lines)
        first.ok("dvc", "push")
        change(first)
        wire.break_after(1_500_000)
        assert explained(first.fails("dvc", "push"), "1 files failed to upload")
        assert wire.broken
        assert "onnect" in first.fails("dvc", "push")  # connection refused, could not connect: each in its own words
        wire.mend()

        if kind == "webdav":
            # DVC takes the half for the whole; those who pull are told, and get nothing rather than a half.
            assert explained(first.ok("dvc", "push"), "Everything is up to date")
            early = clone(first, "early", secrets)
            assert explained(early.fails("dvc", "pull"), "Is your cache up to date?")
            assert not early.path("data/more.bin").exists()
            assert " 1 damaged, " in first.ok("python", "-m", "tools.remote", "mend")
        assert "1 file pushed" in first.ok("dvc", "push")

        other = clone(first, "other", secrets)
        other.ok("dvc", "pull")
        assert other.path("data/more.bin").read_bytes() == first.path("data/more.bin").read_bytes()
        assert hashes(other) == hashes(first)
        # By SSH the half was kept as well, but under another name.
        left = "1 damaged" if kind == "ssh" else "0 damaged"
        assert left in first.ok("python", "-m", "tools.remote", "mend")
        assert " 0 damaged, 0 lists" in first.ok("python", "-m", "tools.remote", "mend")


def test_a_list_of_a_folder_that_lacks_a_file_goes_too(first, remote, tmp_path):
    with remote("folder") as (lines, _):
        set_up(first, lines)
        first.ok("dvc", "push")
        weights = first.path("model/finetuned/model.safetensors").read_bytes()
        (tmp_path / "remote/my-model" / stored_as(weights)).unlink()
        # While the list is there, DVC asks for none of the files that it names.
        assert "Everything is up to date." in first.ok("dvc", "push")
        assert " 0 damaged, 1 lists of folders" in first.ok("python", "-m", "tools.remote", "mend")
        assert "2 files pushed" in first.ok("dvc", "push")
        assert " 0 damaged, 0 lists of folders" in first.ok("python", "-m", "tools.remote", "mend")
