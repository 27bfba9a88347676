"""Several machines in the place of one: the same bytes, and a machine that is lost costs nothing but time."""

import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress

import psutil
import pytest
import torch
from conftest import CODE, ONE_THREAD, Project
from processes.test_launch import STEPS_OF_FOUR, TRAINED

from stages.lib.common.cli import UserError
from stages.lib.processes import launch, machines
from stages.lib.processes.group import Lost
from tools import join

FIRST, SECOND = "10.213.77.1", "10.213.77.2"
JOIN = ("python", "-m", "tools.join")
TRAIN = ("python", "-m", "stages.train")


# What is offered, and what is taken


@pytest.fixture
def first(tmp_path, monkeypatch):
    """A first machine that waits for another: the store where it does, and the files it offers, by name."""
    monkeypatch.setenv("MACHINES", "2")
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "as the user says")
    paths = {}
    for name in ("stages/train.py", "params.yaml", "model/base/model.safetensors"):
        path = paths[name] = tmp_path / "first" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(3 * 2**20))
    store, enough = launch._opened(None), threading.Event()

    def check():
        if enough.is_set():
            raise Lost("the test is over")

    def wait():
        with suppress(Lost):
            machines.gather(store, "stages.train", 2, paths, check)

    waiting = threading.Thread(target=wait)
    waiting.start()
    yield store, paths
    enough.set()
    waiting.join()


@pytest.fixture
def clone(first, tmp_path):
    """A project with the same code and nothing else, and where the other machine is to work."""
    code = tmp_path / "clone/stages/train.py"
    code.parent.mkdir(parents=True)
    shutil.copyfile(first[1]["stages/train.py"], code)
    (tmp_path / "work").mkdir()
    return tmp_path / "clone", tmp_path / "work"


def test_what_is_not_there_is_fetched_and_what_is_the_same_is_taken(first, clone):
    store, paths = first
    project, folder = clone
    shutil.copyfile(paths["params.yaml"], project / "params.yaml")
    (project / "model/base").mkdir(parents=True)
    (project / "model/base/model.safetensors").write_bytes(b"another model")
    place = machines.Place("127.0.0.1", store.port)
    assert (place.job.stage, place.job.machines, place.job.processes) == ("stages.train", 2, 2)
    place.bring(project, folder)
    assert (folder / "params.yaml").resolve() == project / "params.yaml"
    assert not (folder / "model/base/model.safetensors").is_symlink()
    for name, path in paths.items():
        assert (folder / name).read_bytes() == path.read_bytes()
    assert (project / "model/base/model.safetensors").read_bytes() == b"another model"
    assert place.take() == range(1, 2)
    with pytest.raises(UserError, match="all 2 machines are here already"):
        place.take()


def test_other_code_is_refused_before_anything_is_fetched(first, clone):
    project, folder = clone
    (project / "stages/train.py").write_text("as it was yesterday\n")
    with pytest.raises(
        UserError, match=r"stages/train\.py is another here than on the first machine: bring this clone"
    ):
        machines.Place("127.0.0.1", first[0].port).bring(project, folder)
    assert not any(path.is_file() for path in folder.iterdir())


def test_a_file_that_changes_on_the_way_is_refused(first, clone):
    place = machines.Place("127.0.0.1", first[0].port)
    first[1]["params.yaml"].write_text("other settings\n")
    with pytest.raises(UserError, match=r"params\.yaml did not come as it is on the first machine: try again"):
        place.bring(*clone)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_no_file_is_written_outside_the_folder(first, clone, name):
    place = machines.Place("127.0.0.1", first[0].port)
    place.job.files[name] = "0" * 64
    with pytest.raises(UserError, match="names a file outside the project"):
        place.bring(*clone)


def test_nothing_but_what_is_offered_is_served(first):
    place = machines.Place("127.0.0.1", first[0].port)
    address = f"http://127.0.0.1:{place.job.port}"
    assert urllib.request.urlopen(f"{address}/1").read() == first[1]["params.yaml"].read_bytes()
    for other in ("/3", "/-1", "/params.yaml", "/../../etc/passwd", "/%2e%2e/1", "/", "/²"):
        with pytest.raises((urllib.error.HTTPError, UnicodeEncodeError)):
            urllib.request.urlopen(address + other)


def test_without_other_machines_none_can_reach_the_processes():
    """Who can reach the store can take part."""
    store = launch._opened(None)
    listening = [one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == store.port] == ["127.0.0.1"]


@pytest.mark.parametrize("given", ["two", "0", "-1", "²", ""])
def test_a_count_that_is_none_is_one_line(monkeypatch, given):
    monkeypatch.setenv("MACHINES", given)
    with pytest.raises(UserError, match=r"MACHINES in the environment is .*, not a number from 1 to 10000"):
        machines.count()


