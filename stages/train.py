"""Stage `train`: the base model, tuned on the training rows, with curves, checkpoints and the best weights kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, PreTrainedModel

from stages.lib.common import cli, files, params
from stages.lib.model import devices, generation, models, scoring, threads, trainable
from stages.lib.processes import launch, machines, sharding
from stages.lib.processes.failpoints import reach
from stages.lib.processes.group import ALONE, Group
from stages.lib.processes.interruption import Interruption
from stages.lib.rows import batches, limits, tokens
from stages.lib.rows.packing import documents_of
from stages.lib.tracking import choice
from stages.lib.tracking.delivery import leaving
from stages.lib.training import averaging, checkpoints, environment, forecast
from stages.lib.training.board import Boards, opened
from stages.lib.training.course import Course
from stages.lib.training.plan import Pace, Plan, Task
from stages.lib.training.record import Record
from stages.lib.training.trainer import Trainer, prepare

TOKENS = Path("data/tokens")
BASE = Path("model/base")
OUTPUT = Path("model/finetuned")
FIGURES = Path("logs/train.json")
_NOT_HANDED_OVER = "before its results were handed over"
SAMPLES, SAMPLED = 3, generation.Sampling(new_tokens=60)  # shown in TensorBoard at every validation
OUT_OF_MEMORY = (
    "out of memory: in params.yaml lower train.batch_size, and raise train.gradient_accumulation_steps as much; then "
    "set train.gradient_checkpointing: true; then lower tokenize.max_length; then set train.lora_rank: 8, or take a "
    "smaller base; several GPUs hold a larger one with train.sharding: full"
)


def main() -> None:
    """Write `model/finetuned/`, `logs/train.json`, and the curves as TSV and for TensorBoard."""
    everything = params.load()
    settings = everything.train
    files.need(TOKENS, BASE)
    limits.check(everything, BASE)
    (devices.keep_freed_memory if settings.memory == "usual" else devices.return_freed_memory)()
    launch.take_gpu()
    device = devices.choose()
    devices.repeat_exactly(device, settings.deterministic)
    made_for = launch.made_for(settings.processes, device, machines.count())
    size = launch.at_hand(made_for, device, machines.count())
    launch.need_alike(settings.gradient_accumulation_steps * made_for, size)
    with devices.memory_errors(OUT_OF_MEMORY):
        task = Task.of(TOKENS, BASE, settings, device, made_for)
    deciding = task.speed.deciding
    surroundings = environment.describe(device, task.speed.precision, settings.memory)
    # How the batches of a step are shared among processes, and who sees the curves, is no part of what a run is.
    apart = {"processes", "gradient_accumulation_steps", "report_to"}
    what = settings.model_dump(exclude=apart) | {"batches": task.plan.batches} | deciding
    run = checkpoints.Run(environment.fingerprint("train", settings=what, environment=surroundings))
    with (
        Interruption() as interruption,
        nullcontext() if launch.follows() else run.started(interruption),
        devices.memory_errors(OUT_OF_MEMORY),
        ExitStack() as shown,  # closed last: a tracker may take its time, and the other processes must not be missed
        launch.together("stages.train", size, device, run.offered, interruption.check) as group,
    ):

        def boards(step: int, record: Record) -> Boards:
            return shown.enter_context(closing(opened(everything, run, step, record)))

        environment.require(group.told(surroundings | deciding), surroundings | deciding)
        done = _train(task, run, interruption, group, boards)
        if group.first:
            _hand_over(task, run, done, surroundings, interruption)
            shown.close()  # all is shown before the run counts as finished
            interruption.check(_NOT_HANDED_OVER)
            run.finish(FIGURES)


@dataclass(frozen=True)
class _Done:
    """What training leaves behind; the model and the optimizer, which take most of the memory, are gone by then."""

    record: Record
    board: Boards
    device: torch.device  # that has room for the whole model
    figures: dict[str, Any]


def _train(
    task: Task,
    run: checkpoints.Run,
    interruption: Interruption,
    group: Group = ALONE,
    boards: Callable[[int, Record], Boards] = lambda step, record: Boards(),
) -> _Done:
    """Train, from a checkpoint where there is one. `boards` opens what shows it."""
    settings, rows, plan, speed, device = task.settings, task.rows, task.plan, task.speed, task.device
    newest = group.told(latest.name if group.first and (latest := run.latest()) else None)
    checkpoint = run.folder / newest if newest else None
    step = checkpoints.step_of(checkpoint) if checkpoint else 0
    record = Record.read(checkpoint) if checkpoint else Record()
    if threads.matter(device, speed.precision, settings.memory):
        record.threads = threads.keep(record.threads)
    model = trainable.load(BASE, settings, speed.attention, checkpoint)
    if settings.sharding == "full" and group.size > 1:
        sharding.shard(model, device, group, speed.precision == "bfloat16")
    model = model.to(device)
    to_take = forecast.Run(model.config, settings, speed, plan, batches.longest(rows), device, group.size)
    takes = forecast.require(to_take, run.folder if group.first else None)
    with models.quiet():  # several processes are nothing to the library, which wonders
        trainer = prepare(model, rows, settings, plan, run, record, batches.collate, speed, group)
    tokenizer = tokens.Tokenizer(BASE)
    samples = SAMPLES if "tensorboard" in choice.named(settings.report_to) else 0  # nothing else shows them
    board = boards(step, record) if group.first else Boards()
    _say_what_is_to_come(settings, trainer, plan, speed, board, takes)
    if checkpoint:
        cli.say(f"  goes on from {checkpoint.name}")
    elif group.first and run.has_unfinished_others():
        cli.say("  begins at step 0: what is unfinished has other texts, settings, code or libraries, and is kept")
    course = Course(
        run=run,
        record=record,
        board=board,
        validate=_validation(tokenizer, device, speed, group),
        write_samples=lambda model, check: generation.by_itself(model, tokenizer, samples, SAMPLED, check),
        settings=settings,
        plan=plan,
        interruption=interruption,
        group=group,
        pace=Pace(to_take.checkpoint()),
    )
    with closing(course), models.quiet():
        course.begin(model, step)
        if not course.over(step):
            trainer.add_callback(course)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            step = trainer.state.global_step
        cli.say(f"train: {course.times()}")
    if step < plan.steps:
        more = f"{settings.patience} validation{'s' * (settings.patience > 1)}"
        cli.say(f"train: ended early, {more} after the best one, of step {record.best_step}")
    figures = {
        "steps": step,
        "tokens": record.tokens,
        "learning_rate": trainer.args.learning_rate,
        "logging_steps": plan.logging_steps,
        "parameters": models.parameters(model),
        "trained_parameters": models.parameters(model, trained=True),
        **speed.deciding,
        **record.kept(settings.keep, step),
    }
    # What was divided may fit no card whole.
    return _Done(record, board, torch.device("cpu") if trainer.sharded else device, figures)


def _hand_over(
    task: Task, run: checkpoints.Run, done: _Done, surroundings: dict[str, Any], interruption: Interruption
) -> None:
    """Write the weights that are kept, or their mean with the base's, the curves and the figures."""

    gc.collect()  # the Trainer and what belongs to it refer to each other
    settings, speed, record, figures = task.settings, task.speed, done.record, done.figures
    if (bits := figures["validation_bits_per_byte"]) is None:
        cli.say("train: no validation documents: the weights of the last step are kept")
    else:
        cli.say(f"train: kept step {figures['best_step']}, validation {bits:.4f} bits per byte")
    validate = _validation(tokens.Tokenizer(BASE), done.device, speed, ALONE)

    def weights(step: int, share: float) -> GPT2LMHeadModel:
        kept = run.newest() if step == figures["steps"] else run.best(step)
        model = trainable.whole(trainable.load(BASE, settings, speed.attention, kept))
        return averaging.towards(model, BASE, share) if share else model

    def bits_at(step: int, share: float) -> float:
        model = weights(step, share).to(done.device)
        return validate(model, lambda: interruption.check(_NOT_HANDED_OVER)).bits_per_byte

    kept = {step: record.bits_at(step) for step in (figures["best_step"], figures["steps"])}
    step, share, bits = averaging.choose(settings.toward_base, kept, record.bits_at(0), bits_at)
    surroundings = surroundings | ({"threads": record.threads} if record.threads else {})
    models.save_tuned(weights(step, share), BASE, OUTPUT)
    reach("output model written")
    record.write_curves()
    reach("output curves written")
    averaged = {"best_step": step, "toward_base": share, "validation_bits_per_byte": bits}
    files.write_json(FIGURES, {**figures, **averaged, "environment": surroundings})
    reach("output figures written")
    done.board.finished(figures["steps"], {"best_step": step, "validation_bits_per_byte": bits})


