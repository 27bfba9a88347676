"""Several processes in the place of one: the same bytes, and none is left when another is gone."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import CODE, ONE_THREAD, Project, copy_project, environment

from stages.lib.processes import followers, launch

# Steps of four batches, and random numbers in each of them.
STEPS_OF_FOUR = {"train__batch_size": "1", "train__dropout": "0.1", "train__logging_steps": "1"}
TRAINED = ("model/finetuned/model.safetensors", "logs/train_loss.tsv", "logs/validation.tsv", "logs/train.json")
EVALUATED = ("logs/evaluate.json", "logs/documents.tsv", "logs/samples.jsonl")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def due(reproduced, tmp_path_factory):
    """A project in which a training is due."""
    made = Project(tmp_path_factory.mktemp("due") / "project", **ONE_THREAD)
    shutil.copytree(reproduced.folder, made.folder, symlinks=True)
    made.set(**STEPS_OF_FOUR)
    shutil.rmtree(made.path("model/checkpoints"))
    return made


@pytest.fixture
def project(due, tmp_path):
    shutil.copytree(due.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", **ONE_THREAD)


def on(project, processes, batches=4):
    """Have so many processes share a step's batches."""
    project.set(train__processes=str(processes), train__gradient_accumulation_steps=str(batches // processes))
    return project


def made(project, stage, names):
    project.ok("python", "-m", f"stages.{stage}")
    return {name: project.path(name).read_bytes() for name in names}


def trained(project):
    return made(project, "train", TRAINED)


@pytest.fixture(scope="module")
def alone(due, tmp_path_factory):
    """What one process makes of it: the training, and the evaluation."""
    folder = tmp_path_factory.mktemp("alone") / "project"
    shutil.copytree(due.folder, folder, symlinks=True)
    one = on(Project(folder, **ONE_THREAD), 1)
    return trained(one), made(one, "evaluate", EVALUATED)


class Training:
    """`stages.train` on several processes, followed until a step is taken."""

    def __init__(self, project, step=7, **env):
        self.process = project.start("python", "-m", "stages.train", **env)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if f"step {step}/" in line:
                break
        self.followers = psutil.Process(self.process.pid).children()
        self.told = time.monotonic()

    def end(self):
        """The exit status, the last line, and how many seconds it took until all were gone."""
        self.lines += self.process.stdout
        status = self.process.wait()
        _, left = psutil.wait_procs(self.followers, timeout=10)
        assert not left
        assert not any("Traceback" in line for line in self.lines), "".join(self.lines)
        return status, self.lines[-1].strip(), time.monotonic() - self.told


def assert_a_kill_is_one_line(project):
    """When the second of two processes is killed."""
    training = Training(on(project, 2))
    training.followers[0].kill()
    status, line, seconds = training.end()
    assert status == 1
    assert line == (
        "error: process 2 of 2 was ended by SIGKILL: run the same command again, training goes on "
        "from the last checkpoint"
    )
    assert seconds < 10


def assert_no_answer_is_one_line(project):
    """When the second of two processes does not answer, and the time is out."""
    training = Training(on(project, 2), PROCESS_TIMEOUT="4")
    training.followers[0].suspend()
    status, line, seconds = training.end()
    assert status == 1
    assert line.startswith("error: another process is gone, or did not answer for 4 s (")
    assert 4 < seconds < 14


def test_two_processes_make_the_bytes_of_one(project, alone):
    on(project, 2)
    assert (trained(project), made(project, "evaluate", EVALUATED)) == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"train__lora_rank": "4", "train__precision": "bfloat16", "train__gradient_checkpointing": "true"},
        {"train__freeze_layers": "1", "train__label_smoothing": "0.1", "train__precision": "float32"}
        | {"train__eval_steps": "3", "train__patience": "2", "train__keep": "last"},
    ],
    ids=lambda settings: ",".join(f"{name.removeprefix('train__')}={value}" for name, value in settings.items()),
)
def test_with_every_setting_two_processes_make_the_bytes_of_one(project, tmp_path, settings):
    shutil.copytree(project.folder, tmp_path / "one", symlinks=True)
    one = Project(tmp_path / "one", **ONE_THREAD)
    for each in (project, one):
        each.set(**settings)
    assert trained(on(project, 2)) == trained(on(one, 1))


