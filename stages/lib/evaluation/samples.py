"""Texts that both models write, and figures about them: how varied they are, whether they end, what is copied."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import GPT2LMHeadModel

from stages.lib.common import scripts
from stages.lib.evaluation import copying
from stages.lib.model import generation
from stages.lib.rows.packing import Document
from stages.lib.rows.tokens import Tokenizer, text_tokens

OPENING = 12  # tokens of a held-out document that the models are given as its opening
COPIED = 50  # characters: a run this long that stands in a training document is a copy, not a turn of phrase
COPY_PROMPT = 16  # tokens of a document that the models are to go on from, when it is tried whether they know it
COPY_LENGTH = 64  # tokens that they write then
COPY_RUN = 50  # tokens of these that make a copy, as in Carlini et al. 2023, https://arxiv.org/abs/2202.07646
COPY_CONTEXT = 1 + COPY_PROMPT + COPY_RUN  # tokens that a model must see to show a copy

# How a text may begin, by the letters of the training documents.
USUAL_PROMPTS = {
    "Cyrillic": ("Жил-был", "Осенью в городе", "— А скажите, пожалуйста, —"),
    "Latin": ("Once upon a time", "In the autumn the town", "“Tell me, please,”"),
}
_LOOKED_AT = 100  # documents


@dataclass(frozen=True)
class Prompt:
    """How a text begins; for the opening of a held-out document, its line and how it really goes on."""

    text: str
    line: int | None = None
    original: str | None = None


def script_of(documents: Iterable[Document], tokenizer: Tokenizer) -> str | None:
    """The main script of the first documents."""
    first = itertools.islice(documents, _LOOKED_AT)
    return scripts.main_script(tokenizer.decode(document.ids[1:-1].tolist()) for document in first)


def evenly(count: int, wanted: int) -> set[int]:
    """The places of `wanted` among `count` things, from the first to the last, as far apart as can be."""
    return set(np.linspace(0, count - 1, min(wanted, count), dtype=int).tolist()) if count else set()


def opening(tokenizer: Tokenizer, document: Document, context: int) -> Prompt:
    """The first words of a document as a prompt, for a model that sees `context` tokens."""
    ids = document.ids[1:-1].tolist()
    text = tokenizer.decode(ids)
    start = tokenizer.decode(ids[: min(OPENING, context // 2)]).rstrip(generation.BROKEN)
    if start != text:
        start = start.rpartition(" ")[0] or start  # a word cut in half is a prompt nobody writes
    return Prompt(start, document.line, text[len(start) :])


def beginnings(documents: Iterable[Document], count: int) -> list[list[int]]:
    """The opening and the first `COPY_PROMPT` tokens of `count` documents, of those that go on for a copy's length.

    `documents` are gone through once; those that are taken stand as far apart as can be.
    """
    # Every `step`-th of the documents so far; when there are twice as many as wanted, every other one of these goes.
    kept: list[list[int]] = []
    step = 1
    long = (document.ids for document in documents if text_tokens(document) >= COPY_PROMPT + COPY_RUN)
    for place, ids in enumerate(long if count else ()):
        if place % step == 0:
            kept.append(ids[: 1 + COPY_PROMPT].tolist())
        if len(kept) == 2 * count:
            kept, step = kept[::2], 2 * step
    return [kept[place] for place in sorted(evenly(len(kept), count))]


def copy_figures(found: list[list[copying.Run]]) -> dict[str, float | int | None]:
    """Of the continuations' longest runs: the longest, the mean, and the share of those that are copies; in tokens."""
    longest = [copying.longest(runs) for runs in found]
    return {
        "prompts": len(longest),
        "longest_run": max(longest, default=None),
        "mean_longest_run": float(np.mean(longest)) if longest else None,
        "share_copied": float(np.mean([run >= COPY_RUN for run in longest])) if longest else None,
    }


def copied_parts(tokenizer: Tokenizer, written: generation.Continuation, found: list[copying.Run]) -> list[list[int]]:
    """Where copies stand in the text `written`, as [from, to] in characters; `found` are runs in its tokens."""

    def characters(tokens: int) -> int:
        decoded = len(tokenizer.decode(written.ids[:tokens]).rstrip(generation.BROKEN))
        return min(max(decoded - written.repeated, 0), len(written.text))

    parts: list[list[int]] = []
    for run in found:
        start, end = characters(run.start), characters(run.start + run.length)
        if end - start < COPIED:
            continue
        if parts and start <= parts[-1][1]:
            parts[-1][1] = max(end, parts[-1][1])
        else:
            parts.append([start, end])
    return parts


def draw(
    models: dict[str, GPT2LMHeadModel],
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    how: generation.Sampling,
    seed: int,
    tell: Callable[[int], object] = lambda _: None,
) -> list[dict[str, generation.Continuation]]:
    """For each prompt what each model makes of it, given the same random numbers: those of `seed`, `seed` + 1, ...

    `tell` is called with 1 for each text that is written, and with 0 in between.
    """
    drawn: list[dict[str, generation.Continuation]] = []
    for number, prompt in enumerate(prompts):
        drawn.append({})
        for name, model in models.items():
            drawn[-1][name] = generation.continue_text(
                model, tokenizer, prompt.text, how, (seed + number) % 2**32, check=lambda: tell(0)
            )
            tell(1)
    return drawn


def figures(written: list[generation.Continuation], copies: list[list[list[int]]]) -> dict[str, Any]:
    """Figures of one model's samples; all None without samples.

    `distinct_1`, `distinct_2`: different words, and pairs of words, over all of them (Li et al. 2016,
    https://arxiv.org/abs/1510.03055). `repetition`: share of the runs of four tokens that stand earlier in the same
    sample. `ended`, `broken`, `copied`: shares of the samples that end by themselves, hold bytes that are no UTF-8, and
    hold a copy.
    """
    words = [sample.text.split() for sample in written]
    fours = [[tuple(sample.ids[at : at + 4]) for at in range(len(sample.ids) - 3)] for sample in written]
    count = len(written)
    runs = sum(map(len, fours))
    return {
        "distinct_1": _distinct([[(word,) for word in sample] for sample in words]),
        "distinct_2": _distinct([list(itertools.pairwise(sample)) for sample in words]),
        "repetition": 1 - sum(len(set(sample)) for sample in fours) / runs if runs else None,
        "ended": sum(sample.ended for sample in written) / count if count else None,
        "broken": sum(generation.BROKEN in sample.text for sample in written) / count if count else None,
        "copied": sum(map(bool, copies)) / count if count else None,
    }


def _distinct(found: list[list[tuple[str, ...]]]) -> float | None:
    everything = [one for sample in found for one in sample]
    return len(set(everything)) / len(everything) if everything else None
