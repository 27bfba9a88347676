"""What a run has to say about itself: its curve, its validations, and which of them was the best."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.lib.common import files

CURVE, VALIDATION = Path("logs/train_loss.tsv"), Path("logs/validation.tsv")
_FILE = "record.json"


@dataclass
class Record:
    """What a run has to say so far; part of every checkpoint."""

    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_bits_per_byte: float | None = None
    tokens: int = 0  # predicted up to the last point of the curve
    point_nats: float = 0.0  # since the last point of the curve
    point_tokens: int = 0
    threads: int | None = None  # that compute, where their number changes bytes

    def add_point(self, **point: float) -> dict[str, float]:
        """Close the point of the curve that was being added up."""
        self.curve.append({**point, "loss": self.point_nats / self.point_tokens})
        self.tokens += self.point_tokens
        self.point_nats, self.point_tokens = 0.0, 0
        return self.curve[-1]

    def add_validation(self, point: dict[str, float]) -> bool:
        """Add a validation and tell whether it is the best so far. The base model, at step 0, is not in the race."""
        self.validation.append(point)
        best = self.best_bits_per_byte
        if point["step"] == 0 or (best is not None and point["bits_per_byte"] >= best):
            return False
        self.best_step, self.best_bits_per_byte = point["step"], point["bits_per_byte"]
        return True

    def bits_at(self, step: int) -> float | None:
        """The validation after a step, in bits per byte; of the base at step 0. None where there was none."""
        return next((point["bits_per_byte"] for point in self.validation if point["step"] == step), None)

    def kept(self, which: str, steps: int) -> dict[str, float | None]:
        """Which step's weights are kept, the `best` or the `last`, and their validation, where there is one."""
        step = self.best_step if which == "best" and self.best_step is not None else steps
        return {"best_step": step, "validation_bits_per_byte": self.bits_at(step)}

    def validations_since_best(self) -> int:
        """How many validations there were after the best one."""
        return sum(self.best_step is not None and point["step"] > self.best_step for point in self.validation)

    @classmethod
    def read(cls, checkpoint: Path) -> Record:
        """The record as it was when the checkpoint was written."""
        return cls(**files.read_json(checkpoint / _FILE))

    def write(self, checkpoint: Path) -> None:
        """Put it into a checkpoint."""
        files.write_json(checkpoint / _FILE, asdict(self))

    def write_curves(self) -> None:
        """Write `CURVE` and `VALIDATION`."""
        for path, header, points in (
            (CURVE, ["step", "loss", "learning_rate", "gradient_norm"], self.curve),
            (VALIDATION, ["step", "bits_per_byte", "loss"], self.validation),
        ):
            files.write_tsv(path, header, ([point[name] for name in header] for point in points))