@pytest.mark.slow
def test_three_processes_agree_with_one(project, tmp_path):
    """The library's own order: the last digits differ."""
    project.set(train__precision="float32")
    shutil.copytree(project.folder, tmp_path / "one", symlinks=True)
    several, one = (
        trained(on(each, processes, 6))
        for each, processes in ((project, 3), (Project(tmp_path / "one", **ONE_THREAD), 1))
    )
    curves = [
        [[float(value) for value in line.split("\t")] for line in each["logs/train_loss.tsv"].decode().splitlines()[1:]]
        for each in (several, one)
    ]
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_launcher_may_start_the_processes(project, alone):
    on(project, 2)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stages.train"]
    said = project.ok("python", *command)
    assert said.count("train: kept step") == 1
    assert {name: project.path(name).read_bytes() for name in TRAINED} == alone[0]


@pytest.mark.slow
def test_a_run_killed_on_four_goes_on_with_two_and_with_one(project, alone):
    project.set(train__save_steps="5")
    for processes, step in ((4, 7), (2, 12)):
        training = Training(on(project, processes), step)
        training.process.kill()
        assert training.end()[0] == -signal.SIGKILL
    assert trained(on(project, 1)) == alone[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to", "says"),
    [
        (signal.SIGINT, "first", "(SIGINT)"),
        (signal.SIGTERM, "follower", "(as another process was told to)"),
    ],
)
def test_told_to_stop_all_do_after_the_same_step(project, alone, number, to, says):
    training = Training(on(project, 2))
    (training.process if to == "first" else training.followers[0]).send_signal(number)
    status, line, _ = training.end()
    assert status == (128 + number if to == "first" else 1)
    assert line.startswith("error: stopped at step ")
    assert line.endswith(f"{says}: the same command goes on from there")
    assert trained(on(project, 1)) == alone[0]


@pytest.mark.slow
def test_one_that_is_told_to_stop_stays_until_the_checkpoint_counts(project, alone):
    """However long that takes: the first one would call it lost, in the middle of writing."""
    training = Training(on(project, 2), step=3, HOLDPOINT="checkpoint weights written")
    first, (follower,) = psutil.Process(training.process.pid), training.followers
    follower.terminate()
    while first.status() != psutil.STATUS_STOPPED:
        assert training.process.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    assert follower.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    first.resume()
    status, line, _ = training.end()
    assert (status, line.startswith("error: stopped at step ")) == (1, True), line
    assert trained(on(project, 1)) == alone[0]


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_waited_for_until_the_time_is_out(project, alone):
    assert_no_answer_is_one_line(project)
    assert trained(on(project, 1)) == alone[0]


def test_auto_is_one_a_gpu_and_one_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.made_for("auto", CPU) == 1
    assert launch.made_for("auto", GPU) == 4
    assert launch.made_for(3, CPU) == launch.made_for(3, GPU) == 3
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launch.made_for("auto", GPU) == launch.at_hand(8, GPU) == 8


@pytest.mark.parametrize(("wanted", "gpus", "used"), [(4, 4, 4), (4, 3, 2), (4, 1, 1), (3, 2, 1), (6, 4, 3), (2, 8, 2)])
def test_fewer_gpus_do_the_work_of_more(monkeypatch, wanted, gpus, used):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert launch.at_hand(wanted, GPU) == used
    assert launch.at_hand(wanted, CPU) == wanted


@pytest.mark.parametrize(
    ("visible", "place", "seen"),
    [(None, "2", "2"), ("4,5,6", "1", "5"), ("7", "1", "7"), ("", "1", ""), (None, None, None)],
)
def test_a_process_that_a_launcher_started_sees_its_own_gpu(monkeypatch, visible, place, seen):
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("LOCAL_RANK", place)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    launch.take_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


