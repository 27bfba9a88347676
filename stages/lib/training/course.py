"""What happens beside the steps of a run: curves, validation, the best weights, its end, and progress.

Validation is the pipeline's scorer. Every validation has a checkpoint of its step, and leaves the random states as they
were: a resumed run repeats the rest to the byte.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import GPT2LMHeadModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.lib.common import cli, params
from stages.lib.common.cli import UserError
from stages.lib.model import generation, scoring
from stages.lib.processes.failpoints import reach
from stages.lib.processes.group import Group
from stages.lib.processes.interruption import Interruption
from stages.lib.training import averaging, checkpoints
from stages.lib.training.board import Boards
from stages.lib.training.plan import Pace, Plan
from stages.lib.training.record import Record
from stages.lib.training.trainer import REMEDY

_TOLD = "as another process was told to"
_BAD_BASE = "the base model's weights are damaged, take another one"


class Course(TrainerCallback):
    """Follows a run: curves, checkpoints that count, validation, the best weights, the end; and progress.

    A checkpoint is written before the validation of its step. A run that is killed in between goes on with that
    validation, which `begin` makes up for. `validate` and `write_samples` get a function to call before each batch,
    which raises when somebody asked the run to stop. Of several processes each has a course: all take the same
    decisions, the first one speaks and writes.
    """

    def __init__(
        self,
        run: checkpoints.Run,
        record: Record,
        board: Boards,
        validate: Callable[[GPT2LMHeadModel, Callable[[], None]], scoring.Total],
        write_samples: Callable[[GPT2LMHeadModel, Callable[[], None]], list[generation.Continuation]],
        settings: params.Train,
        plan: Plan,
        interruption: Interruption,
        group: Group,
        pace: Pace,
    ) -> None:
        self._run, self._record, self._board = run, record, board
        self._validate, self._write_samples = validate, write_samples
        self._settings, self._plan, self._interruption, self._group = settings, plan, interruption, group
        self._bar: cli.Bar | None = None
        self._stops = False
        self._began, self._stepping = time.monotonic(), 0.0
        self._pace = pace

    def begin(self, model: GPT2LMHeadModel, step: int) -> None:
        """Validate where that is due: the base model in a fresh run, or what a kill cut short at a checkpoint."""
        if step and self._record.curve and self._record.curve[-1]["step"] == step:
            self._board.training(self._record.curve[-1])  # TensorBoard forgets from this step on
        self._validate_if_due(model, step)

    def over(self, step: int) -> bool:
        """Whether the run ends after this step: it was the last one, or validation has not got better for too long."""
        return step == self._plan.steps or self._record.validations_since_best() == self._settings.patience

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._bar = cli.progress("train", state.max_steps, " steps", state.global_step)
        self._since, self._seconds = time.monotonic(), 0.0
        self._tokens = self._record.tokens + self._record.point_tokens

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for what is due after this step."""
        reach("step taken")
        now, step = time.monotonic(), state.global_step
        took = now - self._since
        self._seconds, self._stepping, self._since = self._seconds + took, self._stepping + took, now
        due = self._due(step)
        # Asked once, for all alike: one that is told a moment later would save, or stop, without the others.
        self._stops = self._group.any(bool(self._interruption.reason))
        if self._stops and not self._interruption.reason:
            self._interruption.reason = _TOLD
        if self._stops or due:
            control.should_save = True
        if step == self._plan.steps or (due and self._settings.patience):
            control.should_log = True  # the curve must not end before the run does
        if not self._stops:
            self._bar.update()
            if left := self._pace.left(took, self._plan.steps - step, lambda: self._events_after(step)):
                cli.say(f"  {left}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Add a point to the curves."""
        if not self._record.point_tokens:
            return  # the Trainer's closing summary
        rate = logs["learning_rate"]
        point = self._record.add_point(step=state.global_step, learning_rate=rate, gradient_norm=logs["grad_norm"])
        speed = (self._record.tokens - self._tokens) / self._seconds
        self._tokens, self._seconds = self._record.tokens, 0.0
        self._board.training(point, speed)
        place = f"step {state.global_step}/{state.max_steps}"
        cli.say(f"  {place}: loss {point['loss']:.4f}, learning rate {rate:.3g}, {speed:.0f} tokens/s")
        self._since = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: GPT2LMHeadModel, **_: Any
    ) -> None:
        """Stop if asked to, now that a checkpoint counts; otherwise validate."""
        step = state.global_step
        if self._stops or self._group.first:  # which the others follow
            self._interruption.check(f"at step {step} of {self._plan.steps}")
        self._validate_if_due(model, step)
        control.should_training_stop = self.over(step)
        self._since = time.monotonic()

    def times(self) -> str:
        """How long the steps have taken since this process began, and how long all that is around them."""
        aside = time.monotonic() - self._began - self._stepping
        return f"{self._stepping:.0f} s of steps, {aside:.0f} s of validation, checkpoints and curves"

    def close(self) -> None:
        """Leave the terminal tidy, however the run ended."""
        if self._bar is not None:
            self._bar.close()

    def _events_after(self, step: int) -> tuple[int, int]:
        """How many validations and checkpoints are to come."""
        to_come = range(step + 1, self._plan.steps + 1)
        looks = 2 * averaging.LOOKS if self._settings.toward_base == "auto" and self._record.validation else 0
        return looks + sum(map(self._due, to_come)), sum(self._plan.saves_after(one, self._settings) for one in to_come)

    def _due(self, step: int) -> bool:
        return self._plan.validates_after(step, self._settings)

    def _validate_if_due(self, model: GPT2LMHeadModel, step: int) -> None:
        if not self._due(step):
            return

        def check() -> None:
            if self._group.first:  # which the others follow
                self._interruption.check(f"at step {step} of {self._plan.steps}")

        began = time.monotonic()
        total = self._validate(model, check)
        # As in training, the token that closes each document counts here.
        counted = total.tokens + total.documents
        mean = (total.nats + total.end_of_text_nats) / counted if counted else None
        if mean is not None and not math.isfinite(mean):
            raise UserError(f"the validation loss is not finite at step {step}: {REMEDY if step else _BAD_BASE}")
        if self._group.first or self._settings.sharding == "full":  # which takes all processes
            self._board.samples(step, [one.text for one in self._write_samples(model, check)])
        self._pace.validation = time.monotonic() - began
        if mean is not None:
            self._take_in({"step": step, "bits_per_byte": total.bits_per_byte, "loss": mean})

    def _take_in(self, point: dict[str, float]) -> None:
        """Show a validation, and keep the weights if it is the best so far."""
        self._board.validation(point)
        cli.say(f"  step {point['step']}: validation {point['bits_per_byte']:.4f} bits per byte")
        if self._record.add_validation(point) and self._settings.keep == "best" and self._group.first:
            self._run.keep_best(point["step"])
