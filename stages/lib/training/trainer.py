"""Hugging Face's Trainer, with what it would quietly get wrong done here.

- The loss of a step is its nats over its predicted tokens, whatever the batches and their padding: left to itself,
  the Trainer counts one token a row too many for GPT-2 (transformers 5.18).
- The curve's points are totals over totals since the point before, and survive a resume; the Trainer's are means of
  means, and lose what a resumed run had added up.
- A checkpoint counts when all of it is there, and older ones go only then.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainingArguments

from stages.lib.common import files, params
from stages.lib.common.cli import UserError
from stages.lib.model import devices, loss, models, scoring
from stages.lib.training import checkpoints
from stages.lib.training.failpoints import reach
from stages.lib.training.plan import Plan, learning_rate
from stages.lib.training.record import Record

REMEDY = "lower train.learning_rate in params.yaml"


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
                f"{self._get_learning_rate():.3g}): {REMEDY}; the last good checkpoint is {last or 'the base model'}"
            )
        return norm

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint with the record in it, make it count, and delete what is too old."""
        checkpoint = self.run.folder / f"checkpoint-{self.state.global_step}"
        try:
            with files.writing(self.run.folder):
                super()._save_checkpoint(model, trial)
            reach("checkpoint trainer state written")
            self.record.write(checkpoint)
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


def prepare(
    model: torch.nn.Module,
    rows: Any,
    settings: params.Train,
    plan: Plan,
    run: checkpoints.Run,
    record: Record,
    collate: Callable[[Any], dict[str, torch.Tensor]],
    speed: devices.Speed,
) -> Trainer:
    """The Trainer for `model` over packed `rows`, with the settings of params.yaml under its own names."""
    if speed.compile:
        model.transformer.compile(dynamic=True)  # in place: the names of the weights stay
    arguments = _arguments(model, settings, plan, run, speed)
    made = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    made.remove_callback(PrinterCallback)
    made.run, made.record = run, record
    made.keep_best, made.save_total_limit = settings.keep == "best", settings.save_total_limit
    made.label_smoothing, made.bfloat16 = settings.label_smoothing, speed.precision == "bfloat16"
    return made


def _arguments(
    model: torch.nn.Module, settings: params.Train, plan: Plan, run: checkpoints.Run, speed: devices.Speed
) -> TrainingArguments:
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
    return arguments
