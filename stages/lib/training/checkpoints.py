"""The checkpoints of training runs under way.

They live in `model/checkpoints/<fingerprint>/` of the main repository, also when DVC runs the stage in a copy of it.
The fingerprint is the SHA-256 of everything the run depends on: so a changed setting starts fresh, and changing it
back goes on where that run was left.

A checkpoint counts when its manifest, written last, matches its files and the best weights that it names; one that a
kill left half-written does not. Older checkpoints go only after the new one's manifest is there.

The disk stays bounded. A run that has delivered its model, recorded by `dvc`, is finished and never resumed; its
checkpoints stay until the next run starts. Of the runs that were left unfinished, the `ABANDONED` latest stay.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from stages.lib.common import cli, files, parents
from stages.lib.common.cli import UserError
from stages.lib.processes.failpoints import reach
from stages.lib.processes.interruption import Interruption
from stages.lib.training.environment import inputs

ABANDONED = 3  # unfinished runs whose checkpoints are kept, besides the one at work
_MANIFEST = "manifest.json"
_FINISHED = "finished"
_OF_A_MODEL = (".safetensors", "config.json")  # how files end that a model is loaded from
_LOOK_EVERY = 0.2  # seconds


def main_repository() -> Path:
    """The repository the user works in; `dvc exp run --temp` runs the stages in a copy of it."""
    return Path(os.environ.get("DVC_ROOT", "."))


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


class Run:
    """The folder of one run's checkpoints."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.folder = main_repository() / "model" / "checkpoints" / fingerprint
        self._best_hashes: dict[int, dict[str, str]] = {}

    @contextmanager
    def started(self, interruption: Interruption) -> Iterator[None]:
        """Hold the run while training: no second trainer may write here, and a finished run begins again.

        One whose results `dvc` did not get to record goes on from its end, to hand them over once more. Waits for a
        trainer whose `dvc` is gone, which ends by itself. Raises UserError when another one is at it.
        """
        with self._locked(interruption):
            if (mark := self.folder / _FINISHED).exists():
                for checkpoint in self.folder.iterdir() if _recorded(mark.read_text(encoding="utf-8")) else ():
                    if checkpoint.is_dir():
                        shutil.rmtree(checkpoint)
                mark.unlink()
            self._make_room()
            yield

    @contextmanager
    def _locked(self, interruption: Interruption) -> Iterator[None]:
        told = False
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                opened = open(self.folder / "lock", "a+", encoding="utf-8")  # noqa: SIM115
            except (FileNotFoundError, FileExistsError):  # another trainer clears it away, as nothing was in it yet
                continue
            with opened as lock:
                if _lock(lock):
                    lock.truncate(0)
                    lock.write(json.dumps({"pid": os.getpid(), "dvc": parents.dvc()}))
                    lock.flush()
                    try:
                        yield
                    finally:
                        lock.truncate(0)
                    return
                lock.seek(0)
                holder = lock.read()
            # Empty for the moment it takes a holder to sign, or to delete the folder.
            if holder and not told:
                pid, dvc = json.loads(holder).values()
                if dvc is None or parents.lives(*dvc):
                    raise UserError(
                        f"another process (pid {pid}) is training with the very same inputs: wait, or stop it"
                    )
                cli.say(f"waiting for process {pid}, whose dvc is gone, to write its checkpoint and end")
                told = True
            time.sleep(_LOOK_EVERY)
            interruption.check("before the first step")

    def _make_room(self) -> None:
        """Delete the checkpoints of finished runs, and of those unfinished ones that were left the longest ago."""
        unfinished: list[tuple[float, Path]] = []
        for other in self.folder.parent.iterdir():
            if not other.is_dir() or other == self.folder:
                continue
            if (other / _FINISHED).exists() or not any(other.glob("checkpoint-*")):
                _remove_unless_held(other)
            else:
                with suppress(FileNotFoundError):  # another trainer makes room, too
                    unfinished.append((other.stat().st_mtime, other))
        for _, folder in sorted(unfinished)[:-ABANDONED]:
            if _remove_unless_held(folder):
                cli.say(f"warning: deleted {folder}, a run left unfinished before {ABANDONED} others were")

    def has_unfinished_others(self) -> bool:
        """Whether checkpoints are kept of runs that other inputs, settings, code or libraries had begun."""
        return any(path.parent != self.folder for path in self.folder.parent.glob("*/checkpoint-*"))

    def seal(self, checkpoint: Path, best_step: int | None) -> None:
        """Write the manifest that makes `checkpoint` count. `best_step` names the best weights it relies on, if any."""
        with ThreadPoolExecutor(1) as disk:  # which is slow, and leaves the time to hash
            synced = disk.map(files.sync, sorted(checkpoint.rglob("*")))
            described = self._described(checkpoint, best_step, self._best_hashes)
            list(synced)
        files.write_json(checkpoint / _MANIFEST, described)
        # Its name, too, before that of an older one goes: and those of the folders above, which may be new.
        for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
            files.sync(folder)
        reach("checkpoint sealed")

    def keep_best(self, step: int) -> None:
        """Keep the weights of the checkpoint of a step, the best so far, for when that checkpoint is gone.

        The same files by a second name: nothing is written anew.
        """
        checkpoint = self.folder / f"checkpoint-{step}"
        hashes = files.read_json(checkpoint / _MANIFEST)["files"]
        kept = [path for path in sorted(checkpoint.iterdir()) if path.name.endswith(_OF_A_MODEL)]
        with files.new_folder(self.best(step)) as folder:
            for path in kept:
                files.link(path, folder / path.name)
            reach("best weights written")
        self._best_hashes = {step: {path.name: hashes[path.name] for path in kept}}
        reach("best weights in place")

    def discard_older(self, keep: int) -> None:
        """Delete all but the `keep` newest checkpoints, and best weights that none of those relies on."""
        newest = self._newest_first()
        for old in newest[keep:]:
            shutil.rmtree(old)
            reach("older checkpoint deleted")
        named = {self.best(step) for kept in newest[:keep] if (step := _best_step(kept)) is not None}
        for path in self.folder.glob("best-*"):
            if path not in named:
                shutil.rmtree(path)
                reach("older best weights deleted")

    def latest(self) -> Path | None:
        """The newest checkpoint that counts; those after it are deleted, with a warning."""
        for checkpoint in self._newest_first():
            # By its bytes, so that no damage to the manifest itself goes unnoticed.
            if (manifest := _manifest(checkpoint)) and (checkpoint / _MANIFEST).read_text("utf-8") == files.to_json(
                self._described(checkpoint, manifest.get("best_step"))
            ):
                return checkpoint
            cli.say(f"warning: {checkpoint.name} is damaged or was left half-written: it does not count")
            shutil.rmtree(checkpoint)
        return None

    def offered(self) -> dict[str, Path]:
        """What training reads, for machines that have it not, by its place in their project: a checkpoint included."""
        read = [Path("dvc.yaml"), Path("params.yaml"), *inputs("train")]
        newest = self.latest()
        inside = [path for path in sorted(newest.rglob("*")) if path.is_file()] if newest else []
        home = self.folder.parents[2]
        return {path.as_posix(): path for path in read} | {path.relative_to(home).as_posix(): path for path in inside}

    def newest(self) -> Path | None:
        """The checkpoint that was sealed last; for a run under way, which has looked at those it found."""
        return next((checkpoint for checkpoint in self._newest_first() if _manifest(checkpoint)), None)

    def best(self, step: int) -> Path:
        """Where the weights of the best step so far are: beside the checkpoints, and not counted among them."""
        return self.folder / f"best-{step}"

    def finish(self, figures: Path) -> None:
        """Mark the run as done: its model is delivered, with these figures, by whose MD5 `dvc` records it."""
        files.write_text(self.folder / _FINISHED, hashlib.md5(figures.read_bytes()).hexdigest())
        reach("run finished")

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"), key=step_of, reverse=True)

    def _described(
        self, checkpoint: Path, best_step: int | None, known: dict[int, dict[str, str]] | None = None
    ) -> dict[str, Any]:
        """What the manifest of a checkpoint has to say; best weights of a `known` step are not hashed again."""
        hashes = files.sha256_of_tree(checkpoint)
        hashes.pop(_MANIFEST, None)
        best = None if best_step is None else (known or {}).get(best_step) or files.sha256_of_tree(self.best(best_step))
        return {"files": hashes, "best_step": best_step, "best": best}


def _manifest(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none that can be read."""
    try:
        manifest = files.read_json(checkpoint / _MANIFEST)
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _best_step(checkpoint: Path) -> int | None:
    """The step whose best weights a checkpoint relies on; None for none, and where that cannot be read."""
    return (_manifest(checkpoint) or {}).get("best_step")


def _lock(file: IO[str]) -> bool:
    """Lock an open lock file; False when another process holds it, or when it was deleted since it was opened."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0


def _remove_unless_held(folder: Path) -> bool:
    """Delete the folder of another run, unless somebody is at it again; tell whether it was deleted."""
    with suppress(FileNotFoundError), open(folder / "lock", "a", encoding="utf-8") as lock:
        if _lock(lock):
            shutil.rmtree(folder, ignore_errors=True)  # somebody may be about to be at it
            return True
    return False


def _recorded(md5: str) -> bool:
    """Whether a run that is finished needs no further care: `dvc` has its figures in its lock, or did not start it."""
    lock = Path("dvc.lock")
    return "DVC_STAGE" not in os.environ or (lock.exists() and md5 in lock.read_text(encoding="utf-8"))
