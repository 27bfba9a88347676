"""One corpus of so many documents, trained from a base in this way or that, and scored on documents held out.

Each training is a process of its own that is forked from one with everything loaded: loading would take longer than
many a small corpus does.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from bench import measure
from stages.lib.common import cli, params

SEEDS = (42, 43, 44)
LORA_RATE = 10  # how many times higher the learning rate is with LoRA, as with `auto`
LIKE_OURS = 2  # rows in a batch of the usual recipe


@dataclass(frozen=True)
class Case:
    """A corpus of so many documents of a file, and the file with its runs."""

    source: Path
    documents: int
    held_out: int
    base: Path
    raw: Path

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.source.stem}, {self.documents}"

    def runs(self, way: str, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The runs of a way so far, in their order; only those with `settings`, where they are given."""
        if not self.raw.exists():
            return []
        lines = (json.loads(line) for line in self.raw.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["way"] == way and settings in (None, line["settings"])]

    def best(self) -> dict[str, Any]:
        """The settings that did best on the documents for choosing; a longer search may find others."""
        done = [run for run in self.runs("search") if run["choosing"] is not None]
        return min(done, key=lambda run: run["choosing"])["settings"]


class Bench:
    """A folder in which the runs of one case take place, with the project's settings; it must be the current one."""

    def __init__(self, case: Case, folder: Path) -> None:
        from transformers import GPT2Config

        from stages.lib.model import models
        from stages.lib.training import plan

        self._case, self._folder = case, folder
        texts = list(measure.texts(case.source))
        random.Random(0).shuffle(texts)
        choosing, telling, own = (texts[start:] for start in (0, case.held_out, 2 * case.held_out))
        if len(own) < case.documents:
            raise cli.UserError(f"{case.source.name} has {len(own)} documents besides those held out")
        self._choosing, self._telling = (self._documents(some[: case.held_out]) for some in (choosing, telling))
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in own[: case.documents])
        (folder / "data").mkdir()
        (folder / "data/my_corpus.jsonl").write_text(lines, encoding="utf-8")
        shutil.copy(measure.HOME / "dvc.yaml", folder)
        self._write_settings({})
        measure.write_base(folder, case.base)
        for stage in ("validate", "tokenize"):
            measure.run(folder, f"stages.{stage}")
        self.layers = GPT2Config.from_pretrained(case.base).n_layer
        self.rate = plan.learning_rate("auto", models.load(case.base).num_parameters())

    def shipped(self) -> dict[str, Any]:
        """The project's settings of training, and the rate that `auto` stands for."""
        return params.load(self._folder / "params.yaml").train.model_dump() | {"learning_rate": self.rate}

    def run(self, way: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        """Train, score, and add a line to the case's file; return what it says. Raises UserError when it fails.

        A `search` is scored on the documents for choosing alone.
        """
        from stages.lib.model import models, scoring

        began = time.monotonic()
        trained = {"base": lambda: self._case.base, "usual": lambda: self._usual(seed)}
        model = models.load(trained.get(way, lambda: self._stage(settings, seed))())
        seconds = time.monotonic() - began
        run = {"way": way, "settings": settings, "seed": seed}
        run["choosing"] = scoring.total(scoring.score_documents(model, self._choosing)).bits_per_byte
        if way != "search":
            scores = list(scoring.score_documents(model, self._telling))
            run["telling"] = scoring.total(scores).bits_per_byte
            run["nats"] = [round(score.nats, 3) for score in scores]
            run["bytes"] = [score.size for score in scores]
        self.note(run | {"seconds": round(seconds, 1)})
        cli.say(f"{self._case.name}: {way} {settings or ''} {run['choosing']:.4f}")
        return run

    def note(self, run: dict[str, Any]) -> None:
        """Add a line to the case's file."""
        with open(self._case.raw, "a", encoding="utf-8") as raw:
            raw.write(json.dumps(run) + "\n")

    def _write_settings(self, train: dict[str, Any]) -> None:
        """The project's settings, but for some of training, and rows that the base can see."""
        from transformers import GPT2Config

        shutil.copy(measure.HOME / "params.yaml", self._folder)
        length = params.load(self._folder / "params.yaml").tokenize.max_length
        rows = {"max_length": min(length, GPT2Config.from_pretrained(self._case.base).n_positions)}
        corpus = {"path": "data/my_corpus.jsonl", "text_field": "text", "limit": None}
        changes = {"corpus": corpus, "tokenize": rows, "train": train | {"report_to": "none"}}
        measure.change_settings(self._folder, changes)

    def _documents(self, texts: list[str]) -> list[Any]:
        from stages.lib.rows import tokens
        from stages.lib.rows.packing import Document

        tokenizer = tokens.Tokenizer(self._case.base)
        encoded = [(text, tokenizer.document(tokenizer.encode(text))) for text in texts]
        return [Document(number, ids, len(text.encode())) for number, (text, ids) in enumerate(encoded, 1)]

    def _stage(self, changes: dict[str, Any], seed: int) -> Path:
        """The model that the stage `train` makes with some settings, or beyond them."""
        from bench import beyond

        for left in ("model/checkpoints", "model/finetuned", "logs"):
            shutil.rmtree(self._folder / left, ignore_errors=True)
        settings = {name: value for name, value in changes.items() if name not in beyond.NOTHING}
        if settings.get("lora_rank"):
            settings |= {"learning_rate": min(1.0, settings["learning_rate"] * LORA_RATE), "freeze_layers": 0}
        self._write_settings(settings | {"seed": seed})
        tried = beyond.NOTHING | {name: value for name, value in changes.items() if name in beyond.NOTHING}
        self._forked(lambda: beyond.train(tried))
        return self._folder / "model/finetuned"

    def _usual(self, seed: int) -> Path:
        """The model that the usual recipe makes."""
        self._forked(lambda: _usual(seed))
        return self._folder / "usual"

    def _forked(self, work: Callable[[], None]) -> None:
        said = self._folder / "said"
        process = get_context("fork").Process(target=_quietly, args=(work, said))
        process.start()
        process.join()
        if process.exitcode:
            raise cli.UserError(f"exit status {process.exitcode}:\n{said.read_text(encoding='utf-8')}")


def end_with_parent() -> None:
    """Have this process end when the one that started it does, also when that one is killed."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _quietly(work: Callable[[], None], said: Path) -> None:
    end_with_parent()
    with open(said, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cli.run(work)
    sys.stdout.flush()
    os._exit(0)  # without what the process that it was forked from does at its end


def _usual(seed: int) -> None:
    """Train the usual recipe in this folder."""
    from bench import training
    from stages.lib.model import models

    trainer = training.concatenated(
        LIKE_OURS, whole=True, learning_rate=5e-5, lr_scheduler_type="linear", warmup_steps=0, seed=seed
    )
    trainer.train()
    shutil.rmtree("usual", ignore_errors=True)
    models.save(trainer.model, Path("usual"))
