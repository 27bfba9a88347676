"""Base against tuned model on the same documents: by how much, how sure that is, and for how many documents.

The interval is a percentile bootstrap over documents (Efron and Tibshirani 1993, chapter 13): documents are drawn anew
with replacement, each time as many as there are, and the difference of the totals is taken; the middle 95 % of the
differences are the interval. Of few documents that is too narrow, as the draws have the spread of those that are there:
so it is widened by what Student's t has over the normal distribution, and by sqrt(n / (n - 1)) (Hesterberg 2015,
https://doi.org/10.1080/00031305.2015.1089789, on why). It says what other documents of the same kind would show; it
does not say what training with another seed would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stages.lib.model.scoring import Score

DRAWS, WITHIN = 2000, 0.95


@dataclass(frozen=True)
class Comparison:
    """Tuned minus base in bits per byte, its 95 % interval, and the share of documents that got better.

    One document says nothing of others: then the interval is None.
    """

    difference: float
    low: float | None
    high: float | None
    share_better: float


def compare(base: list[Score], tuned: list[Score], seed: int) -> Comparison | None:
    """Compare the scores that two models give the same documents. None without documents."""
    if not base:
        return None
    if [score.line for score in base] != [score.line for score in tuned]:
        raise ValueError("base and tuned scores are of different documents")
    gains = np.array([after.nats - before.nats for before, after in zip(base, tuned, strict=True)])
    sizes = np.array([score.size for score in base])
    difference = math.fsum(gains) / max(1, int(sizes.sum()))
    better = float((gains < 0).mean())
    if len(gains) == 1:
        return Comparison(difference / math.log(2), None, None, better)
    random = np.random.default_rng(seed)
    drawn = np.empty(DRAWS)
    for draw in range(DRAWS):  # one at a time, so that memory stays at that of the documents
        chosen = random.integers(len(gains), size=len(gains))
        drawn[draw] = gains[chosen].sum() / max(1, sizes[chosen].sum())  # texts may be empty
    ends = np.quantile(drawn, [(1 - WITHIN) / 2, (1 + WITHIN) / 2])
    low, high = difference + (ends - difference) * _widening(len(gains))
    return Comparison(*(float(one / math.log(2)) for one in (difference, low, high)), better)


def _widening(count: int) -> float:
    """How many times as wide the interval of so many documents is to be."""
    normal = NormalDist().inv_cdf((1 + WITHIN) / 2)
    return student(count - 1) / normal * math.sqrt(count / (count - 1))


def student(freedom: int) -> float:
    """The t within which, on both sides of 0, Student's distribution has 95 %, with so many degrees of freedom.

    By bisection of its distribution function (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        angle = (low + high) / 2
        cosine, total, power = math.cos(angle), 0.0, freedom % 2
        term = cosine**power
        while power <= freedom - 2 and term > 1e-18:
            total += term
            term *= (power + 1) / (power + 2) * cosine**2
            power += 2
        inside = math.sin(angle) * total
        if freedom % 2:
            inside = 2 / math.pi * (angle + inside)
        low, high = (angle, high) if inside < WITHIN else (low, angle)
    return math.sqrt(freedom) * math.tan(low)
