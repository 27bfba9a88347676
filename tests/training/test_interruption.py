"""Training interrupted in every way there is, through the commands that users run: nothing is lost, no byte differs."""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import CODE, ONE_THREAD, TEXTS, Project, environment, hashes, make_base, wait_for
from ruamel.yaml import YAML
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import GPT2LMHeadModel

from stages import train
from stages.lib.common import files, params
from stages.lib.common.cli import Stopped
from stages.lib.model import scoring, threads
from stages.lib.processes import failpoints
from stages.lib.processes.interruption import Interruption
from stages.lib.rows import packing
from stages.lib.training import checkpoints, plan

EVERY_STEP_IS_TOLD = {"train__logging_steps": "1", "train__save_steps": "1000"}
# Long enough to be killed often, and a checkpoint so often that many kills hit one.
MANY_CHECKPOINTS = {
    "train__epochs": "12",
    "train__save_steps": "2",
    "train__logging_steps": "1",
    "train__gradient_accumulation_steps": "2",
}


@pytest.fixture(autouse=True)
def a_hang_up_is_heard():
    """Under nohup it is ignored, and by all that is started from here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def task_of(settings):
    """In the project that is this process's folder."""
    return plan.Task.of(train.TOKENS, train.BASE, settings, torch.device("cpu"))


def fresh_copy(project, folder):
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder, **ONE_THREAD)


def training_due(reproduced, folder, settings):
    """A project in which a training is due, and nothing before it."""
    made = fresh_copy(reproduced, folder)
    made.set(**settings)
    shutil.rmtree(made.path("model/checkpoints"))
    shutil.rmtree(made.path("logs/tensorboard"))
    return made


def trained(due, folder):
    """The same after a training that nothing disturbed."""
    made = fresh_copy(due, folder)
    made.ok("dvc", "repro")
    return made


@pytest.fixture(scope="module")
def due(reproduced, tmp_path_factory):
    return training_due(reproduced, tmp_path_factory.mktemp("due") / "project", EVERY_STEP_IS_TOLD)


@pytest.fixture(scope="module")
def undisturbed(due, tmp_path_factory):
    return trained(due, tmp_path_factory.mktemp("undisturbed") / "project")


@pytest.fixture
def project(due, tmp_path):
    return fresh_copy(due, tmp_path / "project")


def assert_same_outputs(project, undisturbed):
    """Byte by byte; the report, which says how many processes there were, made with the other's settings."""
    if project.path("params.yaml").read_bytes() != undisturbed.path("params.yaml").read_bytes():
        shutil.copyfile(undisturbed.path("params.yaml"), project.path("params.yaml"))
        project.ok("python", "-m", "stages.report")
    assert hashes(project) == hashes(undisturbed)


class Running:
    """A `dvc` that trains, followed line by line."""

    def __init__(self, project, *command, **env):
        self.project = project
        self.process = project.start(*command, **env)
        self.lines = []

    def read_until(self, pattern):
        """Read on to a line that matches; None when the output ends before."""
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        return None

    def trainer(self):
        """The process id of the stage."""
        return trainer_of(self.project)

    def end(self):
        """Read the output to its end; return it and the exit status."""
        self.lines += self.process.stdout
        return "".join(self.lines), self.process.wait()


def trainer_of(project):
    (lock,) = [path for path in project.path("model/checkpoints").glob("*/lock") if path.read_text()]
    return json.loads(lock.read_text())["pid"]


def held(project):
    """The trainer, once it stands still at its HOLDPOINT: whatever is sent to it now finds it in the middle."""

    def standing():
        for lock in project.path("model/checkpoints").glob("*/lock"):
            # One that was killed leaves its name in the lock.
            with contextlib.suppress(psutil.NoSuchProcess):
                if text := lock.read_text():
                    process = psutil.Process(json.loads(text)["pid"])
                    if process.status() == psutil.STATUS_STOPPED:
                        return process
        return None

    wait_for(standing)
    return standing()


