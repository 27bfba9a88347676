"""What a search has found: whether the best trial is more than chance, and what it gains on test documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, variance

ENOUGH = 3  # standard errors; a smaller difference may well be chance, as tools.seeds has it


@dataclass(frozen=True)
class Gain:
    """By how many bits per byte a trial is better in validation, and the standard error of that."""

    gain: float
    error: float | None  # None: there was one run of either, which shows no spread

    @property
    def sure(self) -> bool:
        """Whether it is more than chance."""
        return self.error is not None and self.gain > ENOUGH * self.error


def gain(before: Sequence[float], after: Sequence[float]) -> Gain:
    """Compare bits per byte over seeds, of the committed settings and of others.

    The spread over seeds is taken to be the same for both, as there are few of either.
    """
    difference = mean(before) - mean(after)
    if min(len(before), len(after)) < 2:
        return Gain(difference, None)
    squares = sum((len(one) - 1) * variance(one) for one in (before, after))
    spread = math.sqrt(squares / (len(before) + len(after) - 2))
    return Gain(difference, spread * math.sqrt(1 / len(before) + 1 / len(after)))


def on_test(before: Sequence[dict[str, str]], after: Sequence[dict[str, str]]) -> tuple[float, float, float] | None:
    """The difference in bits per byte of two models on test documents, and its 95 % interval.

    Takes the tables of both, as `logs/documents.tsv` has them. None without an interval: with one document, or none.
    """
    # It loads torch, which the rest of a search does without.
    from stages.lib.evaluation.comparison import compare
    from stages.lib.model.scoring import Score

    def scores(table: Sequence[dict[str, str]]) -> list[Score]:
        rows = ((int(row["line"]), int(row["bytes"]), int(row["tokens"]), float(row["tuned"])) for row in table)
        return [Score(line, size, tokens, bits * math.log(2) * size, 0.0) for line, size, tokens, bits in rows]

    compared = compare(scores(before), scores(after), seed=0)
    if compared is None or compared.low is None:
        return None
    return compared.difference, compared.low, compared.high
