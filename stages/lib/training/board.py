"""What shows a run's curves while it runs: TensorBoard, and the trackers that `train.report_to` names.

TensorBoard has event files in `logs/tensorboard/<run>/`, ignored by git and DVC. They carry times and machines'
names, and so are no output of a stage; what a run has to say for good is in its TSV files. An interrupted run that goes
on draws its curves on, without a gap and without drawing a step twice. Samples stand there alone: a tracker may be on
another's machine, and gets no text, and no path of a file.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from textwrap import wrap
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from stages.lib.common import params, plain_yaml, versioned
from stages.lib.tracking import choice, trackers
from stages.lib.tracking.delivery import Delivery
from stages.lib.training import checkpoints
from stages.lib.training.record import Record

_TRAINING = ("loss", "learning_rate", "gradient_norm")
_VALIDATION = ("loss", "bits_per_byte")
_WIDTH = 90  # characters in a line of a sample: the browser does not wrap them
_NAMED = ("corpus", "base", "validate", "tokenize", "train")  # sections whose settings show in the curves
_LONGEST = 80  # bytes of what differs: a file's name may have 255
_PRIVATE = {"path", "folder", "text_field"}  # settings that a tracker does not get


def what_differs(settings: params.Params, hidden: Collection[str] = ()) -> str:
    """The settings that are not those of the last commit, as `epochs=5 seed=7`; nothing where git cannot tell.

    What a file's name does not bear has `_` in its place. Those of the names in `hidden` are left out.
    """
    try:
        committed = plain_yaml.parse(versioned.committed(params.PATH)) or {}
    except plain_yaml.Refused:
        return ""
    changed = []
    for section, values in settings.model_dump(by_alias=True).items():
        before: dict[str, Any] = committed.get(section, {}) if section in _NAMED else values
        named = before.keys() - {"report_to", *hidden}  # which makes no other run
        changed += [f"{name}={value}" for name, value in values.items() if name in named and before[name] != value]
    return re.sub(r"[^\w.,=+ -]", "_", " ".join(changed)).encode()[:_LONGEST].decode(errors="ignore")


def disclosed(settings: params.Params) -> dict[str, Any]:
    """The settings that a tracker gets, as `train.epochs`: those that shape the model, without texts and paths."""
    sections = settings.model_dump(by_alias=True)
    return {
        f"{section}.{name}": value
        for section in _NAMED
        for name, value in sections[section].items()
        if name not in {"report_to", *_PRIVATE}
    }


def _of_training(point: dict[str, float], tokens_per_second: float | None) -> dict[str, float]:
    """A point of the training curve, by the names of the curves."""
    speed = {} if tokens_per_second is None else {"train/tokens_per_second": tokens_per_second}
    return {f"train/{name}": point[name] for name in _TRAINING} | speed


def _of_validation(point: dict[str, float]) -> dict[str, float]:
    return {f"validation/{name}": point[name] for name in _VALIDATION}


class Board:
    """The event files of one run, in `parent`: by its name, the beginning of its fingerprint, and what differs in it.

    `step` is where the run goes on from. At 0 what an earlier run of that name left is deleted; above, what the run
    itself left is taken over, under whatever name that was: an experiment that is started again has another one. Where
    it left nothing, as TensorBoard was not asked for before, what `record` knows of it is drawn first.
    """

    def __init__(
        self, parent: Path, name: str, fingerprint: str, step: int, differs: str = "", record: Record | None = None
    ) -> None:
        self.name = f"{name}-{fingerprint[:8]} {differs}".rstrip()
        folder = parent / self.name
        if step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        elif not folder.exists():
            for left in sorted(parent.glob(f"*-{fingerprint[:8]}*"), key=lambda path: path.stat().st_mtime)[-1:]:
                left.rename(folder)
        to_draw = record if step and not folder.exists() else None
        # purge_step has TensorBoard forget what an interrupted run had drawn after the checkpoint it goes on from.
        self._writer = SummaryWriter(str(folder), purge_step=None if to_draw else step or None)
        if to_draw:
            _show_so_far(self, to_draw, step)  # which is drawn as the run goes on

    def training(self, point: dict[str, float], tokens_per_second: float | None = None) -> None:
        """Draw a point of the training curve."""
        self._draw(point["step"], _of_training(point, tokens_per_second))

    def validation(self, point: dict[str, float]) -> None:
        """Draw a point of the validation curve."""
        self._draw(point["step"], _of_validation(point))

    def samples(self, step: int, texts: list[str]) -> None:
        """Show what the model writes at this step."""
        for number, text in enumerate(texts, 1):
            lines = [part for line in text.splitlines() for part in wrap(line, _WIDTH) or [""]]
            # TensorBoard reads Markdown; a block that is indented stays as it is.
            self._writer.add_text(f"sample/{number}", "\n".join(f"    {line}" for line in lines), step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _draw(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a checkpoint written after this never knows more than the curve


class Reported:
    """The curves of one run in a tracker; what the run has had to say so far is made up for."""

    name = ""

    def __init__(self, delivery: Delivery, record: Record) -> None:
        self._delivery = delivery
        _show_so_far(self, record)

    def training(self, point: dict[str, float], tokens_per_second: float | None = None) -> None:
        """Report a point of the training curve."""
        self._put("train", point["step"], _of_training(point, tokens_per_second))

    def validation(self, point: dict[str, float]) -> None:
        """Report a point of the validation curve."""
        self._put("validation", point["step"], _of_validation(point))

    def samples(self, step: int, texts: list[str]) -> None:
        """Texts stay here."""

    def final(self, step: int, figures: dict[str, float | None]) -> None:
        """Report what the run came to."""
        known = {f"final/{name}": value for name, value in figures.items() if value is not None}
        self._put("final", step, known)

    def end(self, finished: bool) -> None:
        """Let the tracker know how the run ended."""
        self._delivery.end(finished)

    def close(self) -> None:
        """Wait for what is on its way."""
        self._delivery.close()

    def _put(self, kind: str, step: int, values: dict[str, float]) -> None:
        self._delivery.put((step, trackers.KINDS.index(kind)), values)


def _show_so_far(board: Board | Reported, record: Record, end: float = math.inf) -> None:
    """Show what a run has recorded before the step `end`, in the order in which it came."""
    points = [(point["step"], 0, point) for point in record.curve]
    points += [(point["step"], 1, point) for point in record.validation]
    for step, validated, point in sorted(points, key=lambda one: one[:2]):
        if step < end:
            board.validation(point) if validated else board.training(point)


class Boards:
    """All that shows a run; nothing at all in a process that is not the first one."""

    def __init__(self, *boards: Board | Reported) -> None:
        self._boards = boards
        self._finished = False
        self.name = "".join(board.name for board in boards)  # of the folder for TensorBoard, where there is one

    def training(self, point: dict[str, float], tokens_per_second: float | None = None) -> None:
        """Show a point of the training curve."""
        for board in self._boards:
            board.training(point, tokens_per_second)

    def validation(self, point: dict[str, float]) -> None:
        """Show a point of the validation curve."""
        for board in self._boards:
            board.validation(point)

    def samples(self, step: int, texts: list[str]) -> None:
        """Show what the model writes at this step."""
        for board in self._boards:
            board.samples(step, texts)

    def finished(self, step: int, figures: dict[str, float | None]) -> None:
        """Show what the run came to."""
        self._finished = True
        for board in self._boards:
            if isinstance(board, Reported):
                board.final(step, figures)

    def close(self) -> None:
        """Close them all, however the run ended."""
        for board in self._boards:
            if isinstance(board, Reported):
                board.end(self._finished)
        for board in self._boards:  # which all wait at the same time
            board.close()


def opened(settings: params.Params, run: checkpoints.Run, step: int, record: Record) -> Boards:
    """What `train.report_to` names, for a run that goes on from this step with what it has recorded.

    Runs stand side by side under the names of their experiments.
    """
    logs, name = checkpoints.main_repository() / "logs", os.environ.get("DVC_EXP_NAME") or "run"
    called = f"{name}-{run.fingerprint[:8]} {what_differs(settings, _PRIVATE)}".rstrip()
    boards: list[Board | Reported] = []
    for one in choice.named(settings.train.report_to):
        if one == "tensorboard":
            boards.append(Board(logs / one, name, run.fingerprint, step, what_differs(settings), record))
        else:
            journal = run.folder / "trackers" / f"{one}.jsonl"
            delivery = Delivery(one, trackers.TRACKERS[one](logs), journal, called, disclosed(settings))
            boards.append(Reported(delivery, record))
    return Boards(*boards)
