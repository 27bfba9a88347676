"""How long a run is, and how fast it learns: what follows from the settings before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stages.lib.common import params

LOG_POINTS = 20  # a curve of fewer points shows nothing
GPT2_PARAMETERS = 124_439_808
GPT2_RATE = 5e-5


@dataclass(frozen=True)
class Plan:
    """How long a run is."""

    steps_per_epoch: int
    steps: int
    logging_steps: int  # between two points of the curve

    @classmethod
    def of(cls, settings: params.Train, rows: int) -> Plan:
        """The length of a run over `rows` packed rows."""
        steps_per_epoch = math.ceil(rows / (settings.batch_size * settings.gradient_accumulation_steps))
        steps = steps_per_epoch * settings.epochs
        # Fewer steps to a point where the curve would have less than some twenty of them.
        return cls(steps_per_epoch, steps, min(settings.logging_steps, max(1, steps // LOG_POINTS)))


def learning_rate(setting: float | str, parameters: int, lora: bool = False) -> float:
    """The peak learning rate: the setting or, for `auto`, 5e-5 x (124 M / parameters) ^ 0.75, ten times that with LoRA.

    Small models bear, and in few steps need, larger steps. The rule meets two points: the customary 5e-5 at GPT-2's
    124 M, and 5e-4 at the embedded model's 5.7 M, the best of those tried there (model/embedded/README.md).
    """
    if setting == "auto":
        # Three significant digits: a rate that a person can read and type.
        return float(f"{(10 if lora else 1) * GPT2_RATE * (GPT2_PARAMETERS / parameters) ** 0.75:.2e}")
    return float(setting)
