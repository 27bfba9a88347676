"""The figures of an evaluation, as they stand in its files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from stages.lib.model import scoring


def likelihood(total: scoring.Total, words: int) -> dict[str, Any]:
    """How well a model foretells documents of so many words; None where there are none."""
    return {
        "nats": total.nats if total.documents else None,
        "bits_per_byte": total.bits_per_byte,
        "perplexity": total.perplexity,
        "word_perplexity": scoring.perplexity(total.nats, words),
        "end_of_text_nats": total.end_of_text_nats if total.documents else None,
    }


def metrics(figures: dict[str, Any], training: dict[str, Any]) -> dict[str, float | int | None]:
    """The few figures by which experiments are compared, under the names that `dvc exp show` has as columns.

    `change` is the share by which bits per byte changed from base to tuned model, below 0 being better; `tokens` are
    those that training predicted; `copied` is the share of training documents that the tuned model goes on copying,
    and `lost` by how many bits per byte it is worse than the base on what the base writes by itself.
    """
    base, tuned = figures["base"], figures["tuned"]
    return {
        "bits_per_byte": tuned["bits_per_byte"],
        "base_bits_per_byte": base["bits_per_byte"],
        "change": tuned["bits_per_byte"] / base["bits_per_byte"] - 1 if base["bits_per_byte"] else None,
        "perplexity": tuned["perplexity"],
        "best_step": training["best_step"],
        "tokens": training["tokens"],
        "copied": tuned["copying"]["training"]["share_copied"],
        "lost": retained["difference"] if (retained := figures["retention"]) else None,
    }


def table(scores: dict[str, list[scoring.Score]], words: list[int]) -> Iterator[list[str | int]]:
    """A row for each test document, with what each model needs for it in bits per byte."""
    for base, tuned, count in zip(scores["base"], scores["tuned"], words, strict=True):
        bits = (score.nats / (math.log(2) * score.size) for score in (base, tuned))
        yield [base.line, base.size, base.tokens, count, *(f"{one:.6f}" for one in bits)]
