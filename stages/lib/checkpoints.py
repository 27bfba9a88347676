"""The checkpoints of training runs under way.

They live in `model/checkpoints/<fingerprint>/` of the main repository, also when DVC runs the stage in a copy of it.
The fingerprint is the SHA-256 of everything the run depends on: so a changed setting starts fresh, and changing it
back goes on where that run was left.

A checkpoint counts when its manifest, written last, matches its files; one that a kill left half-written does not.
Older checkpoints go only after the new one's manifest is there. A run that has delivered its model is marked finished
and never resumed; its checkpoints stay until the next run starts. Those of unfinished runs stay until their run ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.lib import files
from stages.lib.cli import UserError, say

_MANIFEST = "manifest.json"
_FINISHED = "finished"


def main_repository() -> Path:
    """The repository the user works in; `dvc exp run --temp` runs the stages in a copy of it."""
    return Path(os.environ.get("DVC_ROOT", "."))


def fingerprint(stage: str, **facts: Any) -> str:
    """The SHA-256 over the contents of the stage's `deps` in dvc.yaml and over `facts`, in hexadecimal."""
    pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    dependencies = {path: files.sha256_of_tree(path) for path in pipeline["stages"][stage]["deps"]}
    return hashlib.sha256(files.to_json({"deps": dependencies, **facts}).encode()).hexdigest()


class Run:
    """The folder of one run's checkpoints."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.folder = main_repository() / "model" / "checkpoints" / fingerprint

    @contextmanager
    def started(self) -> Iterator[None]:
        """Hold the run while training: no second trainer may write here, and a finished run begins again.

        Raises UserError when another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UserError(
                    f"another process (pid {lock.read()}) is training with the very same inputs: wait, or stop it"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            if (self.folder / _FINISHED).exists():
                for checkpoint in self.folder.iterdir():
                    if checkpoint.is_dir():
                        shutil.rmtree(checkpoint)
                (self.folder / _FINISHED).unlink()
            for other in self.folder.parent.iterdir():
                if other != self.folder:
                    _remove_if_finished(other)
            yield

    def seal(self, checkpoint: Path, keep: int) -> None:
        """Write the manifest that makes `checkpoint` count, then delete all but the `keep` newest checkpoints."""
        for path in checkpoint.rglob("*"):
            files.sync(path)
        files.write_json(checkpoint / _MANIFEST, _hashes(checkpoint))
        for old in self._newest_first()[keep:]:
            shutil.rmtree(old)

    def latest(self) -> Path | None:
        """The newest checkpoint whose files match its manifest; those after it are deleted, with a warning."""
        for checkpoint in self._newest_first():
            manifest = checkpoint / _MANIFEST
            if manifest.exists() and files.read_json(manifest) == _hashes(checkpoint):
                return checkpoint
            say(f"warning: {checkpoint.name} is damaged or was never finished; the one before it is used")
            shutil.rmtree(checkpoint)
        return None

    def best(self, step: int) -> Path:
        """Where the weights of the best step so far are: beside the checkpoints, and not counted among them."""
        return self.folder / f"best-{step}"

    def keep_best(self, step: int | None) -> None:
        """Delete the best weights of other steps; called once a checkpoint that names `step` counts."""
        for path in self.folder.glob("best-*"):
            if step is None or path != self.best(step):
                shutil.rmtree(path)

    def finish(self) -> None:
        """Mark the run as done: its model is delivered."""
        files.write_text(self.folder / _FINISHED, "")

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))


def _remove_if_finished(folder: Path) -> None:
    """Delete the checkpoints of a finished run, unless somebody is at it again."""
    if not (folder / _FINISHED).exists():
        return
    with open(folder / "lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder)


def _hashes(checkpoint: Path) -> dict[str, str]:
    hashes = files.sha256_of_tree(checkpoint)
    hashes.pop(_MANIFEST, None)
    return hashes
