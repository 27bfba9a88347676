"""How much of the held-out documents stands in training documents too: runs of 13 words, as GPT-3's authors counted.

A held-out document that shares a run of 13 words with a training document is no honest test: the model may have learned
the run by heart. Words are compared in lower case and without punctuation. (Brown et al. 2020, appendix C.)

Cut a training document into parts of seven words, and any run of 13 has a whole part in it. So a run is looked up only
where such a part may stand in a held-out document too. Memory is bounded: of a very large corpus only so many held-out
documents are examined as have some two million runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.lib.overlap.words import words_of

RUN = 13  # words
LIMIT = 2**21  # runs of held-out documents that are looked for
_PART = (RUN + 1) // 2  # words
_GROUP = 2**19  # characters of held-out documents between two looks at the limit
_SLOTS = 2**25


@dataclass(frozen=True)
class Leak:
    """A held-out document and the share of its runs that stand in training documents."""

    line: int
    share: float


@dataclass(frozen=True)
class Leakage:
    """`examined` held-out documents have a run at all; `leaks` are those of them that share one, the worst first."""

    examined: int
    leaks: list[Leak]


class HeldOut:
    """The runs of held-out documents, and which of them were met in training documents.

    A run stands here as the hashes of its first and its last seven words, 128 bits together: these take 48 bytes of
    memory, where the words would take 250.
    """

    def __init__(self) -> None:
        self.total = 0  # runs
        self._documents: list[tuple[int, list[int]]] = []  # line and runs
        self._runs: set[int] = set()
        self._met: set[int] = set()
        # Which parts there are, by a few bits of their hashes: a set of two million would take 200 MB.
        self._parts = bytearray(_SLOTS)

    def add(self, line: int, text: str) -> None:
        """Take in a held-out document, if it has a run at all."""
        words = words_of(text)
        if len(words) < RUN:
            return
        parts = _parts(words)
        for part in parts:
            self._parts[part % _SLOTS] = 1
        runs = _runs(parts)
        self._documents.append((line, runs))
        self._runs.update(runs)
        self.total += len(runs)

    def look_through(self, text: str) -> None:
        """Look for runs in a training document."""
        words = words_of(text)
        first = None  # of some parts in a row that may stand in a held-out document
        for start in range(0, len(words) - _PART + 1, _PART):
            if self._parts[hash(tuple(words[start : start + _PART])) % _SLOTS]:
                first = start if first is None else first
            elif first is not None:
                self._look_up(words[max(0, first + _PART - RUN) : start - _PART + RUN])
                first = None
        if first is not None:
            self._look_up(words[max(0, first + _PART - RUN) :])

    def _look_up(self, words: list[str]) -> None:
        self._met.update(self._runs.intersection(_runs(_parts(words))))

    def leakage(self) -> Leakage:
        """What was found so far."""
        shares = ((line, sum(map(self._met.__contains__, runs)) / len(runs)) for line, runs in self._documents)
        leaks = [Leak(line, share) for line, share in shares if share]
        return Leakage(len(self._documents), sorted(leaks, key=lambda leak: (-leak.share, leak.line)))


def measure(held_out: Iterable[tuple[int, str]], training: Iterable[str], limit: int = LIMIT) -> Leakage:
    """Look for the runs of held-out documents, each given as line and text, in the texts of the training documents."""
    found, size = HeldOut(), 0
    for line, text in held_out:
        found.add(line, text)
        size += len(text)
        if size >= _GROUP:
            if found.total >= limit:
                break
            size = 0
    if found.total:
        for text in training:
            found.look_through(text)
    return found.leakage()


def _parts(words: list[str]) -> list[int]:
    """A hash of the seven words from each one on."""
    return list(map(hash, zip(*(words[offset:] for offset in range(_PART)), strict=False)))


def _runs(parts: list[int]) -> list[int]:
    """Each run, by the two parts that overlap in its middle word."""
    return [(first << 64) + last for first, last in zip(parts, parts[RUN - _PART :], strict=False)]
