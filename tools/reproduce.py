"""Prove that what is committed comes out again: run all of it elsewhere, from nothing, and compare.

    python -m tools.reproduce

takes the last commit into an empty folder, runs every stage there without DVC's cache, and compares what came out with
dvc.lock and with the figures in git. Since everything runs, a lock that is out of date, that was accepted without a
run, or that names stages which dvc.yaml no longer has, shows.

On the kind of machine the commit was made on (`environment` in logs/train.json) every output must be the same to the
byte. On another kind that holds for the data stages, and the figures must agree within tools.differences.TOLERANCES.
The last line says which of the two was proved; the exit status is 0 then, and 1 when neither was.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML
from tabulate import tabulate

from stages.lib.common import cli, params, parents
from stages.lib.common.translation import Parser, translated
from tools import differences

HERE = "here"  # what the copy calls the cache of the project it was taken from
# What git sets for hooks, in a linked worktree for example (git rev-parse --local-env-vars); its settings stay.
_OF_GIT = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_INDEX_FILE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
}
NOT_INSTALLED = 127  # as a shell has it
NEVER_COPIED = (".dvc/cache", ".dvc/tmp", ".dvc/config.local", "model/checkpoints", "logs/tensorboard")


def main() -> None:
    """Take, run, compare, and say what was proved."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where to run, and leave what came out (default: nowhere)")
    parser.add_argument(
        "--keep-outputs",
        action="store_true",
        help="if all are the same to the byte, put the outputs into this project's cache, for dvc checkout and push",
    )
    args = parser.parse_args()
    if args.folder and args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise cli.UserError(f"{args.folder} is not empty: name a folder that is, or that is not there yet")
    home = Path.cwd()
    params.load()  # a mistake there, or a command typed in another folder, is found at once
    nowhere = partial(tempfile.TemporaryDirectory, prefix="reproduce-")
    with _emptied_if_interrupted(args.folder) if args.folder else nowhere() as folder:
        started = time.monotonic()
        copy = take(home, Path(folder).absolute())
        committed = differences.read_run(copy)
        refuse_what_cannot_be_repeated(params.load(copy / params.PATH).base)
        (copy / differences.LOCK).unlink()  # so that nothing counts as done, and no entry outlives its stage
        if dvc(copy, "repro").returncode:
            raise cli.UserError("not reproduced: the pipeline failed in the copy, see above")
        made = differences.read_run(copy)
        cli.say(f"\nRan everything in {time.monotonic() - started:.0f} s.")
        exact = conclude(committed, made)
        if args.keep_outputs and exact:
            kept = dvc(copy, "push", "--quiet", "--remote", HERE)
            if kept.returncode:
                raise cli.UserError("the outputs could not be put into the cache, see above")
            cli.say("They are in the cache of this project now.")


