"""How long a run is, and how fast it learns, by the settings; and how long that takes, by its first steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset

from stages.lib.common import cli, params
from stages.lib.model import devices, models
from stages.lib.rows import batches

LOG_POINTS = 20  # a curve of fewer points shows nothing
GPT2_PARAMETERS = 124_439_808
GPT2_RATE = 5e-5
_STEPS_TO_TELL, _SECONDS_TO_TELL = 3, 5.0  # how many steps, and of how many seconds, tell the pace
_WRITTEN = 200e6  # bytes of a checkpoint in a second, hashed and safe on the disk, as measured


@dataclass(frozen=True)
class Plan:
    """How long a run is."""

    rows: int
    batches: int  # that make one step, over all processes
    steps_per_epoch: int
    steps: int
    logging_steps: int  # between two points of the curve

    @classmethod
    def of(cls, settings: params.Train, rows: int, processes: int = 1) -> Plan:
        """The length of a run over `rows` packed rows, for so many processes."""
        batches = settings.gradient_accumulation_steps * processes
        steps_per_epoch = math.ceil(rows / (settings.batch_size * batches))
        steps = settings.max_steps or math.ceil(steps_per_epoch * settings.epochs)
        # Fewer steps to a point where the curve would have less than some twenty of them.
        return cls(rows, batches, steps_per_epoch, steps, min(settings.logging_steps, max(1, steps // LOG_POINTS)))

    def validates_after(self, step: int, settings: params.Train) -> bool:
        """Whether validation belongs to this step: after each epoch, at the end, and as often as it was asked for."""
        every = settings.eval_steps
        return step % self.steps_per_epoch == 0 or step == self.steps or bool(every and step % every == 0)

    def saves_after(self, step: int, settings: params.Train) -> bool:
        """Whether a checkpoint belongs to this step: with every validation, and as often as it was asked for."""
        return step % settings.save_steps == 0 or self.validates_after(step, settings)


@dataclass(frozen=True)
class Task:
    """What is to be trained, for how long, and how it is computed here."""

    settings: params.Train
    rows: Dataset
    plan: Plan
    speed: devices.Speed
    device: torch.device

    @classmethod
    def of(cls, tokens: Path, base: Path, settings: params.Train, device: torch.device, processes: int = 1) -> Task:
        """The task that the settings set, over the training rows in `tokens`, for steps of so many processes.

        Raises UserError where this device cannot compute as they ask for.
        """
        rows = batches.open_rows(tokens, "train")
        plan = Plan.of(settings, len(rows), processes)
        speed = devices.choose_speed(settings, device, plan.steps, models.head_width(base))
        return cls(settings, rows, plan, speed, device)


class Pace:
    """How fast a run is, by the first steps that a process takes; told once, when it can be."""

    def __init__(self, written: int) -> None:
        self.validation: float | None = None  # seconds of one; a run that goes on has not seen any
        self._checkpoint = written / _WRITTEN
        self._counted, self._seconds = -1, 0.0  # steps, without the first one, and what they took
        self._told = False

    def left(self, seconds: float, steps: int, events: Callable[[], tuple[int, int]]) -> str | None:
        """After a step of so many seconds: how long the steps that are left will take, or None.

        `events` tells how many validations and checkpoints are left. The first step is not counted, as it sets things
        up.
        """
        if self._told:
            return None
        self._counted += 1
        self._seconds += seconds if self._counted else 0
        if self._counted < _STEPS_TO_TELL or self._seconds < _SECONDS_TO_TELL or not steps:
            return None
        self._told, step = True, self._seconds / self._counted
        validations, checkpoints = events()
        beside = validations * (self.validation or 0) + checkpoints * self._checkpoint
        whole = cli.Meter.format_interval(steps * step + beside)
        if self.validation is None:
            return f"about {whole} to go, validations left aside: {step:.2g} s a step"
        return f"about {whole} to go: {step:.2g} s a step, {self.validation:.2g} s a validation"


def learning_rate(setting: float | str, parameters: int, lora: bool = False) -> float:
    """The peak learning rate: the setting or, for `auto`, 5e-5 x (124 M / parameters) ^ 0.75, ten times that with LoRA.

    Small models bear, and in few steps need, larger steps. The rule meets two points: the customary 5e-5 at GPT-2's
    124 M, and 5e-4 at the embedded model's 5.7 M, the best of those tried there (model/embedded/README.md).
    """
    if setting == "auto":
        # Three significant digits: a rate that a person can read and type.
        return float(f"{(10 if lora else 1) * GPT2_RATE * (GPT2_PARAMETERS / parameters) ** 0.75:.2e}")
    return float(setting)
