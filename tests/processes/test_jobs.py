"""The files of docs/jobs, run as they are: what their schedulers do is imitated, on two hosts that share a folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import HOME, ONE_THREAD, Project, environment, environment_of_run
from processes import test_machines
from processes.test_launch import STEPS_OF_FOUR, TRAINED
from processes.test_machines import FIRST, TRAIN, Host, until

SBATCH, MANIFEST = "docs/jobs/finetune.sbatch", "docs/jobs/kubernetes.yaml"
hosts = test_machines.hosts  # the fixture

# In a job: --relative is the first node of the step, counted from 0, and --nodes how many it has. They start --ntasks,
# which are those of the whole job where srun is not told.
SRUN = """#!/bin/sh
echo "srun $*" >> "$LOG"
others=$((SLURM_NNODES - 1))
[ "$1 $2 $3" = "--relative=1 --nodes=$others --ntasks=$others" ] || exit 1
shift 3
exec $ON_THE_OTHER "$@"
"""
SCONTROL = '#!/bin/sh\necho "scontrol $*" >> "$LOG"\n[ "$*" = "requeue $SLURM_JOB_ID" ]\n'


class Slurm:
    """What sbatch sets on the first node of a job, and the two commands that its script calls."""

    def __init__(self, folder: Path, nodes: int, on_the_other: str = "") -> None:
        self.log = folder / "log"
        self.log.touch()
        for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        self.env = {
            "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "LOG": str(self.log),
            "ON_THE_OTHER": on_the_other,
            "SLURM_NNODES": str(nodes),
            "SLURM_JOB_ID": "17",
            "SLURMD_NODENAME": FIRST,
        }

    def called(self) -> list[str]:
        return self.log.read_text().splitlines()


# What the script does, with something short in the place of ./run


@pytest.fixture
def job(tmp_path):
    """A function that starts a job on so many nodes, with a shell script for ./run, and waits for lines in the log."""
    for name in ("bin", "project"):
        (tmp_path / name).mkdir()
    started = []

    def start(nodes, run, *lines):
        slurm = Slurm(tmp_path / "bin", nodes)
        path = tmp_path / "project/run"
        path.write_text(
            '#!/bin/bash\necho "run $*, MACHINES=$MACHINES" >> "$LOG"\n[ "$*" != true ] || exit 0\n'
            f"[ $# = 0 ] || exec sleep 60\n{run}"
        )
        path.chmod(0o755)
        process = subprocess.Popen(
            ["bash", HOME / SBATCH],
            cwd=tmp_path / "project",
            env=environment(**slurm.env),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 20
        while not set(lines) <= set(slurm.called()):
            assert time.monotonic() < deadline, slurm.called()
            time.sleep(0.02)
        return process, slurm

    yield start
    for left in psutil.process_iter(["environ"]):  # as Slurm does with what a job leaves behind
        if (left.info["environ"] or {}).get("LOG") == str(tmp_path / "bin/log"):
            left.kill()
    for process in started:
        process.wait()


JOIN = f"run python -m tools.join {FIRST}:29400, MACHINES="


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_ends_as_the_pipeline_does(job, status):
    process, slurm = job(3, f"sleep 1; exit {status}", JOIN)
    assert process.wait(timeout=20) == status
    assert slurm.called()[0] == "run true, MACHINES="  # the environment, before the others need it
    assert sorted(slurm.called()[1:]) == sorted(
        ["run , MACHINES=3", f"srun --relative=1 --nodes=2 --ntasks=2 ./{JOIN.partition(',')[0]}", JOIN]
    )


def test_on_one_node_nobody_joins(job):
    process, slurm = job(1, "exit 0")
    assert process.wait(timeout=20) == 0
    assert slurm.called() == ["run true, MACHINES=", "run , MACHINES=1"]


# As dvc, which goes on as long as its stage does.
TOLD = """trap : INT
bash -c 'trap "sleep 1; echo checkpoint >> $LOG; exit {}" INT; echo stage >> $LOG; sleep 60 & wait'
"""


@pytest.mark.parametrize(("status", "follows"), [(130, ["scontrol requeue 17"]), (0, [])])
def test_what_the_time_limit_interrupts_is_waited_for_and_requeued_where_it_has_not_ended(job, status, follows):
    assert "\n#SBATCH --signal=B:TERM@" in (HOME / SBATCH).read_text(encoding="utf-8")  # to the script alone
    process, slurm = job(2, TOLD.format(status), "stage", JOIN)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == (1 if status else 0)
    assert slurm.called()[-1 - len(follows) :] == ["checkpoint", *follows]


# Whole trainings, on two hosts


@pytest.fixture
def shared(reproduced, hosts, tmp_path):
    """A project in which a training is due, as both hosts see it; their names."""
    names, _ = hosts
    made = environment_of_run(tmp_path / "environment")
    shutil.copytree(reproduced.folder, tmp_path / "project", symlinks=True)
    project = Host(tmp_path / "project", names[0], **ONE_THREAD, RUN_VENV=str(made), PROCESS_TIMEOUT="20")
    project.set(**STEPS_OF_FOUR, train__save_steps="5", train__gradient_accumulation_steps="2")
    shutil.rmtree(project.path("model/checkpoints"))
    return project, names


def all_gone(names):
    """Whether nothing runs on the hosts any more, soon."""
    deadline = time.monotonic() + 20
    while any(subprocess.check_output(["ip", "netns", "pids", name]).strip() for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def same_as_alone(project, reproduced, folder):
    """Whether the training is, to the byte, the one of a single process with twice the batches."""
    alone = Project(folder, **ONE_THREAD)
    shutil.copytree(reproduced.folder, alone.folder, symlinks=True)
    alone.set(**STEPS_OF_FOUR, train__save_steps="5", train__processes="1", train__gradient_accumulation_steps="4")
    alone.ok(*TRAIN)
    return all(alone.path(name).read_bytes() == project.path(name).read_bytes() for name in TRAINED)


@pytest.mark.slow
def test_a_slurm_job_goes_on_after_its_time_limit_to_the_same_bytes(shared, reproduced, tmp_path):
    project, names = shared
    (tmp_path / "bin").mkdir()
    slurm = Slurm(tmp_path / "bin", 2, f"ip netns exec {names[1]}")
    first = project.start("bash", SBATCH, **slurm.env)
    until(first, "step 12/")
    first.send_signal(signal.SIGTERM)
    said = first.stdout.read()
    assert "(SIGINT): the same command goes on from there" in said
    assert "Traceback" not in said
    assert (first.wait(timeout=60), slurm.called()[-1]) == (1, "scontrol requeue 17")
    assert all_gone(names)

    again = project.run("bash", SBATCH, **slurm.env)
    assert again.returncode == 0, again.stderr
    assert "goes on from checkpoint-1" in again.stdout
    assert "join: the training is over" in again.stdout
    assert "Running stage 'report'" in again.stdout
    assert all_gone(names)
    assert slurm.called().count("scontrol requeue 17") == 1
    assert same_as_alone(project, reproduced, tmp_path / "alone")


@pytest.mark.slow
def test_pods_that_are_told_to_go_are_gone_on_with(shared, reproduced, tmp_path):
    project, names = shared
    _, manifest = yaml.safe_load_all((HOME / MANIFEST).read_text(encoding="utf-8"))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    words = [*container["command"], *(word.replace("finetune-0.finetune", FIRST) for word in container["args"])]

    def pods():
        """Each on a host of its own, and the first process of its system, as in a container."""
        alone = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
        each = [Host(project.folder, name, **project.env) for name in names]
        return [one.start(*alone, *words, JOB_COMPLETION_INDEX=str(number)) for number, one in enumerate(each)]

    leading, joined = pods()
    until(leading, "step 12/")
    (bash,) = psutil.Process(joined.pid).children()
    bash.send_signal(signal.SIGTERM)  # as to a spot machine that is taken back
    assert "Traceback" not in leading.stdout.read() + joined.stdout.read()
    assert 0 not in (leading.wait(timeout=60), joined.wait(timeout=60))
    assert all_gone(names)

    leading, joined = pods()
    said = leading.stdout.read()
    assert "goes on from checkpoint-1" in said
    assert leading.wait(timeout=60) == 0, said
    assert "join: the training is over" in joined.stdout.read()
    assert joined.wait(timeout=60) == 0
    assert same_as_alone(project, reproduced, tmp_path / "alone")


@pytest.mark.slow
def test_the_manifest_is_one_that_kubernetes_takes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    parts = list(yaml.safe_load_all((HOME / MANIFEST).read_text(encoding="utf-8")))
    for version in ("1.31", kubernetes_validate.latest_version()):
        for part in parts:
            kubernetes_validate.validate(part, version, strict=True)
    service, job = parts
    template = job["spec"]["template"]
    # What the schema does not see: the name by which the others find the first pod, and who is counted.
    assert (service["metadata"]["name"], job["metadata"]["name"]) == (template["spec"]["subdomain"], "finetune")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    script = template["spec"]["containers"][0]["args"][0]
    assert f"MACHINES={job['spec']['completions']} ./run" in script
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