@contextmanager
def _emptied_if_interrupted(folder: Path) -> Iterator[Path]:
    """The folder that was given, empty as it was after Ctrl-C: for the same command to start again."""
    try:
        yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def take(home: Path, folder: Path) -> Path:
    """Put the state committed in `home` into the empty `folder`, with an empty cache of its own; return its top there.

    Without git it is the state as it is, without outputs and caches. Texts and models that .dvc files stand for come
    from the cache of `home`, or through it from its remote. Raises UserError when they are in neither.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _run(home, "git", "rev-parse", "--show-toplevel", "--show-prefix")
    if with_git := found.returncode == 0:
        top, prefix = found.stdout.split("\n")[:2]
        copy = folder / prefix
        _take_commit(home, Path(top), folder)
        if not (copy / "dvc.yaml").exists():
            raise cli.UserError(f"the last commit of {top} does not hold this project: commit it first")
    elif found.returncode == NOT_INSTALLED or "not a git repository" in found.stderr:
        copy = folder
        _copy_without_outputs(home, copy)
    else:
        raise cli.UserError(f"git does not read this repository: {_last_line(found.stderr)}")
    cache = dvc(home, "cache", "dir", capture=True).stdout.strip()
    _write_config(copy, cache, with_git)
    _bring_tracked_data(home, copy)
    return copy


def _take_commit(home: Path, top: Path, folder: Path) -> None:
    if _run(home, "git", "rev-parse", "--verify", "HEAD").returncode:
        raise cli.UserError("nothing is committed yet: commit the project, with dvc.lock and logs, first")
    changed = _must(home, "git", "status", "--porcelain", "--", ".").splitlines()
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        names = ", ".join(line[3:] for line in changed[:3])
        cli.say(f"Not committed, and so not part of this: {names}{more}")
    _must(folder, "git", "init", "--quiet")
    # That commit alone, whatever kind of clone or worktree it is in.
    _must(folder, "git", "fetch", "--quiet", "--depth=1", top.as_uri(), "HEAD")
    _must(folder, "git", "checkout", "--quiet", "--detach", "FETCH_HEAD")


def _copy_without_outputs(home: Path, copy: Path) -> None:
    stages = YAML(typ="safe", pure=True).load((home / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    entries = [entry for stage in stages for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, ())]
    left_out = {*NEVER_COPIED, *(entry for entry in entries if isinstance(entry, str))}  # a dict has cache: false

    def ignored(folder: str, names: list[str]) -> list[str]:
        inside = Path(folder).relative_to(home)
        return [
            name
            for name in names
            if (inside / name).as_posix() in left_out or (Path(folder) / name / "pyvenv.cfg").exists()
        ]

    if copy.is_relative_to(home):
        raise cli.UserError(f"{copy} is inside the project: name a folder outside it")
    shutil.copytree(home, copy, ignore=ignored, dirs_exist_ok=True)


def _write_config(copy: Path, cache: str, with_git: bool) -> None:
    """Settings of the copy alone, above those of the user, who may have one cache for all projects."""
    settings = {"cache.dir": ".dvc/cache", f"remote.{HERE}.url": cache}
    if not with_git:
        settings["core.no_scm"] = "true"
    for name, value in settings.items():
        written = dvc(copy, "config", "--local", name, value, capture=True)
        if written.returncode:
            raise cli.UserError(f"DVC does not take {name} = {value}: {_last_line(written.stderr)}")


def _bring_tracked_data(home: Path, copy: Path) -> None:
    """Check out what .dvc files stand for, such as a large corpus."""
    names = [str(path.relative_to(copy)) for path in sorted(copy.rglob("*.dvc")) if path.is_file()]
    if not names or dvc(copy, "pull", "--quiet", "--remote", HERE, *names, capture=True).returncode == 0:
        return
    fetched = dvc(home, "fetch", "--quiet", *names, capture=True)
    if fetched.returncode or dvc(copy, "pull", "--quiet", "--remote", HERE, *names, capture=True).returncode:
        why = _last_line(fetched.stderr) or "the committed .dvc file is not the one here"
        raise cli.UserError(f"what {', '.join(names)} stands for is neither in the cache nor in the remote: {why}")


def refuse_what_cannot_be_repeated(base: params.Base) -> None:
    """Raise UserError where the base model may be another one tomorrow."""
    if base.hub and not re.fullmatch("[0-9a-f]{40}", base.revision or ""):
        given = f"base.revision is {base.revision}" if base.revision else "base.revision is null, the newest"
        raise cli.UserError(
            f"{params.PATH}: {given}, which may be another model tomorrow: set it to the commit of {base.hub}, which "
            f"dvc repro prints and model/base/provenance.json holds, and run {cli.command('dvc repro')} once more"
        )


def conclude(committed: differences.Run, made: differences.Run) -> bool:
    """Print the differences and what they prove; return whether every output is the same to the byte.

    Raises UserError when they prove nothing.
    """
    found = differences.compare(committed, made)
    if found:
        may, must_not = translated("may differ"), translated("DIFFERS")
        table = [(one.stage, one.what, one.committed, one.made, may if one.allowed else must_not) for one in found]
        header = [translated("stage"), translated("what"), translated("committed"), translated("made here"), ""]
        cli.say("\n" + tabulate(table, header, disable_numparse=True))
    other = differences.environments_differ(committed, made)
    if other:
        cli.say("\nThis is another kind of machine: " + "; ".join(other))
    if wrong := sum(not one.allowed for one in found):
        raise cli.UserError(
            f"not reproduced: {wrong} of these differences must not be. If the commit is yours, run "
            f"{cli.command('dvc repro')}, and commit {differences.LOCK} and logs together with what they came from"
        )
    same = sum(committed.outputs[path][1] == made.outputs[path][1] for path in made.outputs)
    if same == len(made.outputs):
        cli.say(f"Reproduced to the byte: all {same} outputs are the committed ones.")
        return True
    cli.say(
        f"Reproduced within tolerances: {same} of {len(made.outputs)} outputs are the same to the byte, those of the "
        "data stages among them, and the figures agree."
    )
    return False


def dvc(folder: Path, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run DVC in `folder`, with this Python for it and for the stages, whether or not its environment is activated."""
    passed = _environment()
    passed |= {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=passed, capture_output=capture, text=True)


def _environment() -> dict[str, str]:
    """This one, but for what would have a command work elsewhere than in its folder.

    DVC's variables would make a repro inside a stage believe that it is that stage; git's, which it sets for hooks,
    name the repository of the user in the place of the copy. A stage that fails there has nothing to be brought back.
    """
    left = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "DVC_STAGE", *_OF_GIT)}
    return left | {parents.IN_A_COPY: "1"}


def _must(folder: Path, *command: str) -> str:
    done = _run(folder, *command)
    if done.returncode:
        raise cli.UserError(f"{' '.join(command)} failed: {_last_line(done.stderr)}")
    return done.stdout


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, env=_environment() | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, NOT_INSTALLED, "", f"{command[0]} is not installed")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else ""


if __name__ == "__main__":
    cli.run(main)
