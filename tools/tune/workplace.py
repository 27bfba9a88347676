"""Where trials run: a copy of the last commit in `.dvc/tmp/tune`, so that the user's own files stay as they are.

What the copy holds after a trial becomes an experiment of that commit, as `dvc exp run` makes them: a commit that git
has under refs/exps, and `dvc exp show` in its table. Its figures are those of validation. The weights of short runs are
not kept, as those of each would take the room of a model in DVC's cache; those of a whole run are.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.lib.common import cli, files, params, versioned
from stages.lib.common.cli import UserError, printable
from tools.tune.space import Changes

FIGURES, METRICS = Path("logs/train.json"), Path("logs/metrics.json")
_LATER = (METRICS, Path("logs/evaluate.json"))  # figures of a stage that trials do without
_NULL = "tag:yaml.org,2002:null"
_LOOK_EVERY = 0.2  # seconds
# The author of what becomes an experiment, for git.
_AUTHOR = {f"GIT_{who}_{what}": "tune@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class StageFailed(Exception):
    """A command ended with an error, whose last line this is."""


class Workplace:
    """A copy of the commit that is checked out, and the experiments that come of it."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there is no commit to copy, or where what is here differs from it."""
        logging.getLogger("dvc").setLevel(logging.WARNING)  # not which stages are up to date
        self.home = Path.cwd()
        self.baseline = _git("rev-parse", "HEAD^{commit}")
        _refuse_changes()
        self.folder = folder.resolve() / self.baseline[:12]
        self._clone = self.folder / "copy"
        self.copy = self._clone / _git("rev-parse", "--show-prefix")

    def prepare(self, corpus: str) -> None:
        """Make the copy, with the rows that training reads. Raises UserError where that fails."""
        if not versioned.known_to_git_or_dvc(corpus):
            raise UserError(f"{printable(corpus)} is neither in DVC nor in git: a search has the last commit alone")
        for left in self.folder.parent.glob("*/copy"):  # of searches at other commits, whose results stay
            if left != self._clone:
                shutil.rmtree(left, ignore_errors=True)
        if not self._clone.exists():
            partial = self.folder / ".copy.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _git("clone", "-q", "--shared", "--no-checkout", _git("rev-parse", "--show-toplevel"), str(partial))
            _git("-C", str(partial), "checkout", "-q", "--detach", self.baseline)
            partial.rename(self._clone)
        self._configure()
        with self._dvc() as repo:
            repo.checkout(force=True, allow_missing=True)
            repo.reproduce(["tokenize"])

    def committed_figures(self) -> dict[str, Any] | None:
        """What training has to say in the commit itself, where that is up to date and its weights are here."""
        self.reset({})
        with self._dvc() as repo:
            repo.checkout(["train"], force=True, allow_missing=True)
            if repo.status(["train"]) or not (self.copy / FIGURES).exists():
                return None
        return files.read_json(self.copy / FIGURES)

    def reset(self, changes: Changes) -> None:
        """Bring the copy's files back to the commit, but for some settings."""
        _git("-C", str(self.copy), "checkout", "-q", "--force", "HEAD", "--", ".")
        if changes:
            _set(self.copy / params.PATH, changes)

    def train(self, name: str, log: Path, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Run the training stage; return what it has to say. None: it was stopped, and goes on another time.

        `stop` is asked all the time. Raises StageFailed.
        """
        surroundings = {"DVC_ROOT": str(self.home), "DVC_STAGE": "train", "DVC_EXP_NAME": name}  # as DVC runs a stage
        if not self._ran("-m", "stages.train", log=log, stop=stop, **surroundings):
            return None
        return files.read_json(self.copy / FIGURES)

    def keep(self, name: str, figures: dict[str, Any], weights: bool) -> None:
        """Make the training that the copy holds an experiment; `weights`: put them into DVC's cache."""
        if weights:
            with self._dvc() as repo:
                repo.commit("train", force=True)
        for path in _LATER:
            (self.copy / path).unlink(missing_ok=True)
        shown = {
            "validation_bits_per_byte": figures["validation_bits_per_byte"],
            "best_step": figures["best_step"],
            "tokens": figures["tokens"],
        }
        files.write_json(self.copy / METRICS, shown)
        self._save(name)

    def finish(self, name: str | None, stop: Callable[[], bool]) -> tuple[dict[str, Any], list[dict[str, str]]] | None:
        """Run the stages after training, and give `metrics.json` and the table of test documents. None: stopped.

        `name`: the experiment that is to hold all of that. Raises StageFailed.
        """
        if not self._ran("-m", "dvc", "repro", log=self.folder / "test.log", stop=stop):
            return None
        if name:
            self._save(name)
        return files.read_json(self.copy / METRICS), files.read_tsv(self.copy / "logs/documents.tsv")

    def remove(self) -> None:
        """Delete the copy, which another search would make again."""
        shutil.rmtree(self._clone, ignore_errors=True)

    def _ran(self, *command: str, log: Path, stop: Callable[[], bool], **surroundings: str) -> bool:
        """Run a Python command in the copy; tell whether it came to its end, or was stopped."""
        told = False
        with open(log, "w", encoding="utf-8") as output:
            # In a group of its own: Ctrl-C is for this process alone, which passes it on once.
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.copy,
                env=os.environ | surroundings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            while (status := process.poll()) is None:
                if not told and (told := stop()):
                    process.terminate()
                time.sleep(_LOOK_EVERY)
        if status and not told:
            raise StageFailed(last_line(log))
        return not status

    def _save(self, name: str) -> None:
        """Make the files of the copy an experiment of this name, in the user's own repository."""
        with self._dvc() as repo:
            outputs = [out.fs_path for out in repo.index.outs if not out.use_cache and os.path.exists(out.fs_path)]
        here = ("-C", str(self.copy))
        _git(*here, "add", "--update", ".")
        _git(*here, "add", "--force", "params.yaml", *filter(os.path.exists, [str(self.copy / "dvc.lock")]), *outputs)
        tree = _git(*here, "write-tree")
        commit = _git(*here, "commit-tree", tree, "-p", self.baseline, "-m", f"tools.tune: {name}", **_AUTHOR)
        ref = f"refs/exps/{self.baseline[:2]}/{self.baseline[2:]}/{name}"
        _git(*here, "update-ref", ref, commit)
        _git(*here, "reset", "-q")
        _git("fetch", "-q", "--no-tags", "--no-write-fetch-head", str(self._clone), f"+{ref}:{ref}")

    def _configure(self) -> None:
        """Have the copy use the cache, and what else this machine has set up for DVC."""
        local = Path(".dvc/config.local")
        if local.exists():
            shutil.copy2(local, self.copy / local)
        with Repo() as repo:
            cache = os.path.relpath(repo.cache.local_cache_dir)  # DVC makes it one from the file it writes that into
        with Repo(str(self.copy)) as repo, repo.config.edit("local") as settings:
            settings["cache"]["dir"] = cache

    @contextmanager
    def _dvc(self) -> Iterator[Repo]:
        try:
            with chdir(self.copy), Repo() as repo:  # DVC looks for stages where it stands
                yield repo
        except DvcException as error:
            raise UserError(f"DVC cannot go on in {self.copy}: {printable(' '.join(str(error).split()))}") from None


def _set(path: Path, changes: Changes) -> None:
    """Change settings in a file, and leave all else in it as it is."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, sys.maxsize
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar(_NULL, "null"))
    settings = yaml.load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, key = name.split(".")
        settings[section][key] = value
    with open(path, "w", encoding="utf-8") as file:
        yaml.dump(settings, file)


def last_line(log: Path) -> str:
    """The last line that is there to be read."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return printable(next((line.strip() for line in reversed(lines) if line.strip()), ""))


def _refuse_changes() -> None:
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".").split("\n")
    names = [line.split(maxsplit=1)[-1] for line in changed if line]
    with Repo() as repo, repo.lock:
        sources = [stage for stage in repo.index.stages if stage.is_data_source]
        names += [os.path.relpath(out.fs_path) for stage in sources for out in stage.outs if stage.status()]
    if names:
        raise UserError(
            f"{printable(names[0])} is not as in the last commit, which a search starts from: commit first "
            f"({cli.command('dvc repro')} before, where results are missing), or git stash"
        )


def _git(*command: str, **more: str) -> str:
    """What git says. Raises UserError where it refuses."""
    try:
        done = subprocess.run(["git", *command], capture_output=True, check=False, env=os.environ | more)
    except FileNotFoundError:
        raise UserError("git is not installed, and a search needs it") from None
    if done.returncode:
        said = printable(" ".join(done.stderr.decode(errors="replace").split()))
        raise UserError(f"git {command[0]} failed ({said}): a search needs a git repository with a commit")
    return done.stdout.decode().rstrip("\n")
