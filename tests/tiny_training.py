"""The stage's training on a tiny model, within the test's own process."""

from types import SimpleNamespace

import torch

from stages.lib.common import params
from stages.lib.model import devices, models, scoring, trainable
from stages.lib.processes import sharding
from stages.lib.processes.group import ALONE
from stages.lib.processes.interruption import Interruption
from stages.lib.rows import batches
from stages.lib.training import checkpoints
from stages.lib.training.course import Course
from stages.lib.training.plan import Pace, Plan
from stages.lib.training.record import Record
from stages.lib.training.trainer import prepare

SETTINGS = {
    "epochs": 2,
    "max_steps": None,
    "batch_size": 3,
    "gradient_accumulation_steps": 1,
    "processes": 1,
    "sharding": "none",
    "learning_rate": 1e-3,
    "scheduler": "linear",
    "warmup_fraction": 0.1,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "dropout": 0.0,
    "eval_steps": None,
    "patience": None,
    "keep": "best",
    "toward_base": 0.0,
    "save_steps": 5,
    "save_total_limit": 2,
    "logging_steps": 1,
    "label_smoothing": 0.0,
    "freeze_layers": 0,
    "lora_rank": 0,
    "lora_alpha": 16.0,
    "seed": 1,
    "precision": "float32",
    "attention": "auto",
    "compile": "auto",
    "loader_workers": "auto",
    "gradient_checkpointing": False,
    "memory": "usual",
    "deterministic": True,
    "report_to": "tensorboard",
}


def of_rows(batch):
    """What a model is given of a batch, without what follows from it."""
    return {name: batch[name] for name in ("input_ids", "position_ids", "labels")}


class RecordingBoard:
    """What a run would have TensorBoard draw."""

    def __init__(self, on_point):
        self.drawn, self._on_point = [], on_point

    def training(self, point, tokens_per_second=None):
        self.drawn.append(("training", point["step"]))
        self._on_point(point)

    def validation(self, point):
        self.drawn.append(("validation", point["step"]))

    def samples(self, step, texts):
        self.drawn.append(("samples", step))


def train(
    tiny_base,
    rows,
    folder,
    validate=lambda model, check: scoring.total([]),
    write_samples=lambda model, check: [],
    interruption=None,
    callback=None,
    on_point=lambda point: None,
    group=ALONE,
    **changes,
):
    """Train the tiny model as the stage does; return model, record and the batches in the order they came."""
    settings = params.Train(**{**SETTINGS, **changes})
    run = checkpoints.Run("test")
    run.folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = group.told(run.latest() if group.first else None)
    step = checkpoints.step_of(checkpoint) if checkpoint else 0
    record = Record.read(checkpoint) if checkpoint else Record()
    plan = Plan.of(settings, len(rows))
    speed = devices.choose_speed(settings, torch.device("cpu"), plan.steps)
    model = trainable.load(tiny_base, settings, speed.attention, checkpoint)
    if settings.sharding == "full" and group.size > 1:
        sharding.shard(model, torch.device("cpu"), group, speed.precision == "bfloat16")
    seen = []

    def collate(items):
        seen.append(batches.collate(items))
        return seen[-1]

    trainer = prepare(model, rows, settings, plan, run, record, collate, speed, group)
    board = RecordingBoard(on_point)
    stop = interruption or Interruption()
    course = Course(run, record, board, validate, write_samples, settings, plan, stop, group, Pace(0))
    with models.quiet():
        course.begin(model, step)
        if not course.over(step):
            trainer.add_callback(course)
            if callback:
                trainer.add_callback(callback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return SimpleNamespace(
        model=model, record=record, batches=seen, trainer=trainer, plan=plan, board=board, run=run, began_at=step
    )


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