def go_on(trainer):
    """Continue a trainer that is held; one that was killed, or that the system continued already, may be gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        trainer.send_signal(signal.SIGCONT)


def last_step(output):
    return max((int(step) for step in re.findall(r"step (\d+)/", output)), default=0)


def folder_of_run(project):
    (folder,) = project.path("model/checkpoints").iterdir()
    return folder


def half_written(project):
    """What a kill in the middle of a save left."""
    folder = folder_of_run(project)
    unsealed = [path for path in folder.glob("checkpoint-*") if not (path / "manifest.json").exists()]
    return unsealed + [path for path in folder.rglob(".*.partial")]


STOPPED = r"error: stopped at step 15 of \d+ \({}\): the same command goes on from there"


def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(project, undisturbed):
    """To the stage alone: `kill` of a job often reaches no other process, and `dvc` itself passes no signal on."""
    running = Running(project, "dvc", "repro", "train", HOLDPOINT="step taken:15")
    trainer = held(project)
    trainer.send_signal(signal.SIGTERM)
    go_on(trainer)
    output, status = running.end()
    assert status != 0
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(STOPPED.format("SIGTERM"), line)
    assert last_step(output) == 15
    assert not half_written(project)
    assert (folder_of_run(project) / "checkpoint-15/manifest.json").exists()
    assert not project.path("model/finetuned").exists()
    assert "Traceback" not in output
    output = project.ok("dvc", "repro")
    assert "goes on from checkpoint-15\n" in output
    assert hashes(project) == hashes(undisturbed)


def in_a_terminal(project):
    """Start `dvc repro train` in a terminal of its own; return process id, terminal, trainer and what was shown."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(project.folder)
        env = environment(**ONE_THREAD, HOLDPOINT="step taken:15")
        os.execve(sys.executable, [sys.executable, "-m", "dvc", "repro", "train"], env)
    shown = b""
    while b"step 14/" not in shown:
        shown += os.read(terminal, 1000)
    return process, terminal, held(project), shown


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("inside", ["validation", "samples"])
def test_a_stop_in_mid_validation_comes_before_its_next_batch(project, monkeypatch, inside, rank):
    """The stage itself, in this process: so many batches of validation, or tokens of samples, and not one more."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(scoring, "_TOKENS_ON_CPU", 1)  # a batch for each document, and more of these
    monkeypatch.setattr(train, "documents_of", lambda *given: iter(5 * list(packing.documents_of(*given))))
    settings = params.load().train.model_copy(update={"lora_rank": rank})
    interruption, calls = Interruption(), []

    def counted(true):
        def call(*args, **inputs):
            calls.append(args)
            if len(calls) == 3:
                interruption.reason = "SIGTERM"
            return true(*args, **inputs)

        return call

    if inside == "validation":
        monkeypatch.setattr(scoring, "_score_batch", counted(scoring._score_batch))
    else:
        monkeypatch.setattr(GPT2LMHeadModel, "forward", counted(GPT2LMHeadModel.forward))
    run = checkpoints.Run(f"{inside}{rank}")
    run.folder.mkdir(parents=True)
    with pytest.raises(Stopped, match="stopped at step 0 of"):
        train._train(task_of(settings), run, interruption)
    assert len(calls) == 3


def test_a_run_that_ends_early_says_so(project, monkeypatch, capsys):
    monkeypatch.chdir(project.folder)
    settings = params.load().train.model_copy(update={"patience": 1, "learning_rate": 1e-12})
    run = checkpoints.Run("early")
    run.folder.mkdir(parents=True)
    train._train(task_of(settings), run, Interruption())
    assert re.search(
        r"^train: ended early, 1 validation after the best one, of step \d+$", capsys.readouterr().out, re.M
    )


def test_ctrl_c_in_a_terminal_writes_a_checkpoint_and_leaves_it_tidy(project):
    process, terminal, trainer, shown = in_a_terminal(project)
    os.write(terminal, b"\x03")
    go_on(trainer)
    with contextlib.suppress(OSError):  # how a terminal ends
        while piece := os.read(terminal, 1000):
            shown += piece
    assert os.waitpid(process, 0)[1] != 0
    lines = shown.decode().splitlines()
    # On a line of its own, not behind the progress bar.
    assert len([line for line in lines if re.fullmatch(STOPPED.format("SIGINT"), line)]) == 1
    assert "Traceback" not in shown.decode()
    assert (folder_of_run(project) / "checkpoint-15/manifest.json").exists()
    assert not half_written(project)


def test_a_terminal_that_is_closed_costs_nothing(project):
    process, terminal, trainer, _ = in_a_terminal(project)
    os.close(terminal)
    assert os.waitpid(process, 0)[1] != 0
    go_on(trainer)
    wait_for(lambda: not any(path.read_text() for path in folder_of_run(project).glob("lock")))
    (checkpoint,) = folder_of_run(project).glob("checkpoint-*")
    assert checkpoints.step_of(checkpoint) == 15
    assert f"goes on from {checkpoint.name}\n" in project.ok("dvc", "repro", "train")


def test_training_goes_on_when_nobody_reads_what_it_prints(project):
    running = project.start("python", "-m", "stages.train")
    assert running.stdout.readline()
    running.stdout.close()
    assert running.wait() == 0
    assert project.path("model/finetuned/model.safetensors").exists()


def test_a_trainer_ends_with_the_dvc_that_started_it_and_the_next_one_waits_for_it(project, undisturbed):
    running = Running(project, "dvc", "repro", "train", HOLDPOINT="step taken:20")
    trainer = held(project)
    running.process.kill()
    running.process.wait()
    following = Running(project, "dvc", "repro")
    assert following.read_until(f"waiting for process {trainer.pid}, whose dvc is gone")
    go_on(trainer)
    output, _ = running.end()
    assert "(the dvc that started it is gone): the same command goes on from there" in output
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    step = last_step(output)
    output, status = following.end()
    assert status == 0, output
    assert f"goes on from checkpoint-{step}\n" in output
    assert hashes(project) == hashes(undisturbed)


def test_a_trainer_waits_only_for_one_that_is_about_to_end(project):
    project.set(train__epochs="100")
    first = Running(project, "python", "-m", "stages.train")
    assert first.read_until("step 2/")
    try:
        assert f"pid {first.process.pid}" in project.fails("python", "-m", "stages.train")
    finally:
        first.process.kill()
        first.end()


LONG_STEP = """
import time
from stages.lib.common import cli
from stages.lib.processes.interruption import Interruption

