"""Training, on Hugging Face's Trainer, with what it would quietly get wrong done here.

- The loss of a step is its nats over its predicted tokens, whatever the batches and their padding: left to itself,
  the Trainer counts one token a row too many for GPT-2 (transformers 5.18).
- The curve's points are totals over totals since the point before, and survive a resume; the Trainer's are means of
  means, and lose what a resumed run had added up.
- Validation runs at the end of every epoch, before the checkpoint of that step is written, with the pipeline's scorer.
  A checkpoint therefore holds everything up to its step, and a resumed run repeats the rest to the byte.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import (
    GPT2LMHeadModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from stages.lib import checkpoints, devices, files, models, params, scoring
from stages.lib.cli import UserError

LOG_POINTS = 20  # a curve of fewer points shows nothing
GPT2_PARAMETERS = 124_439_808
GPT2_RATE = 5e-5
_RECORD = "record.json"


def learning_rate(setting: float | str, parameters: int) -> float:
    """The peak learning rate: the setting itself or, for `auto`, 5e-5 x (124 M / parameters) ^ 0.75.

    Small models bear, and in few steps need, larger steps. The rule meets two points: the customary 5e-5 at GPT-2's
    124 M, and 5e-4 at the embedded model's 5.7 M, the best of those tried there (model/embedded/README.md).
    """
    if setting == "auto":
        # Three significant digits: a rate that a person can read and type.
        return float(f"{GPT2_RATE * (GPT2_PARAMETERS / parameters) ** 0.75:.2e}")
    return float(setting)


def logging_steps(setting: int, steps: int) -> int:
    """Steps between two points of the curves: the setting, or fewer where the run would show under some twenty."""
    return min(setting, max(1, steps // LOG_POINTS))


@dataclass
class Record:
    """What a run has to say about itself; part of every checkpoint."""

    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_bits_per_byte: float | None = None
    tokens: int = 0  # predicted so far
    point_nats: float = 0.0  # since the last point of the curve
    point_tokens: int = 0

    def add_point(self, **point: float) -> dict[str, float]:
        """Close the point of the curve that was being added up."""
        self.curve.append({**point, "loss": self.point_nats / self.point_tokens})
        self.point_nats, self.point_tokens = 0.0, 0
        return self.curve[-1]


class Trainer(transformers.Trainer):
    """The Trainer with the pipeline's loss. `record` is told what each batch came to.

    With `bfloat16` the forward pass of a training step runs in mixed precision. That is done here and not by the
    Trainer's own option, which changes the model itself, so that validation would run in bfloat16 too.
    """

    record: Record
    bfloat16: bool

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Nats of this batch over the predicted tokens of the whole step, so that a step's batches add up."""
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bfloat16):
            nats = scoring.next_token_nats(model, **inputs).sum()
        self.record.point_nats += nats.item()
        self.record.point_tokens += int((inputs["labels"] != scoring.IGNORE).sum())
        return nats / num_items_in_batch


