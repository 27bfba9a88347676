"""Processes that share work: they end with the one that started them, and leave the last word to it."""

import os
import signal
import subprocess
import sys
import time

import psutil
from conftest import CODE, environment

SCRIPT = """
import os, sys, time
from stages.lib.common import cli, parallel

def main():
    with parallel.processes(2) as pool:
        pool.submit(os.getpid).result()
        print(*pool._processes, flush=True)
        if "die" in sys.argv:
            pool.submit(os._exit, 1).result()
        time.sleep(60)

if __name__ == "__main__":
    cli.run(main)
"""


def start(tmp_path, *arguments):
    """A command that shares its work with two processes, once it has, and their process ids."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), *arguments],
        env=environment(PYTHONPATH=str(CODE)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return command, [int(pid) for pid in command.stdout.readline().split()]


def all_end(pids):
    began = time.monotonic()
    while time.monotonic() - began < 30 and any(map(psutil.pid_exists, pids)):
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def test_ctrl_c_is_one_line(tmp_path):
    command, pids = start(tmp_path)
    assert len(pids) == 2
    os.killpg(command.pid, signal.SIGINT)  # as a terminal sends it: to all of them
    assert command.communicate(timeout=60)[1] == "error: interrupted: the same command starts it again\n"
    assert command.returncode == 130
    assert all_end(pids)


def test_no_process_outlives_the_one_that_started_it(tmp_path):
    command, pids = start(tmp_path)
    command.kill()
    assert all_end(pids)


def test_a_process_that_is_ended_from_outside_is_one_line(tmp_path):
    command, pids = start(tmp_path, "die")
    assert command.communicate(timeout=60)[1].startswith("error: a process that shared the work was ended from outside")
    assert command.returncode == 1
    assert all_end(pids)