def main():
    with Interruption() as interruption:
        print("at work", flush=True)
        while not interruption.reason:
            time.sleep(0.01)
        print("noted", flush=True)
        time.sleep(600)

cli.run(main)
"""


GONE_AND_SIGNALLED = """
import os, signal
from stages.lib.common import cli
from stages.lib.processes.interruption import Interruption


def main():
    with Interruption() as interruption:
        interruption._watch([(os.getpid(), 0)])  # whose parent is another one by now
        os.kill(os.getpid(), signal.SIGHUP)
        interruption.check("at step 3")


cli.run(main)
"""


def test_a_signal_to_the_whole_group_is_named_though_its_dvc_was_seen_to_be_gone_before():
    done = subprocess.run([sys.executable, "-c", GONE_AND_SIGNALLED], cwd=CODE, capture_output=True, text=True)
    assert done.stderr == "error: stopped at step 3 (SIGHUP): the same command goes on from there\n"
    assert done.returncode == 128 + signal.SIGHUP


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (signal.SIGTERM, signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT, 130),
        (signal.SIGINT, signal.SIGINT, 130),
    ],
)
def test_a_second_signal_ends_it_at_once(first, second, expected):
    """In the middle of a step that takes ten minutes, so that it cannot be over before."""
    running = subprocess.Popen([sys.executable, "-c", LONG_STEP], cwd=CODE, stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "at work\n"
    running.send_signal(first)
    assert running.stdout.readline() == "noted\n"
    running.send_signal(second)
    assert running.wait() == expected
    running.stdout.close()


def test_out_of_memory_is_one_line_that_says_what_to_lower(project):
    project.write_corpus([f"{TEXTS[0]} Номер {number}." for number in range(6000)])
    project.set(train__batch_size="100000")
    for stage in ("validate", "tokenize"):
        project.ok("python", "-m", f"stages.{stage}")
    # Loading the libraries takes two thirds of this; one copy of the logits of all rows takes 0.4 GB.
    error = project.fails("sh", "-c", f"ulimit -v 3000000; exec {sys.executable} -m stages.train")
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: out of memory: .* train.batch_size.* tokenize.max_length.* smaller base", line)


def test_a_full_disk_is_one_line_leaves_the_checkpoint_before_and_is_gone_on_from(project, undisturbed, tmp_path):
    """In a mount namespace of its own, the folder of the checkpoints is a disk that others fill after the first one."""
    kept = tmp_path / "kept"
    kept.mkdir()
    script = (
        "mkdir -p model/checkpoints && mount -t tmpfs -o size=20m tmpfs model/checkpoints || exit 9; "
        "(until ls model/checkpoints/*/checkpoint-*/manifest.json; do sleep 0.02; done; "
        "head -c 30m /dev/zero >model/checkpoints/others) >/dev/null 2>&1 & "
        f"{sys.executable} -m stages.train; status=$?; cp -r model/checkpoints/*/ {kept}; exit $status"
    )
    own_namespace = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    error = project.fails(*own_namespace, "sh", "-c", script)
    assert error.startswith("error: no space left on the disk")
    assert len(error.splitlines()) == 1
    (run,) = kept.iterdir()
    (checkpoint,) = run.glob("checkpoint-*")
    assert not list(run.rglob(".*.partial"))
    shutil.copytree(kept, project.path("model/checkpoints"), dirs_exist_ok=True)
    assert f"goes on from {checkpoint.name}\n" in project.ok("dvc", "repro")
    assert hashes(project) == hashes(undisturbed)


def test_a_forced_repro_trains_again_from_the_start(reproduced, tmp_path):
    project = fresh_copy(reproduced, tmp_path / "project")
    before = hashes(project)
    output = project.ok("dvc", "repro", "-f", "-s", "train")
    assert "goes on from" not in output
    assert "step 4/" in output
    assert hashes(project) == before


def test_what_dvc_did_not_get_to_record_is_handed_over_once_more(reproduced, tmp_path):
    """Its cache was full, or it was killed, after the training was over."""
    project = fresh_copy(reproduced, tmp_path / "project")
    before = hashes(project)
    lock = YAML().load(project.path("dvc.lock"))
    for stage in ("train", "evaluate", "report"):
        del lock["stages"][stage]
    YAML().dump(lock, project.path("dvc.lock"))
    last = max(map(checkpoints.step_of, folder_of_run(project).glob("checkpoint-*")))
    output = project.ok("dvc", "repro", "--no-run-cache", "-s", "train")
    assert f"goes on from checkpoint-{last}\n" in output
    assert last_step(output) == 0
    assert hashes(project) == before


# Slow proofs


@pytest.fixture(scope="module")
def long_due(reproduced, tmp_path_factory):
    return training_due(reproduced, tmp_path_factory.mktemp("long") / "project", MANY_CHECKPOINTS)


@pytest.fixture(scope="module")
def long_undisturbed(long_due, tmp_path_factory):
    return trained(long_due, tmp_path_factory.mktemp("long_undisturbed") / "project")


def drawn(project, name):
    """The points of a curve in TensorBoard."""
    (run,) = project.path("logs/tensorboard").iterdir()
    return [(event.step, event.value) for event in EventAccumulator(str(run)).Reload().Scalars(name)]


def check_curves(project):
    """TensorBoard has the points of the TSV files: each once, and none more."""
    for table, column, curve in (
        ("train_loss", "loss", "train/loss"),
        ("train_loss", "learning_rate", "train/learning_rate"),
        ("train_loss", "gradient_norm", "train/gradient_norm"),
        ("validation", "loss", "validation/loss"),
        ("validation", "bits_per_byte", "validation/bits_per_byte"),
    ):
        rows = files.read_tsv(project.path(f"logs/{table}.tsv"))
        points = drawn(project, curve)
        assert [step for step, _ in points] == [int(row["step"]) for row in rows], curve
        assert [value for _, value in points] == pytest.approx([float(row[column]) for row in rows], rel=1e-6)


def skipped(output):
    """How many steps a run did not take again, as it says itself."""
    found = re.search(r"goes on from checkpoint-(\d+)", output)
    return int(found[1]) if found else 0


@pytest.fixture
def on_two(long_due, tmp_path):
    """The same training, to be done by two processes."""
    project = fresh_copy(long_due, tmp_path / "project")
    project.set(train__processes="2", train__gradient_accumulation_steps="1")
    return project


def check_as_undisturbed(project, undisturbed):
    assert_same_outputs(project, undisturbed)
    check_curves(project)
    assert not half_written(project)


@pytest.mark.slow
def test_a_kill_between_any_two_writes_changes_no_byte(long_due, long_undisturbed, tmp_path, proofs):
    project = fresh_copy(long_due, tmp_path / "project")
    for name in failpoints.NAMES:
        output, status = Running(project, "python", "-m", "stages.train", FAILPOINT=name).end()
        assert status == -signal.SIGKILL, f"nothing was killed at {name}: {output}"
        proofs(f"killed at '{name}', step {last_step(output)}, begun at step {skipped(output)}")
    # Its model is delivered, but dvc has not recorded it: it is handed over once more.
    output = project.ok("dvc", "repro")
    assert skipped(output) == project.json("logs/train.json")["steps"]
    check_as_undisturbed(project, long_undisturbed)


@pytest.mark.slow
def test_a_kill_of_the_other_process_between_two_writes_changes_no_byte(on_two, long_undisturbed, proofs):
    """At every other place, as the other process writes nothing, and until the first one hands over the model alone."""
    for name in failpoints.NAMES[: failpoints.NAMES.index("output model written") : 2]:
        running = Running(on_two, "python", "-m", "stages.train", HOLDPOINT=name)
        first = held(on_two)
        (follower,) = first.children()
        follower.kill()
        go_on(first)
        output, status = running.end()
        assert (status, "Traceback" in output) == (1, False), f"at {name}: {output}"
        assert "error: process 2 of 2 was ended by SIGKILL: run the same command again" in output
        proofs(f"killed at '{name}', step {last_step(output)}, begun at step {skipped(output)}")
    assert "goes on from" in on_two.ok("dvc", "repro")
    check_as_undisturbed(on_two, long_undisturbed)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_threads_to_the_same_bytes(due, tmp_path):
    """Where they matter, the run goes on with those it began with; elsewhere any number does.

    That none matters in float32, test_threads holds.
    """
    precision = "bfloat16"
    disturbed = fresh_copy(due, tmp_path / "disturbed")
    disturbed.set(train__precision=precision)
    several = {"OMP_NUM_THREADS": "3", "MKL_DYNAMIC": "FALSE"}  # else MKL makes it no more than there are cores
    copied = fresh_copy(disturbed, tmp_path / "undisturbed").folder
    undisturbed = Project(copied, **several)
    if not threads.matter(torch.device("cpu"), precision):
        undisturbed.env |= ONE_THREAD
    running = Running(disturbed, "dvc", "repro", "train", **several, HOLDPOINT="step taken:15")
    trainer = held(disturbed)
    trainer.send_signal(signal.SIGTERM)
    go_on(trainer)
    assert "steps on cpu, 3 threads\n" in running.end()[0]
    assert "goes on from checkpoint-15\n" in disturbed.ok("dvc", "repro")
    undisturbed.ok("dvc", "repro")
    assert hashes(disturbed) == hashes(undisturbed)


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte(long_due, long_undisturbed, tmp_path, proofs):
    project = fresh_copy(long_due, tmp_path / "project")
    random.seed(0)
    inside_a_save, killed_at, again = 0, 0, 0
    whom = ["stage", "dvc", "group"] * 2
    for number, victim in enumerate(whom):
        running = Running(project, "dvc", "repro", "train")
        assert running.read_until(r"train: .* steps on"), running.end()
        for _ in range(random.randrange(1, 9)):
            assert running.read_until(r"  step \d+/"), f"the run was over before {len(whom)} kills"
        time.sleep(random.uniform(0, 0.15))
        trainer = running.trainer()
        if victim == "group":
            os.killpg(running.process.pid, signal.SIGKILL)
        else:
            os.kill(trainer if victim == "stage" else running.process.pid, signal.SIGKILL)
        if victim == "dvc":
            running.process.wait()  # and on at once, while the trainer may still be at work
        output, status = ("".join(running.lines), 1) if victim == "dvc" else running.end()
        assert status != 0
        went_on_at = skipped(output)
        if number and whom[number - 1] != "dvc":  # whose trainer had gone some steps further
            again += killed_at - went_on_at
        killed_at = last_step(output)
        inside_a_save += victim != "dvc" and bool(half_written(project))
        proofs(f"kill {number + 1} of {victim}: begun at step {went_on_at}, killed at step {killed_at}")
    output = project.ok("dvc", "repro")
    assert hashes(project) == hashes(long_undisturbed)
    check_curves(project)
    assert not half_written(project)
    proofs(f"{inside_a_save} of {len(whom)} kills inside a save; {again} steps had to be taken again")
    assert skipped(output)


@pytest.mark.slow
def test_queued_experiments_go_on_too(long_due, long_undisturbed, tmp_path):
    project = fresh_copy(long_due, tmp_path / "project")
    project.commit("settings")
    project.ok("dvc", "exp", "run", "--queue", "--name", "first")
    start_queue = f"{sys.executable} -m dvc queue start > /dev/null 2>&1"  # its worker would hold a pipe open
    project.ok("sh", "-c", start_queue)
    wait_for(lambda: any(project.path("model/checkpoints").glob("*/checkpoint-*")))
    os.kill(trainer_of(project), signal.SIGTERM)
    wait_for(lambda: "Failed" in project.ok("dvc", "queue", "status"))
    step = int(re.search(r"stopped at step (\d+)", project.ok("dvc", "queue", "logs", "first"))[1])
    project.ok("dvc", "exp", "run", "--queue", "--name", "second")
    project.ok("sh", "-c", start_queue)
    wait_for(lambda: "Success" in project.ok("dvc", "queue", "status"))
    assert f"goes on from checkpoint-{step}\n" in project.ok("dvc", "queue", "logs", "second")
    project.ok("dvc", "queue", "stop", "--kill")
    project.ok("dvc", "exp", "apply", "second")
    assert hashes(project) == hashes(long_undisturbed)
    (run,) = project.path("logs/tensorboard").iterdir()
    assert run.name.startswith("second-")
    check_curves(project)


@pytest.mark.slow
def test_a_queue_that_is_killed_takes_its_trainer_along(long_due, tmp_path):
    project = fresh_copy(long_due, tmp_path / "project")
    project.commit("settings")
    project.ok("dvc", "exp", "run", "--queue", "-S", "train.epochs=1000")
    project.ok("sh", "-c", f"{sys.executable} -m dvc queue start > /dev/null 2>&1")
    wait_for(lambda: any(path.read_text() for path in project.path("model/checkpoints").glob("*/lock")))
    trainer = psutil.Process(trainer_of(project))
    project.ok("dvc", "queue", "stop", "--kill")
    wait_for(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE, seconds=30)


@pytest.mark.slow
def test_whatever_a_run_depends_on_changed_it_starts_fresh_and_changed_back_it_goes_on(due, undisturbed, tmp_path):
    project = fresh_copy(due, tmp_path / "project")

    def interrupted(at, **env):
        running = Running(project, "dvc", "repro", "train", HOLDPOINT=f"step taken:{at}", **env)
        trainer = held(project)
        # The run to go on with is stopped at a checkpoint, the others before they have one.
        trainer.send_signal(signal.SIGTERM if at > 2 else signal.SIGKILL)
        go_on(trainer)
        return running.end()[0]

    step = last_step(interrupted(15))
    corpus, code, weights = map(project.path, ("data/my_corpus.jsonl", "stages/lib/model/scoring.py", "model/embedded"))
    other_version = tmp_path / "libraries" / "safetensors-99.0.dist-info"
    other_version.mkdir(parents=True)
    (other_version / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 99.0\n")
    changes = {
        "a parameter": (lambda: project.set(train__weight_decay="0.05"), {}),
        "the corpus": (lambda: corpus.write_text(corpus.read_text() + '{"text": "Ещё один."}\n'), {}),
        "a line of code": (lambda: code.write_text(code.read_text() + "# Another line.\n"), {}),
        "the base": (lambda: make_base(weights, seed=1), {}),
        "a library": (lambda: None, {"PYTHONPATH": str(other_version.parent)}),
    }
    for what, (change, env) in changes.items():
        saved = tmp_path / what
        shutil.copytree(project.folder, saved, symlinks=True, ignore=shutil.ignore_patterns(".dvc", ".git", "logs"))
        change()
        assert "goes on from" not in interrupted(2, **env), what
        for path in (corpus, code, project.path("params.yaml")):
            shutil.copy2(saved / path.relative_to(project.folder), path)
        shutil.rmtree(weights)
        shutil.copytree(saved / "model/embedded", weights)
    output = project.ok("dvc", "repro")
    assert f"goes on from checkpoint-{step}\n" in output
    assert hashes(project) == hashes(undisturbed)