class Course(TrainerCallback):
    """Follows a run: curves, validation, the best weights, checkpoints that count, progress."""

    def __init__(
        self,
        run: checkpoints.Run,
        record: Record,
        validate: Callable[[], scoring.Total],
        settings: params.Train,
        steps_per_epoch: int,
        events: Path,
    ) -> None:
        self._run, self._record, self._validate, self._settings = run, record, validate, settings
        self._steps_per_epoch, self._events = steps_per_epoch, events

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the curves and, in a fresh run, measure the base model as step 0."""
        # purge_step hides what an interrupted run had drawn after the checkpoint it goes on from.
        self._board = SummaryWriter(str(self._events), purge_step=state.global_step + 1 if state.global_step else None)
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit=" steps", disable=None)
        self._clock, self._clock_tokens = time.monotonic(), self._record.tokens
        if state.global_step == 0:
            self._validation_point(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: GPT2LMHeadModel, **_: Any
    ) -> None:
        """Validate at the end of an epoch, keep the best weights, and ask for a checkpoint."""
        self._bar.update()
        if not math.isfinite(self._record.point_nats):
            raise UserError(
                f"the loss is not finite at step {state.global_step}: lower train.learning_rate in params.yaml"
            )
        last = state.global_step == state.max_steps
        if last:
            control.should_log = control.should_save = True
        # Before the checkpoint of this step and not at the end of the epoch, which comes after it: a run that was
        # killed in between would otherwise go on without this validation.
        if state.global_step % self._steps_per_epoch == 0 or last:
            bits_per_byte = self._validation_point(state.global_step)
            best = self._record.best_bits_per_byte
            if bits_per_byte is not None and (best is None or bits_per_byte < best):
                self._record.best_step, self._record.best_bits_per_byte = state.global_step, bits_per_byte
                with files.new_folder(self._run.best(state.global_step)) as folder:
                    models.save(model, folder)
            control.should_save = True

    def _validation_point(self, step: int) -> float | None:
        total = self._validate()
        if not total.documents:
            return None
        # As in training, the closing <|endoftext|> of each document counts here.
        loss = (total.nats + total.end_of_text_nats) / (total.tokens + total.documents)
        self._record.validation.append({"step": step, "bits_per_byte": total.bits_per_byte, "loss": loss})
        self._board.add_scalar("validation/bits_per_byte", total.bits_per_byte, step)
        self._board.add_scalar("validation/loss", loss, step)
        self._bar.write(f"  step {step}: validation {total.bits_per_byte:.4f} bits per byte")
        return total.bits_per_byte

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
        self._record.tokens += self._record.point_tokens
        rate = logs["learning_rate"]
        point = self._record.add_point(step=state.global_step, learning_rate=rate, gradient_norm=logs["grad_norm"])
        for name in ("loss", "learning_rate", "gradient_norm"):
            self._board.add_scalar(f"train/{name}", point[name], state.global_step)
        now = time.monotonic()
        speed = (self._record.tokens - self._clock_tokens) / (now - self._clock)
        self._clock, self._clock_tokens = now, self._record.tokens
        self._board.add_scalar("train/tokens_per_second", speed, state.global_step)
        place = f"step {state.global_step}/{state.max_steps}"
        self._bar.write(f"  {place}: loss {point['loss']:.4f}, learning rate {rate:.3g}, {speed:.0f} tokens/s")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the record beside what the Trainer saved, and make the checkpoint count."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files.write_json(checkpoint / _RECORD, asdict(self._record))
        self._run.seal(checkpoint, self._settings.save_total_limit)
        self._run.keep_best(self._record.best_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close what is open."""
        self._bar.close()
        self._board.close()


def trainer(
    model: GPT2LMHeadModel,
    rows: Any,
    settings: params.Train,
    steps: int,
    output: Path,
    collate: Callable[[Any], dict[str, torch.Tensor]],
) -> Trainer:
    """The Trainer for `model` over packed `rows`, silent, with the settings of params.yaml under its own names."""
    on_gpu = devices.choose().type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=learning_rate(settings.learning_rate, model.num_parameters()),
        lr_scheduler_type=settings.scheduler if settings.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        seed=settings.seed,
        data_seed=settings.seed,
        logging_strategy="steps",
        logging_steps=logging_steps(settings.logging_steps, steps),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=None,  # older checkpoints go when the new one counts, not before
        eval_strategy="no",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    # One process drives one GPU; left alone, the Trainer would spread each batch over all it finds (DataParallel).
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    made = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    made.remove_callback(PrinterCallback)
    made.bfloat16 = on_gpu and torch.cuda.is_bf16_supported()
    return made


def load_record(checkpoint: Path) -> Record:
    """The record as it was when the checkpoint was written."""
    return Record(**files.read_json(checkpoint / _RECORD))
