"""Hugging Face's Trainer, with what it would quietly get wrong done here.

- The loss of a step is its nats over its predicted tokens, whatever the batches and their padding: left to itself,
  the Trainer counts one token a row too many for GPT-2 (transformers 5.18).
- The curve's points are totals over totals since the point before, and survive a resume; the Trainer's are means of
  means, and lose what a resumed run had added up.
- A checkpoint counts when all of it is there, and older ones go only then.
- Of several processes each computes its share of the batches of a step, and is handed all of them: so the library
  counts and skips as for one process, and need not know of the others. The gradients are added up in one fixed order,
  the first process writes the checkpoints, and dropout follows the batch, not the process. Where the model is sharded
  all take part in gathering what is written, and make equally many passes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainingArguments

from stages.lib.common import files, params
from stages.lib.common.cli import UserError
from stages.lib.model import devices, loss, models
from stages.lib.processes import sharding
from stages.lib.processes.failpoints import reach
from stages.lib.processes.gradients import GradientSum, passes_missing, share
from stages.lib.processes.group import Group
from stages.lib.training import checkpoints
from stages.lib.training.plan import Plan, learning_rate
from stages.lib.training.record import Record

REMEDY = "lower train.learning_rate in params.yaml"
_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # the library's names of files


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
    dropout: float
    group: Group
    share: range
    gradients: GradientSum
    sharded: bool

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], int]:
        """The batches of the next step, those of the other processes among them, and how many tokens they predict."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # Nothing of a batch is fetched from a card before the end of its step: it would have to be waited for.
        self._nats = [torch.zeros((), dtype=torch.float64, device=device) for _ in batches]
        self._next = 0
        return batches, sum(len(batch["predicted"]) for batch in batches)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        """Compute one batch of a step, if it is this process's; after the last one, add up what all have computed."""
        loss = torch.zeros((), device=self.args.device)
        if self._next in self.share:
            if self.dropout:
                place = self.args.seed, self.state.global_step, self._next
                torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
            loss = super().training_step(model, inputs, num_items_in_batch)
            self.gradients.took(self._next)
        if self.sharded and self._next == len(self._nats) - 1:
            nothing = inputs | {"predicted": inputs["predicted"][:0]}
            for _ in range(passes_missing(self.share, len(self._nats))):
                super().training_step(model, nothing, num_items_in_batch)
        self._next += 1
        if self._next == len(self._nats):
            self.gradients.finish(self.group)
            for nats in self.group.sum(torch.stack(self._nats).cpu().numpy()).tolist():
                self.record.point_nats += nats
            self.record.point_tokens += num_items_in_batch
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        """The loss of this batch over the predicted tokens of the whole step, so that a step's batches add up."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bfloat16):
            summed, nats = loss.summed_nats(model, **inputs, smoothing=self.label_smoothing, dtype=dtype)
        self._nats[self._next] += nats
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
            raise UserError(
                f"the {what} is not finite at step {self.state.global_step + 1} (learning rate "
                f"{self._get_learning_rate():.3g}): {REMEDY}; the last good checkpoint is "
                f"{self.run.newest() or 'the base model'}"
            )
        return norm

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint with the record in it, make it count, and delete what is too old."""
        if not self.group.first:
            sharding.weights(self.model, self.group)  # in the order in which the first process asks for them
            self._optimizer_state()
            self.group.told(None)  # that it counts: to the first one a process that ends before is lost
            return
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
        self.group.told(None)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, sharding.weights(self.model, self.group))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        reach("checkpoint weights written")
        torch.save(self._optimizer_state(), Path(output_dir, _OPTIMIZER))
        torch.save(sharding.scheduler_state(self.lr_scheduler.state_dict()), Path(output_dir, _SCHEDULER))
        reach("checkpoint optimizer written")

    def _optimizer_state(self) -> dict[str, Any] | None:
        if not self.sharded:
            return self.optimizer.state_dict()
        decays = self.args.weight_decay, self.get_decay_parameter_names(self.model)
        return sharding.optimizer_state(self.optimizer, self.model, *decays, self.group)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.sharded:
            return super()._load_optimizer_and_scheduler(checkpoint)
        saved = torch.load(Path(checkpoint, _OPTIMIZER), "cpu", weights_only=True, mmap=True)  # to read its parts only
        sharding.load_optimizer_state(self.optimizer, self.model, self.get_decay_parameter_names(self.model), saved)
        schedule = torch.load(Path(checkpoint, _SCHEDULER), weights_only=True)
        self.lr_scheduler.load_state_dict(sharding.scheduler_state(schedule, len(self.optimizer.param_groups)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Do nothing: the model comes to `prepare` as it is in the checkpoint."""

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
    group: Group,
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
    made.dropout, made.group, made.share = settings.dropout, group, share(group, plan.batches)
    made.sharded = sharding.sharded(model)
    # What is divided FSDP adds up, in an order of its own: the tree is of no use to the rest then.
    in_order = settings.deterministic and not made.sharded
    made.gradients = GradientSum(sharding.undivided(model), plan.batches, in_order)
    return made


def _arguments(
    model: torch.nn.Module, settings: params.Train, plan: Plan, run: checkpoints.Run, speed: devices.Speed
) -> TrainingArguments:
    on_gpu = devices.choose().type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(run.folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=plan.batches,
        learning_rate=learning_rate(settings.learning_rate, models.parameters(model), bool(settings.lora_rank)),
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adafactor" if settings.memory == "small" else "adamw_torch_fused",
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
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
