"""What a run has to say about itself: its curve, its validations, and which of them was the best."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.lib.common import files

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
