"""What started this process: `./run`, an experiment, `dvc`; and whether that `dvc` is still there.

Killed alone, as `dvc queue stop --kill` does, it leaves what it started to itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType

import psutil

LOOK_EVERY = 0.5  # seconds
IN_A_COPY = "PIPELINE_IN_A_COPY"  # a variable of the environment
_OF_THE_ENVIRONMENT = ("dvc", "python", "tensorboard", "hf", "wandb", "trackio", "comet")  # its commands
_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}

Chain = list[tuple[int, int]]


def command(line: str) -> str:
    """A line of commands as it works where this was started: those of the environment after `./run`, if that was it."""
    run = os.environ.get("STARTED_WITH")
    known = "|".join(_OF_THE_ENVIRONMENT)
    return re.sub(rf"(?:^|(?<= && ))(?=(?:{known}) )", f"{run} ", line) if run else line


def in_experiment() -> bool:
    """Whether `dvc exp run` started this."""
    return "DVC_EXP_BASELINE_REV" in os.environ


def experiment_in_place() -> bool:
    """Whether `dvc exp run` started this, and in the user's own folder: a copy goes with the experiment that failed."""
    return in_experiment() and os.path.samefile(os.environ.get("DVC_ROOT", "."), ".")


def show_git(path: str) -> None:
    """Have git see that a file changed.

    DVC writes params.yaml within the second in which git looked at it, mostly in the same size: to git it is then the
    same file, in `git diff` as in `git checkout`. A second from now on is none that git has seen.
    """
    with contextlib.suppress(OSError):
        os.utime(path, (time.time() + 1, time.time() + 1))


def chain_to_dvc() -> Chain:
    """The process ids from this process up to the `dvc` that started it, as pairs of child and parent.

    Between the two there can be a shell that DVC runs the stage's command with. Empty when `dvc` is gone already: an
    orphan's parent is the system's first process, or another one that takes orphans in, of another session.
    """
    chain = []
    child = psutil.Process()
    while (parent := child.parent()) and os.getsid(parent.pid) == os.getsid(0):
        chain.append((child.pid, parent.pid))
        if parent.name() not in _SHELLS:
            return chain
        child = parent
    return []


def dvc() -> tuple[int, float] | None:
    """The `dvc` that started this process, by its number and its start, as numbers are used again."""
    chain = chain_to_dvc() if "DVC_STAGE" in os.environ else []
    try:
        return (chain[-1][1], psutil.Process(chain[-1][1]).create_time()) if chain else None
    except psutil.NoSuchProcess:
        return None


def lives(pid: int, started: float) -> bool:
    """Whether the process of this number that started then is still there."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def there(chain: Chain) -> bool:
    """Whether each process of the chain still has the parent it had. An orphan has another one."""
    return bool(chain) and all(_parent(child) == parent for child, parent in chain)


def end_with_dvc() -> None:
    """From now on raise KeyboardInterrupt in the main thread when the `dvc` that started this process is gone."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def watch(chain: Chain) -> None:
        while there(chain):
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGUSR1)

    if chain := chain_to_dvc():  # where another machine runs the command there is none to be seen
        signal.signal(signal.SIGUSR1, interrupt)
        threading.Thread(target=watch, args=[chain], daemon=True).start()


def last_commit_can_come_back() -> bool:
    """Whether the outputs of the last commit are in DVC's cache, and no later results would go for them.

    Those have other figures in logs, which this very `dvc` did not write. In a copy nobody wants them back.
    """
    if IN_A_COPY in os.environ:
        return False
    changed = _git("diff", "--name-only", "--relative", "--diff-filter=M", "HEAD", "--", "logs").splitlines()
    if not all(made_since_dvc_began(Path(path)) for path in changed):
        return False
    cache = Path(".dvc/cache/files/md5")
    if not cache.exists():  # a fresh clone has none, unless its own settings name another place
        return Path(".dvc/config.local").exists()
    section, folders = "", []
    for line in _git("show", "HEAD:./dvc.lock").splitlines():
        if found := re.match(r"    (\w+):$", line):
            section = found[1]
        elif section == "outs" and (found := re.match(r"      md5: (\w+\.dir)$", line)):
            folders.append(found[1])  # files beside them may be in git
    return bool(folders) and all((cache / name[:2] / name[2:]).exists() for name in folders)


def _git(*command: str) -> str:
    """What git says; nothing where it is not installed, or has nothing to do with this folder."""
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(["git", *command], capture_output=True, check=False, text=True, errors="replace").stdout
    return ""


def made_since_dvc_began(path: Path) -> bool:
    """Whether a file was made by the very `dvc` that started this process, one of its earlier stages that is."""
    began = dvc()
    return began is not None and path.exists() and path.stat().st_mtime > began[1]


def _parent(pid: int) -> int | None:
    """The parent of a process now; None when the process is gone."""
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None