def test_machines_share_the_processes_alike(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.made_for("auto", gpu, 2) == launch.at_hand(8, gpu, 2) == 8
    assert launch.made_for("auto", cpu, 3) == launch.at_hand(3, cpu, 3) == 3
    assert launch.at_hand(12, gpu, 2) == 6  # three a machine, of two batches each
    with pytest.raises(UserError, match=r"train\.processes: 3 cannot be shared alike by 2 machines"):
        launch.at_hand(3, gpu, 2)


@pytest.mark.parametrize("address", ["here", "host:", ":29400", "host:99999", "host:²", "no-such.invalid:29400"])
def test_an_address_that_is_none_is_one_line(monkeypatch, address):
    monkeypatch.setattr("sys.argv", ["join", address])
    monkeypatch.setattr(join, "HOME", CODE)
    with pytest.raises(UserError, match=r"is not of the form HOST:PORT|no-such\.invalid is no machine that is known"):
        join.main()
    assert not list(CODE.glob(".join*"))


def test_a_port_that_is_taken_is_one_line(monkeypatch):
    taken = launch._opened(None)
    with pytest.raises(UserError, match=f"port {taken.port} cannot be had .*MACHINES_PORT"):
        launch._opened(taken.port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_in_vain_and_is_told_to_go_leaves_nothing_behind(number):
    waiting = Project(CODE).start(*JOIN, "127.0.0.1:1")
    until(waiting, "waiting for 127.0.0.1:1 (Connection refused)")
    assert list(CODE.glob(".join*"))
    waiting.send_signal(number)
    assert ended(waiting) == (130, "error: interrupted: the same command starts it again")
    assert not list(CODE.glob(".join*"))


# Two hosts


@pytest.fixture
def hosts():
    """Two network namespaces with a cable between them; a function that plugs it in and out."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root makes hosts, with iproute2")
    names = [f"first{os.getpid()}", f"other{os.getpid()}"]

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, (FIRST, SECOND), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        yield names, lambda state: ip("-n", names[0], "link", "set", "cable", state)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


class Host(Project):
    """A project whose commands run on another host."""

    def __init__(self, folder, host, **env):
        super().__init__(folder, **env)
        self._host = host

    def _words(self, command):
        return ["ip", "netns", "exec", self._host, *super()._words(command)]


@pytest.fixture
def both(reproduced, hosts, tmp_path):
    """A project on the first host in which a training is due, a clone of it on the second, and the cable."""
    names, cable = hosts
    shutil.copytree(reproduced.folder, tmp_path / "first", symlinks=True)
    made = Host(tmp_path / "first", names[0], **ONE_THREAD, MACHINES="2", PROCESS_TIMEOUT="6")
    made.set(**STEPS_OF_FOUR, train__save_steps="5", train__gradient_accumulation_steps="2")
    shutil.rmtree(made.path("model/checkpoints"))
    made.clone(tmp_path / "second")
    return made, Host(tmp_path / "second", names[1], **ONE_THREAD, PROCESS_TIMEOUT="6"), cable


def until(process, words):
    """The lines that a process prints until one has these words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


def ended(process):
    """The exit status and the last line."""
    said = process.stdout.read()
    status = process.wait(timeout=60)
    assert "Traceback" not in said
    return status, said.splitlines()[-1]


@pytest.mark.slow
def test_a_machine_that_is_cut_off_costs_nothing_but_time(both, reproduced, tmp_path):
    first, second, cable = both
    joined = second.start(*JOIN, f"{FIRST}:29400")
    leading = first.start("dvc", "repro")
    waiting = until(leading, "step 12/")
    assert any("train: waiting for 1 more machine; there: python -m tools.join " in line for line in waiting)
    cable("down")
    cut = time.monotonic()
    lines = leading.stdout.read().splitlines()
    assert leading.wait() != 0
    assert time.monotonic() - cut < 30
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: another process is gone, or did not answer for 6 s (")
    status, line = ended(joined)
    assert (status, line.startswith("error: process 2 of 2: another process is gone")) == (1, True), line

    cable("up")
    joined = second.start(*JOIN, f"{FIRST}:29400")
    assert any("goes on from checkpoint-10" in line for line in first.ok("dvc", "repro").splitlines())
    assert ended(joined) == (0, "join: the training is over")
    assert not list(second.folder.glob(".join*"))

    alone = Project(tmp_path / "alone", **ONE_THREAD)
    shutil.copytree(reproduced.folder, alone.folder, symlinks=True)
    alone.set(**STEPS_OF_FOUR, train__save_steps="5", train__processes="1", train__gradient_accumulation_steps="4")
    alone.ok(*TRAIN)
    for name in TRAINED:
        assert alone.path(name).read_bytes() == first.path(name).read_bytes(), name
