"""Stage `train`: the base model, tuned on the training rows, with curves, checkpoints and the best weights kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.lib.common import cli, files, params
from stages.lib.model import devices, generation, models, scoring, trainable
from stages.lib.rows import batches, limits, tokens
from stages.lib.rows.packing import documents_of
from stages.lib.training import checkpoints, environment
from stages.lib.training.board import Board
from stages.lib.training.course import Course
from stages.lib.training.failpoints import reach
from stages.lib.training.interruption import Interruption
from stages.lib.training.plan import Plan
from stages.lib.training.record import Record
from stages.lib.training.trainer import Trainer, prepare

TOKENS = Path("data/tokens")
BASE = Path("model/base")
OUTPUT = Path("model/finetuned")
FIGURES = Path("logs/train.json")
CURVE = Path("logs/train_loss.tsv")
VALIDATION = Path("logs/validation.tsv")
SAMPLES, SAMPLE_TOKENS = 3, 60  # shown in TensorBoard at every validation
OUT_OF_MEMORY = (
    "out of memory: in params.yaml lower train.batch_size, and raise train.gradient_accumulation_steps as much; then "
    "set train.gradient_checkpointing: true; then lower tokenize.max_length; then set train.lora_rank: 8, or take a "
    "smaller base"
)


def main() -> None:
    """Write `model/finetuned/`, `logs/train.json`, and the curves as TSV and for TensorBoard."""
    everything = params.load()
    settings = everything.train
    files.need(TOKENS, BASE)
    limits.check(everything, BASE)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise cli.UserError("training runs in one process for now: start it without torchrun")
    devices.keep_freed_memory()
    device = devices.choose()
    if device.type == "cuda" and settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's own condition for repeatable sums
        torch.use_deterministic_algorithms(True)
    surroundings = environment.describe(device)
    run = checkpoints.Run(checkpoints.fingerprint("train", settings=settings.model_dump(), environment=surroundings))
    with Interruption() as interruption, run.started(interruption), devices.memory_errors(OUT_OF_MEMORY):
        figures, record, kept = _train(settings, run, device, interruption)
        models.save_tuned(kept, BASE, OUTPUT)
        reach("output model written")
        _write_curves(record)
        reach("output curves written")
        files.write_json(FIGURES, {**figures, "environment": surroundings})
        reach("output figures written")
        interruption.check("before its results were handed over")
        run.finish()


def _train(
    settings: params.Train, run: checkpoints.Run, device: torch.device, interruption: Interruption
) -> tuple[dict, Record, PreTrainedModel]:
    """Train, from a checkpoint where there is one; return the figures, the record and the weights to keep."""
    checkpoint = run.latest()
    step = checkpoints.step_of(checkpoint) if checkpoint else 0
    record = Record.read(checkpoint) if checkpoint else Record()
    rows = batches.open_rows(TOKENS, "train")
    plan = Plan.of(settings, len(rows))
    speed = devices.choose_speed(settings, device, plan.steps)
    model = trainable.load(BASE, settings, speed.attention, checkpoint).to(device)
    trainer = prepare(model, rows, settings, plan, run, record, batches.collate, speed)
    tokenizer = tokens.Tokenizer(BASE)
    # Runs stand side by side in TensorBoard under the name of their experiment.
    name = os.environ.get("DVC_EXP_NAME") or "run"
    board = Board(checkpoints.main_repository() / "logs" / "tensorboard", name, run.fingerprint, step)
    _say_what_is_to_come(settings, trainer, plan, speed, board)
    if checkpoint:
        cli.say(f"  goes on from {checkpoint.name}")
    course = Course(
        run=run,
        record=record,
        board=board,
        validate=_validation(tokenizer, device, speed),
        write_samples=lambda model, check: generation.openings(model, tokenizer, SAMPLES, SAMPLE_TOKENS, check),
        settings=settings,
        plan=plan,
        interruption=interruption,
    )
    with closing(board), closing(course), models.quiet():
        course.begin(model, step)
        if not course.over(step):
            trainer.add_callback(course)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            step = trainer.state.global_step
        cli.say(f"train: {course.times()}")
    if step < plan.steps:
        cli.say(f"train: ended early, {settings.patience} validations after the best one, of step {record.best_step}")
    best_step = record.best_step if settings.keep == "best" else None
    if best_step is not None:
        model = trainable.load(BASE, settings, speed.attention, run.best(best_step))
    kept_step = step if best_step is None else best_step
    figures = {
        "steps": step,
        "best_step": kept_step,
        "tokens": record.tokens,
        "learning_rate": trainer.args.learning_rate,
        "logging_steps": plan.logging_steps,
        "parameters": models.parameters(trainer.model),
        "trained_parameters": models.parameters(trainer.model, trained=True),
        "precision": speed.precision,
        "validation_bits_per_byte": _kept_validation(record, kept_step),
    }
    return figures, record, trainable.whole(model)


def _validation(
    tokenizer: tokens.Tokenizer, device: torch.device, speed: devices.Speed
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

            return scoring.total(cli.counted(scoring.score_documents(model, documents, check=before_batch), bar))

    return validate


def _say_what_is_to_come(
    settings: params.Train, trainer: Trainer, plan: Plan, speed: devices.Speed, board: Board
) -> None:
    device = trainer.args.device
    where = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    count, trained = models.parameters(trainer.model), models.parameters(trainer.model, trained=True)
    size = f"{count / 1e6:.1f} M parameters"
    if trained != count:
        size += f" ({trained / 1e6:.1f} M trained)"
    cli.say(f"train: {size}, {len(trainer.train_dataset)} rows, {plan.steps} steps on {where}")
    cli.say(f"  {speed.reasons}")
    cli.say(f"  learning rate {trainer.args.learning_rate:.3g} ({settings.learning_rate})")
    if plan.logging_steps < settings.logging_steps:
        cli.say(f"  a short run: a point of the curves every {plan.logging_steps} steps, not {settings.logging_steps}")
    cli.say(f"  curves while it runs: tensorboard --logdir logs/tensorboard (this run: {board.name})")


def _kept_validation(record: Record, kept_step: int) -> float | None:
    """Bits per byte of the weights that are kept, where there are validation documents."""
    kept = next((point for point in record.validation if point["step"] == kept_step), None)
    if kept is None:
        cli.say("train: no validation documents: the weights of the last step are kept")
        return None
    cli.say(f"train: kept step {kept_step}, validation {kept['bits_per_byte']:.4f} bits per byte")
    return kept["bits_per_byte"]


def _write_curves(record: Record) -> None:
    for path, header, points in (
        (CURVE, ["step", "loss", "learning_rate", "gradient_norm"], record.curve),
        (VALIDATION, ["step", "bits_per_byte", "loss"], record.validation),
    ):
        files.write_tsv(path, header, ([point[name] for name in header] for point in points))


if __name__ == "__main__":
    cli.run(main)
