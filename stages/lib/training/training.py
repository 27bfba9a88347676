"""Training, on Hugging Face's Trainer, with what it would quietly get wrong done here.

- The loss of a step is its nats over its predicted tokens, whatever the batches and their padding: left to itself,
  the Trainer counts one token a row too many for GPT-2 (transformers 5.18).
- The curve's points are totals over totals since the point before, and survive a resume; the Trainer's are means of
  means, and lose what a resumed run had added up.
- Validation is the pipeline's scorer. Every validation has a checkpoint of its step, and leaves the random states as
  they were: a resumed run repeats the rest to the byte.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    GPT2LMHeadModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from stages.lib.common import cli, files, params
from stages.lib.common.cli import UserError
from stages.lib.model import devices, loss, models, scoring
from stages.lib.training import checkpoints
from stages.lib.training.board import Board
from stages.lib.training.failpoints import reach
from stages.lib.training.interruption import Interruption

LOG_POINTS = 20  # a curve of fewer points shows nothing
GPT2_PARAMETERS = 124_439_808
GPT2_RATE = 5e-5
_RECORD = "record.json"
_REMEDY = "lower train.learning_rate in params.yaml"
_BAD_BASE = "the base model's weights are damaged, take another one"


def learning_rate(setting: float | str, parameters: int, lora: bool = False) -> float:
    """The peak learning rate: the setting or, for `auto`, 5e-5 x (124 M / parameters) ^ 0.75, ten times that with LoRA.

    Small models bear, and in few steps need, larger steps. The rule meets two points: the customary 5e-5 at GPT-2's
    124 M, and 5e-4 at the embedded model's 5.7 M, the best of those tried there (model/embedded/README.md).
    """
    if setting == "auto":
        # Three significant digits: a rate that a person can read and type.
        return float(f"{(10 if lora else 1) * GPT2_RATE * (GPT2_PARAMETERS / parameters) ** 0.75:.2e}")
    return float(setting)


def model(base: Path, settings: params.Train, attention: str, source: Path | None = None) -> torch.nn.Module:
    """The model to train, with adapters for LoRA: as the base is, or as it was saved to `source` while training."""
    if not settings.lora_rank:
        whole = models.load(source or base, settings.dropout, attention)
        models.freeze(whole, settings.freeze_layers)
        return whole
    from stages.lib.model import adapters  # only here: peft takes a second to load

    torch.manual_seed(settings.seed)
    adapted = adapters.attach(
        models.load(base, settings.dropout, attention), settings.lora_rank, settings.lora_alpha, settings.dropout
    )
    if source:
        adapters.load(adapted, source)
    return adapted.eval()


def whole(model: torch.nn.Module) -> GPT2LMHeadModel:
    """The ordinary GPT-2 that a trained model is, its adapters, if it has any, merged into it."""
    return model if isinstance(model, GPT2LMHeadModel) else model.merge_and_unload()


@dataclass
class Record:
    """What a run has to say about itself; part of every checkpoint."""

    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_bits_per_byte: float | None = None
    tokens: int = 0  # predicted up to the last point of the curve
    point_nats: float = 0.0  # since the last point of the curve
    point_tokens: int = 0

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


@dataclass(frozen=True)
class Plan:
    """How long a run is."""

    steps_per_epoch: int
    steps: int
    logging_steps: int  # between two points of the curve


def plan(settings: params.Train, rows: int) -> Plan:
    """The length of a run over `rows` packed rows."""
    steps_per_epoch = math.ceil(rows / (settings.batch_size * settings.gradient_accumulation_steps))
    steps = steps_per_epoch * settings.epochs
    # Fewer steps to a point where the curve would have less than some twenty of them.
    return Plan(steps_per_epoch, steps, min(settings.logging_steps, max(1, steps // LOG_POINTS)))


class Trainer(transformers.Trainer):
    """The Trainer with the pipeline's loss. `record` is told what each batch came to.

    With `bfloat16` a training step computes in mixed precision: the weights stay float32. That is done here and not by
    the Trainer's own option, which changes the model itself, so that validation would run in bfloat16 too.
    """

    run: checkpoints.Run
    record: Record
    keep_best: bool
    save_total_limit: int
    label_smoothing: float
    bfloat16: bool

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of this batch over the predicted tokens of the whole step, so that a step's batches add up."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bfloat16):
            summed, nats = loss.summed_nats(model, **inputs, smoothing=self.label_smoothing, dtype=dtype)
        self.record.point_nats += nats.item()
        self.record.point_tokens += int((inputs["labels"] != scoring.IGNORE).sum())
        return (summed / num_items_in_batch).float()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The library's schedule, its warm-up counted from 1: counted from 0, the first step has the rate 0."""
        given = super().create_scheduler(num_training_steps, optimizer)
        warmup, after = self.args.get_warmup_steps(num_training_steps), given.lr_lambdas[0]
        self.lr_scheduler = LambdaLR(
            given.optimizer, lambda done: (done + 1) / warmup if done < warmup else after(done)
        )
        return self.lr_scheduler

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The length of the gradient; called before the optimizer's step, so that the weights are still good here."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(norm):
            what = "gradient" if math.isfinite(self.record.point_nats) else "loss"
            last = self.run.newest()
            raise UserError(
                f"the {what} is not finite at step {self.state.global_step + 1} (learning rate "
                f"{self._get_learning_rate():.3g}): {_REMEDY}; the last good checkpoint is {last or 'the base model'}"
            )
        return norm

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint with the record in it, make it count, and delete what is too old."""
        checkpoint = self.run.folder / f"checkpoint-{self.state.global_step}"
        try:
            with files.writing(self.run.folder):
                super()._save_checkpoint(model, trial)
            reach("checkpoint trainer state written")
            files.write_json(checkpoint / _RECORD, asdict(self.record))
            reach("checkpoint record written")
            self.run.seal(checkpoint, self.record.best_step if self.keep_best else None)
        except BaseException:
            # Half a checkpoint: it would not count, and a full disk needs the room.
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise
        self.run.discard_older(self.save_total_limit)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        reach("checkpoint weights written")
        super()._save_optimizer_and_scheduler(output_dir)
        reach("checkpoint optimizer written")

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        reach("checkpoint random states written")


class Course(TrainerCallback):
    """Follows a run: curves, checkpoints that count, validation, the best weights, the end; and progress.

    A checkpoint is written before the validation of its step. A run that is killed in between goes on with that
    validation, which `begin` makes up for. `validate` and `write_samples` get a function to call before each batch,
    which raises when somebody asked the run to stop.
    """

    def __init__(
        self,
        run: checkpoints.Run,
        record: Record,
        board: Board,
        validate: Callable[[GPT2LMHeadModel, Callable[[], None]], scoring.Total],
        write_samples: Callable[[GPT2LMHeadModel, Callable[[], None]], list[str]],
        settings: params.Train,
        plan: Plan,
        interruption: Interruption,
    ) -> None:
        self._run, self._record, self._board = run, record, board
        self._validate, self._write_samples = validate, write_samples
        self._settings, self._plan, self._interruption = settings, plan, interruption
        self._bar: cli.Bar | None = None
        self._began, self._stepping = time.monotonic(), 0.0

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
        now = time.monotonic()
        self._seconds += now - self._since
        self._stepping += now - self._since
        self._since = now
        due = self._due(state.global_step)
        if self._interruption.reason or due:
            control.should_save = True
        if state.global_step == self._plan.steps or (due and self._settings.patience):
            control.should_log = True  # the curve must not end before the run does
        if not self._interruption.reason:
            self._bar.update()

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

    def _due(self, step: int) -> bool:
        """Whether validation belongs to this step."""
        every = self._settings.eval_steps
        return step % self._plan.steps_per_epoch == 0 or step == self._plan.steps or bool(every and step % every == 0)

    def _validate_if_due(self, model: GPT2LMHeadModel, step: int) -> None:
        if not self._due(step):
            return

        def check() -> None:
            self._interruption.check(f"at step {step} of {self._plan.steps}")

        total = self._validate(model, check)
        # As in training, the token that closes each document counts here.
        counted = total.tokens + total.documents
        mean = (total.nats + total.end_of_text_nats) / counted if counted else None
        if mean is not None and not math.isfinite(mean):
            raise UserError(f"the validation loss is not finite at step {step}: {_REMEDY if step else _BAD_BASE}")
        self._board.samples(step, self._write_samples(model, check))
        if mean is None:
            return
        point = {"step": step, "bits_per_byte": total.bits_per_byte, "loss": mean}
        self._board.validation(point)
        cli.say(f"  step {step}: validation {total.bits_per_byte:.4f} bits per byte")
        if self._record.add_validation(point) and self._settings.keep == "best":
            with files.new_folder(self._run.best(step)) as folder:
                models.save(model, folder)
                reach("best weights written")
            reach("best weights in place")


def trainer(
    model: GPT2LMHeadModel,
    rows: Any,
    settings: params.Train,
    plan: Plan,
    run: checkpoints.Run,
    record: Record,
    collate: Callable[[Any], dict[str, torch.Tensor]],
    speed: devices.Speed,
) -> Trainer:
    """The Trainer for `model` over packed `rows`, silent, with the settings of params.yaml under its own names."""
    if speed.compile:
        model.transformer.compile(dynamic=True)  # in place: the names of the weights stay
    on_gpu = devices.choose().type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(run.folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=learning_rate(settings.learning_rate, models.parameters(model), bool(settings.lora_rank)),
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        seed=settings.seed,
        data_seed=settings.seed,
        logging_strategy="steps",
        logging_steps=plan.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=None,  # older checkpoints go when the new one counts, not before
        eval_strategy="no",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=speed.loader_workers,
        gradient_checkpointing=settings.gradient_checkpointing,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    # One process drives one GPU; left alone, the Trainer would spread each batch over all it finds (DataParallel).
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    made = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    made.remove_callback(PrinterCallback)
    made.run, made.record = run, record
    made.keep_best, made.save_total_limit = settings.keep == "best", settings.save_total_limit
    made.label_smoothing, made.bfloat16 = settings.label_smoothing, speed.precision == "bfloat16"
    return made


def load_record(checkpoint: Path) -> Record:
    """The record as it was when the checkpoint was written."""
    return Record(**files.read_json(checkpoint / _RECORD))