def test_batches_that_cannot_be_shared_are_one_line(project):
    project.set(train__processes="3")
    with_launcher = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    error = project.fails("python", "-m", "stages.train", **with_launcher)
    assert error == (
        "error: the 3 batches of a step (train.processes x train.gradient_accumulation_steps) cannot be shared alike "
        "by the 2 processes that were started: change one of the three\n"
    )


def test_a_process_that_fails_shows_its_own_error(tmp_path):
    project = copy_project(tmp_path / "project")
    program = (
        "import os, torch\n"
        "from stages.lib.common import cli\n"
        "from stages.lib.processes import launch\n"
        "def main():\n"
        "    with launch.together('stages.trial', 2, torch.device('cpu')) as group:\n"
        "        if not group.first:\n"
        "            raise cli.UserError('it is not there') if 'MISTAKE' in os.environ else ValueError('a bug')\n"
        "        group.told(1); group.sum(torch.zeros(1).numpy()); group.any(True)\n"
        "cli.run(main)\n"
    )
    project.path("stages/trial.py").write_text(program)
    assert project.fails("python", "-m", "stages.trial", MISTAKE="1").splitlines()[-1] == (
        "error: process 2 of 2: it is not there"
    )
    failed = project.run("python", "-m", "stages.trial")
    assert failed.returncode == 1
    assert "ValueError: a bug" in failed.stderr
    assert failed.stderr.splitlines()[-1] == "error: process 2 of 2 failed, see above"


@pytest.mark.parametrize(
    ("error", "status"), [("cli.UserError('no')", 1), ("cli.Stopped('no', 130)", 130), ("ValueError('no')", 1)]
)
def test_an_error_shows_while_the_library_still_exchanges_something(tmp_path, error, status):
    # In the interpreter's own end a thread of the library may throw, and that aborts the process.
    project = copy_project(tmp_path / "project")
    program = (
        "import time, torch\n"
        "from torch import distributed\n"
        "from stages.lib.common import cli\n"
        "from stages.lib.processes import launch\n"
        "class Late:\n"
        "    def __del__(self, sleep=time.sleep): sleep(2)\n"
        "late = Late()\n"
        "def main():\n"
        "    with launch.together('stages.trial', 2, torch.device('cpu')) as group:\n"
        "        if not group.first: time.sleep(600)\n"
        "        work = distributed.all_reduce(torch.zeros(3), async_op=True)\n"
        "        work.get_future().then(lambda result: None)\n"
        f"        raise {error}\n"
        "cli.run(main)\n"
    )
    project.path("stages/trial.py").write_text(program)
    failed = project.run("python", "-m", "stages.trial")
    assert failed.returncode == status, failed.stderr
    assert failed.stderr.splitlines()[-1] == ("ValueError: no" if "Value" in error else "error: no")


def test_other_processes_know_on_how_many_machines_they_are(tmp_path):
    """By which the memory that a machine has for its own is told."""
    program = "import os\nopen(f'{os.environ[\"RANK\"]}', 'w').write(os.environ['MACHINES'])\n"
    (tmp_path / "telling.py").write_text(program, encoding="utf-8")
    with followers.Followers("telling", range(2, 4), 6, 2, ("localhost", 1), 1, folder=tmp_path) as others:
        others.wait()
    assert [(tmp_path / rank).read_text() for rank in "23"] == ["3", "3"]


def test_the_reason_is_told_also_where_the_main_thread_hangs_in_a_library(tmp_path):
    """There a signal's handler is not called, and the process is ended from outside it."""
    (tmp_path / "killed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", encoding="utf-8")
    script = """
import signal, time
from stages.lib.processes import followers

followers._AT_LAST = 0.5
with followers.Followers("killed", range(1, 2), 2, 2, ("localhost", 1), 1):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    time.sleep(60)
"""
    path = os.pathsep.join([str(CODE), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: process 2 of 2 was ended by SIGKILL: run the same command again")
