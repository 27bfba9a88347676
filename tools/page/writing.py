"""What both models write for one prompt, in a thread of its own while the page looks on.

PyTorch has one source of random numbers for the whole process: so one prompt is continued at a time, by one model after
the other, and the texts are those that generate.py writes for the same seed.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import generate
from stages.lib.common import cli
from stages.lib.common.translation import translated
from stages.lib.evaluation import copying, samples
from stages.lib.model.generation import Continuation, Sampling
from stages.lib.rows import tokens
from stages.lib.rows.packing import Document, documents_of

TRAINING = Path("data/tokens/train.arrow")
SHOWN = ("tuned", "base")  # in this order, as in the report
_WRITING = threading.Lock()
_MOMENT = 0.1  # seconds


class _Enough(Exception):
    """The text is not wanted any more."""


@dataclass(frozen=True)
class Wish:
    """What is to be written, and how."""

    prompt: str
    sampling: Sampling
    seed: int

    @property
    def command(self) -> str:
        """What writes the same in a terminal."""
        usual, how = Sampling(generate.NEW_TOKENS), self.sampling
        options = ["--compare", "--seed", str(self.seed)]
        for option, given, default in (
            ("--tokens", how.new_tokens, usual.new_tokens),
            ("--temperature", how.temperature, usual.temperature),
            ("--top-p", how.top_p, usual.top_p),
        ):
            options += [option, f"{given:g}"] if given != default else []
        words = [*options, "--", self.prompt] if self.prompt.startswith("-") else [self.prompt, *options]
        return cli.command(f"python generate.py {shlex.join(words)}")


class Run:
    """The texts for a wish: `start` has them written, and what is there by now stands in the attributes.

    `texts` are they so far, by the name of the model, and `ended` those that came to their end by themselves. `copied`
    says where copies stand in a text, in characters. `notes` is what there is to say, `error` why nothing comes of it.
    """

    def __init__(self, models: generate.Models, wish: Wish) -> None:
        self.wish = wish
        self.texts: dict[str, str] = {}
        self.ended: set[str] = set()
        self.copied: dict[str, list[list[int]]] = {}
        self.notes: list[str] = []
        self.error: str | None = None
        self.waiting, self.looking = True, False  # for another run to end, for copies
        self._models = models
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Run:
        """Begin. Returns itself."""
        self._thread.start()
        return self

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return not self._thread.is_alive()

    def stop(self, patience: float = 0) -> None:
        """Have it stop before the next token; wait for that so many seconds."""
        self._enough.set()
        if patience:
            self._thread.join(patience)

    def line(self, name: str) -> str:
        """A text as it is kept: the line of JSON that generate.py writes with --output."""
        continued = Continuation(self.texts[name], [], name in self.ended)
        return generate.line_of(self.wish.prompt, continued, name, self.wish.seed)

    def _run(self) -> None:
        try:
            while not _WRITING.acquire(timeout=_MOMENT):
                self._check()
            self.waiting = False
            try:
                written = self._write()
            finally:
                _WRITING.release()
            self._look_for_copies(written)
        except _Enough:
            pass
        except Exception as error:  # whatever it is: who looks at the page sees nothing else of it
            known = str(error) if isinstance(error, cli.UserError) else cli.refusal(error)
            self.error = known or f"{type(error).__name__}: {cli.printable(str(error))}"

    def _check(self) -> None:
        if self._enough.is_set():
            raise _Enough

    def _write(self) -> dict[str, Continuation]:
        self._check()
        prompt = self._models.fit(generate.Prompt(self.wish.prompt), self.wish.sampling.new_tokens)
        if prompt.unseen:
            self.notes.append(self._models.left_out(prompt))
        if self._models.moved(prompt):
            self.notes.append(translated(generate.WHITE_SPACE))
        return {name: self._continue(name, prompt) for name in SHOWN}

    def _continue(self, name: str, prompt: generate.Prompt) -> Continuation:
        pieces: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)
            self.texts[name] = "".join(pieces[1:])  # the first one is the prompt

        continued = self._models.continue_text(name, prompt, self.wish.sampling, self.wish.seed, take, self._check)
        self.texts[name] = continued.text
        if continued.ended:
            self.ended.add(name)
        return continued

    def _look_for_copies(self, written: dict[str, Continuation]) -> None:
        if not TRAINING.exists():
            self.notes.append(
                translated(f"{TRAINING} is not there: nobody looked whether the texts stand in the training documents")
            )
            return
        self.looking = True
        found = copying.runs([np.array(text.ids) for text in written.values()], self._documents())
        for (name, text), runs in zip(written.items(), found, strict=True):
            self.copied[name] = samples.copied_parts(self._models.tokenizer, text, runs)

    def _documents(self) -> Iterator[Document]:
        for document in documents_of(tokens.read_rows(TRAINING), self._models.tokenizer.closing):
            self._check()
            yield document
