"""Base against tuned model on the same documents: by how much, how sure that is, and for how many documents.

The interval is a percentile bootstrap over documents (Efron and Tibshirani 1993, chapter 13): documents are drawn anew
with replacement, each time as many as there are, and the difference of the totals is taken; the middle 95 % of the
differences are the interval. It says what other documents of the same kind would show; it does not say what training
with another seed would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.lib.model.scoring import Score

DRAWS = 2000


@dataclass(frozen=True)
class Comparison:
    """Tuned minus base in bits per byte, its 95 % interval, and the share of documents that got better."""

    difference: float
    low: float
    high: float
    share_better: float


def compare(base: list[Score], tuned: list[Score], seed: int) -> Comparison | None:
    """Compare the scores that two models give the same documents. None without documents."""
    if not base:
        return None
    if [score.line for score in base] != [score.line for score in tuned]:
        raise ValueError("base and tuned scores are of different documents")
    gains = np.array([after.nats - before.nats for before, after in zip(base, tuned, strict=True)])
    sizes = np.array([score.size for score in base])
    random = np.random.default_rng(seed)
    drawn = np.empty(DRAWS)
    for draw in range(DRAWS):  # one at a time, so that memory stays at that of the documents
        chosen = random.integers(len(gains), size=len(gains))
        drawn[draw] = gains[chosen].sum() / max(1, sizes[chosen].sum())  # texts may be empty
    low, high = np.quantile(drawn, [0.025, 0.975]) / math.log(2)
    difference = math.fsum(gains) / int(sizes.sum()) / math.log(2)
    return Comparison(difference, float(low), float(high), float((gains < 0).mean()))
