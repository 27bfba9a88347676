"""What differs between two runs of the pipeline: entry by entry of dvc.lock, figure by figure.

On the same kind of machine nothing may. On another kind the data stages still make the same bytes; training rounds
differently, so its outputs and what is made from them have other bytes, and their figures agree within TOLERANCES.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.common import cli

LOCK = "dvc.lock"
TRAINING = "logs/train.json"
# How far a figure may be from the committed one, relative to it, where another kind of machine made it. Counts and
# settings are the same everywhere. The base model is scored in float32, where only the order of sums differs: 1e-7 was
# seen between AVX2 and AVX-512. Training goes another way from the first rounding on: on the sample corpus one thread
# against two made 3e-5 of the tuned model's bits per byte, float32 against bfloat16 7e-5, another seed 5e-4.
# A figure that is not here (shares among a few samples, texts drawn) may be anything.
TOLERANCES = {
    TRAINING: {
        "steps": 0.0,
        "tokens": 0.0,
        "learning_rate": 0.0,
        "parameters": 0.0,
        "trained_parameters": 0.0,
        "validation_bits_per_byte": 0.005,
    },
    "logs/evaluate.json": {
        "documents": 0.0,
        "bytes": 0.0,
        "tokens": 0.0,
        "words": 0.0,
        "base.nats": 1e-5,
        "base.bits_per_byte": 1e-5,
        "base.perplexity": 1e-4,
        "tuned.nats": 0.005,
        "tuned.bits_per_byte": 0.005,
    },
}
ABSENT = "not there"
# Where a run may end early, how many steps it takes depends on its figures.
OF_THE_LENGTH = ("steps", "tokens")


@dataclass(frozen=True)
class Run:
    """A run of the pipeline: the stages of its dvc.lock, and those outputs that git keeps, by path."""

    stages: dict[str, Any]
    files: dict[str, bytes]

    @property
    def outputs(self) -> dict[str, tuple[str, str]]:
        """The stage and the hash of every output, by path."""
        return {out["path"]: (name, out["md5"]) for name, stage in self.stages.items() for out in stage.get("outs", ())}

    def figures(self, path: str) -> dict[str, Any]:
        """The figures of the JSON file `path` by name, nested names joined by dots; empty where there is no such file.

        Raises UserError when the file is no JSON.
        """
        if path not in self.files:
            return {}
        try:
            return dict(_flat(json.loads(self.files[path])))
        except ValueError as error:
            raise cli.UserError(f"{path} is no JSON ({error}): bring it back with git checkout {path}") from None


@dataclass(frozen=True)
class Difference:
    """One line of the table; `allowed` where another kind of machine may make that difference."""

    stage: str
    what: str
    committed: str
    made: str
    allowed: bool


def read_run(folder: Path) -> Run:
    """The run that `folder` holds, with those of its outputs that are files and there.

    Raises UserError when there is no dvc.lock or it cannot be read.
    """
    try:
        content = YAML(typ="safe", pure=True).load((folder / LOCK).read_text(encoding="utf-8"))
        run = Run(content["stages"], {})
        files = {path: (folder / path).read_bytes() for path in run.outputs if (folder / path).is_file()}
    except FileNotFoundError:
        raise cli.UserError(f"there is no {LOCK}: run {cli.command('dvc repro')}, then commit it") from None
    except (YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise cli.UserError(
            f"{LOCK} cannot be read ({reason}): git checkout {LOCK}, or run {cli.command('dvc repro')}"
        ) from None
    return Run(run.stages, files)


def environments_differ(committed: Run, made: Run) -> list[str]:
    """What differs between the kinds of machine of two runs, in words; nothing where they are of the same kind."""
    before, now = (
        {name: value for name, value in run.figures(TRAINING).items() if name.startswith("environment.")}
        for run in (committed, made)
    )
    return [
        f"{name.removeprefix('environment.')} {before.get(name, 'not known')} -> {now.get(name, 'not known')}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]


def compare(committed: Run, made: Run) -> list[Difference]:
    """Every difference, in the order of the stages."""
    same_kind = not environments_differ(committed, made)
    found = []
    for name in dict.fromkeys((*made.stages, *committed.stages)):
        if name not in made.stages:
            found.append(Difference(name, "stage", f"in {LOCK}", "not in dvc.yaml", False))
        elif name not in committed.stages:
            found.append(Difference(name, "stage", f"not in {LOCK}", "ran", False))
        else:
            found += _inputs(name, committed, made)
            found += _outputs(name, committed, made, same_kind)
    return found


def _inputs(name: str, committed: Run, made: Run) -> Iterator[Difference]:
    """Command, settings and sources of a stage: what the committed lock says it ran with, against what is committed."""
    before, now = committed.stages[name], made.stages[name]
    if before["cmd"] != now["cmd"]:
        yield Difference(name, "command", before["cmd"], now["cmd"], False)
    old, new = _settings(before), _settings(now)
    for key in dict.fromkeys((*new, *old)):
        if old.get(key) != new.get(key):
            yield Difference(name, f"setting {key}", str(old.get(key)), str(new.get(key)), False)
    old, new = ({dep["path"]: dep.get("md5") for dep in stage.get("deps", ())} for stage in (before, now))
    for path in dict.fromkeys((*new, *old)):
        if path in committed.outputs:  # of an earlier stage, where a difference is shown; but was it that output?
            made_by, expected = committed.outputs[path]
            if path in old and old[path] != expected:
                yield Difference(name, f"input {path}", _short(old[path]), f"{_short(expected)} from {made_by}", False)
        elif not _inside_an_output(path, made) and old.get(path) != new.get(path):
            yield Difference(name, f"input {path}", _short(old.get(path)), _short(new.get(path)), False)


def _inside_an_output(path: str, run: Run) -> bool:
    return any(path == out or path.startswith(f"{out}/") for out in run.outputs)


def _outputs(name: str, committed: Run, made: Run, same_kind: bool) -> Iterator[Difference]:
    before, now = (
        {path: md5 for path, (stage, md5) in run.outputs.items() if stage == name} for run in (committed, made)
    )
    may_differ = not same_kind and name not in cli.DATA_STAGES
    for path in dict.fromkeys((*now, *before)):
        if path in committed.files:
            stored = hashlib.md5(committed.files[path], usedforsecurity=False).hexdigest()
            if path in before and stored != before[path]:
                yield Difference(name, f"{path} in git", _short(before[path]), _short(stored), False)
        if before.get(path) != now.get(path):
            allowed = may_differ and path in before and path in now
            yield Difference(name, path, _short(before.get(path)), _short(now.get(path)), allowed)
        if path.endswith(".json"):
            yield from _figures(name, path, committed, made, may_differ)


def _figures(name: str, path: str, committed: Run, made: Run, may_differ: bool) -> Iterator[Difference]:
    before, now = committed.figures(path), made.figures(path)
    tolerances = TOLERANCES.get(path, {})
    if _settings(made.stages.get("train", {})).get("train.patience"):
        tolerances = {key: value for key, value in tolerances.items() if key not in OF_THE_LENGTH}
    if not may_differ:
        tolerances = {}
    compared = {*now, *before, *tolerances} if path in committed.files else tolerances
    for key in sorted(compared):
        old, new = before.get(key, ABSENT), now.get(key, ABSENT)
        if old != new or old is ABSENT:  # a figure that is to be compared and is not there proves nothing
            within = key not in tolerances or _close(old, new, tolerances[key])
            yield Difference(name, f"{path}: {key}", str(old), str(new), may_differ and within)


def _settings(stage: dict[str, Any]) -> dict[str, Any]:
    return dict(_flat(stage.get("params", {}).get("params.yaml", {})))


def _close(old: Any, new: Any, tolerance: float) -> bool:
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return numbers and abs(new - old) <= tolerance * abs(old)


def _short(md5: str | None) -> str:
    return "none" if md5 is None else md5[:8]


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
