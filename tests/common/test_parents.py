"""Whatever a `dvc` that is killed had started ends within seconds; commands are named as they were started."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import CODE, environment

from stages.lib.common import parents

LONG_WORK = """
import time
from stages.lib.common import cli

def main():
    print("at work", flush=True)
    time.sleep(600)

cli.run(main)
"""
# Stands for dvc: it starts the stage, by itself or with a shell between, and waits for it.
DVC = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.mark.parametrize("between", [(), ("sh", "-c", '"$@"; exit $?', "sh")], ids=["alone", "with a shell between"])
def test_a_stage_ends_with_its_dvc(between):
    stage = (sys.executable, "-c", LONG_WORK)
    dvc = subprocess.Popen(
        [sys.executable, "-c", DVC, *between, *stage],
        cwd=CODE,
        env=environment(DVC_STAGE="evaluate"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert dvc.stdout.readline() == "at work\n"
        os.kill(dvc.pid, signal.SIGKILL)
        started = time.monotonic()
        assert dvc.stdout.read() == "error: interrupted: the same command starts it again\n"  # to the end of the stage
        assert time.monotonic() - started < 30
    finally:
        os.killpg(dvc.pid, signal.SIGKILL) if dvc.poll() is None else dvc.wait()
        dvc.stdout.close()


def test_what_no_dvc_started_goes_on_without_one():
    quick = LONG_WORK.replace("600", "2") + "\nprint('done')\n"
    done = subprocess.run(
        [sys.executable, "-c", quick],
        cwd=CODE,
        env=environment(DVC_STAGE="evaluate"),
        start_new_session=True,  # its parent is of another session
        capture_output=True,
        text=True,
    )
    assert done.stdout == "at work\ndone\n"


@pytest.mark.parametrize(
    ("line", "after_run"),
    [
        ("dvc repro", "./run dvc repro"),
        ("git checkout logs && dvc checkout", "git checkout logs && ./run dvc checkout"),
        ("dvc add a && python -m tools.seeds", "./run dvc add a && ./run python -m tools.seeds"),
        ("wandb sync logs/wandb/a", "./run wandb sync logs/wandb/a"),
        ("trackio show --project a", "./run trackio show --project a"),
        ("comet upload logs/comet/a.zip", "./run comet upload logs/comet/a.zip"),
        ("git add dvc repro", "git add dvc repro"),
    ],
)
def test_a_command_is_named_as_it_works_where_this_was_started(monkeypatch, line, after_run):
    assert parents.command(line) == line
    monkeypatch.setenv("STARTED_WITH", "./run")
    assert parents.command(line) == after_run
