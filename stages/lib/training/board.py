"""A run's curves and samples in TensorBoard: event files in `logs/tensorboard/<run>/`, ignored by git and DVC.

They carry times and names of machines, and so are no output of a stage; what a run has to say for good is in its TSV
files. An interrupted run that goes on draws its curves on, without a gap and without drawing a step twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import wrap

from torch.utils.tensorboard import SummaryWriter

_TRAINING = ("loss", "learning_rate", "gradient_norm")
_VALIDATION = ("loss", "bits_per_byte")
_WIDTH = 90  # characters in a line of a sample: the browser does not wrap them


class Board:
    """The event files of one run, in `parent`, under its name and the beginning of its fingerprint.

    `step` is where the run goes on from. At 0 what an earlier run of that name left is deleted; above, what the run
    itself left is taken over, under whatever name that was: an experiment that is started again has another one.
    """

    def __init__(self, parent: Path, name: str, fingerprint: str, step: int) -> None:
        self.name = f"{name}-{fingerprint[:8]}"
        folder = parent / self.name
        if step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        elif not folder.exists():
            for left in sorted(parent.glob(f"*-{fingerprint[:8]}"), key=lambda path: path.stat().st_mtime)[-1:]:
                left.rename(folder)
        # purge_step has TensorBoard forget what an interrupted run had drawn after the checkpoint it goes on from.
        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def training(self, point: dict[str, float], tokens_per_second: float | None = None) -> None:
        """Draw a point of the training curve."""
        for name in _TRAINING:
            self._writer.add_scalar(f"train/{name}", point[name], point["step"])
        if tokens_per_second is not None:
            self._writer.add_scalar("train/tokens_per_second", tokens_per_second, point["step"])
        self._writer.flush()  # a checkpoint written after this never knows more than the curve

    def validation(self, point: dict[str, float]) -> None:
        """Draw a point of the validation curve."""
        for name in _VALIDATION:
            self._writer.add_scalar(f"validation/{name}", point[name], point["step"])
        self._writer.flush()

    def samples(self, step: int, texts: list[str]) -> None:
        """Show what the model writes at this step."""
        for number, text in enumerate(texts, 1):
            lines = [part for line in text.splitlines() for part in wrap(line, _WIDTH) or [""]]
            # TensorBoard reads Markdown; a block that is indented stays as it is.
            self._writer.add_text(f"sample/{number}", "\n".join(f"    {line}" for line in lines), step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
