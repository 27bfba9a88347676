"""Stage `train`: the base model, tuned on the training rows, with curves, checkpoints and the best weights kept."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.lib import batches, checkpoints, cli, devices, environment, files, models, params, scoring, tokens, training
from stages.lib.packing import documents_of

TOKENS = Path("data/tokens")
BASE = Path("model/base")
OUTPUT = Path("model/finetuned")
FIGURES = Path("logs/train.json")
CURVE = Path("logs/train_loss.tsv")
VALIDATION = Path("logs/validation.tsv")


def main() -> None:
    """Write `model/finetuned/`, `logs/train.json`, and the curves as TSV and for TensorBoard."""
    settings = params.load().train
    files.need(TOKENS, BASE)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise cli.UserError("training runs in one process for now: start it without torchrun")
    devices.keep_freed_memory()
    device = devices.choose()
    if device.type == "cuda" and settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's own condition for repeatable sums
        torch.use_deterministic_algorithms(True)
    surroundings = environment.describe(device)
    run = checkpoints.Run(checkpoints.fingerprint("train", settings=settings.model_dump(), environment=surroundings))
    with run.started():
        figures, record, best = _train(settings, run, device)
        models.save_tuned(best, BASE, OUTPUT)
        for path, header, points in (
            (CURVE, ["step", "loss", "learning_rate", "gradient_norm"], record.curve),
            (VALIDATION, ["step", "bits_per_byte", "loss"], record.validation),
        ):
            files.write_tsv(path, header, ([point[name] for name in header] for point in points))
        files.write_json(FIGURES, {**figures, "environment": surroundings})
        run.finish()


def _train(
    settings: params.Train, run: checkpoints.Run, device: torch.device
) -> tuple[dict, training.Record, PreTrainedModel]:
    """Train, from a checkpoint where there is one; return the figures, the record and the weights to keep."""
    model = models.load(BASE, settings.dropout)
    rows = batches.open_rows(TOKENS, "train")
    steps_per_epoch = math.ceil(len(rows) / (settings.batch_size * settings.gradient_accumulation_steps))
    steps = steps_per_epoch * settings.epochs
    trainer = training.trainer(model, rows, settings, steps, run.folder, batches.collate)
    boundary = tokens.boundary_id(tokens.load_tokenizer(BASE))

    def validate() -> scoring.Total:
        documents = documents_of(tokens.read_rows(TOKENS / "validation.arrow"), boundary)
        return scoring.total(scoring.score_documents(model, documents))

    checkpoint = run.latest()
    record = training.load_record(checkpoint) if checkpoint else training.Record()
    trainer.record = record
    # Runs stand side by side in TensorBoard under the name of their experiment.
    name = f"{os.environ.get('DVC_EXP_NAME') or 'run'}-{run.fingerprint[:8]}"
    events = checkpoints.main_repository() / "logs" / "tensorboard" / name
    if not checkpoint:
        shutil.rmtree(events, ignore_errors=True)
    trainer.add_callback(training.Course(run, record, validate, settings, steps_per_epoch, events))

    every = trainer.args.logging_steps
    precision = "bfloat16" if trainer.bfloat16 else "float32"
    where = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    size = f"{models.parameters(model) / 1e6:.1f} M parameters"
    cli.say(f"train: {size}, {len(rows)} rows, {steps} steps on {where}, {precision}")
    cli.say(f"  learning rate {trainer.args.learning_rate:.3g} ({settings.learning_rate})")
    if every < settings.logging_steps:
        cli.say(f"  a short run: the curves get a point every {every} steps, not every {settings.logging_steps}")
    cli.say(f"  curves while it runs: tensorboard --logdir logs/tensorboard (this run: {name})")
    if checkpoint:
        cli.say(f"  goes on from {checkpoint.name}")
    try:
        with models.quiet():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        raise cli.UserError(
            "out of memory: lower train.batch_size (and raise train.gradient_accumulation_steps as much), "
            "then tokenize.max_length"
        ) from None

    keep_best = settings.keep == "best" and record.best_step is not None
    kept_step = record.best_step if keep_best else trainer.state.global_step
    kept = next((point for point in record.validation if point["step"] == kept_step), None)
    figures = {
        "steps": trainer.state.global_step,
        "best_step": kept_step,
        "tokens": record.tokens,
        "learning_rate": trainer.args.learning_rate,
        "logging_steps": every,
        "parameters": models.parameters(model),
        "precision": precision,
        "validation_bits_per_byte": kept["bits_per_byte"] if kept else None,
    }
    if kept:
        cli.say(f"train: kept step {kept['step']}, validation {kept['bits_per_byte']:.4f} bits per byte")
    else:
        cli.say("train: no validation documents: the weights of the last step are kept")
    return figures, record, models.load(run.best(kept_step)) if keep_best else model


if __name__ == "__main__":
    cli.run(main)
