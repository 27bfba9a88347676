"""What git and DVC know of a file. That is what enters commits, and what an experiment's copy of the project has."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ruamel.yaml import YAML


def known_to_git_or_dvc(path: str) -> bool:
    """Whether all of a file or folder is in git's index, or in DVC, by itself or in a folder.

    When `dvc exp run` works in a copy of the project, no other file is there.
    """
    if made_by_a_stage(path) or any(Path(f"{place}.dvc").is_file() for place in (Path(path), *Path(path).parents)):
        return True
    return bool(_git("ls-files", path)) and not _git("ls-files", "--others", path)


def made_by_a_stage(path: str) -> bool:
    """Whether a stage of dvc.yaml, as somebody may add one, has the file or folder among its outputs."""
    stages = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    outputs = {out if isinstance(out, str) else next(iter(out)) for stage in stages for out in stage.get("outs", ())}
    return any(str(place) in outputs for place in (Path(path), *Path(path).parents))


def changed_in_git(path: str) -> bool:
    """Whether git tracks a file that is not as in the last commit: the next one, or an experiment, will hold it."""
    return bool(_git("ls-files", path)) and bool(_git("diff", "--name-only", "HEAD", "--", path))


def would_enter_git(path: str) -> bool:
    """Whether the next `git add .` takes a file, or files of a folder, that git does not track yet."""
    return bool(_git("ls-files", "--others", "--exclude-standard", "--", path))


def committed(path: str | Path) -> bytes:
    """What a file of this folder held in the last commit; nothing where git cannot tell."""
    return _git("show", f"HEAD:./{path}")


def _git(*command: str) -> bytes:
    """What git says; nothing where it is not installed, or has nothing to do with this folder."""
    try:
        return subprocess.run(["git", *command], capture_output=True, check=False).stdout
    except FileNotFoundError:
        return b""