def _validation(
    tokenizer: tokens.Tokenizer, device: torch.device, speed: devices.Speed, group: Group
) -> Callable[[PreTrainedModel, Callable[[], None]], scoring.Total]:
    """What scores the validation documents; it calls the function it is given before each batch."""

    def validate(model: PreTrainedModel, check: Callable[[], None]) -> scoring.Total:
        # In training's precision, as its loss is: three times as fast, and 1e-4 off at most. `evaluate` is exact.
        documents = documents_of(tokens.read_rows(TOKENS / "validation.arrow"), tokenizer.closing)
        precision = torch.autocast(device.type, torch.bfloat16, enabled=speed.precision == "bfloat16")
        with precision, cli.progress("validate", None, " documents") as bar:

            def before_batch() -> None:
                check()
                bar.update(0)

            scores = scoring.score_documents(model, documents, check=before_batch, group=group)
            return scoring.total(cli.counted(scores, bar))

    return validate


def _say_what_is_to_come(
    settings: params.Train, trainer: Trainer, plan: Plan, speed: devices.Speed, board: Boards, takes: str
) -> None:
    device, size = trainer.args.device, trainer.group.size
    count, where = torch.get_num_threads(), device.type
    where = f"{where}, {count} thread{'s' * (count > 1)}" if where == "cpu" else where
    where = f"{size} processes, each on {where}" if size > 1 else where
    count, trained = models.parameters(trainer.model), models.parameters(trainer.model, trained=True)
    what = f"{count / 1e6:.1f} M parameters"
    if trained != count:
        what += f" ({trained / 1e6:.3f} M trained)"
    cli.say(f"train: {what}, {len(trainer.train_dataset)} rows, {plan.steps} steps on {where}")
    cli.say(f"  {takes}")
    cli.say(f"  {speed.reasons}")
    if settings.sharding == "full":
        cli.say(f"  each process keeps 1/{size} of the blocks" if size > 1 else "  one process: nothing to shard")
    cli.say(f"  learning rate {trainer.args.learning_rate:.3g} ({settings.learning_rate})")
    if plan.batches > size:
        cli.say(f"  a step takes {plan.batches} batches, {plan.batches // size} in each process")
    if (count := plan.logging_steps) < settings.logging_steps:
        cli.say(
            f"  a short run: a point of the curves every {count} step{'s' * (count > 1)}, not {settings.logging_steps}"
        )
    if see := board.name and cli.command("tensorboard --logdir logs/tensorboard"):
        cli.say(f"  curves while it runs: {see} (this run: {board.name})")


if __name__ == "__main__":
    with leaving():
        cli.run(main, ends_with_dvc=False)  # once a checkpoint is written
