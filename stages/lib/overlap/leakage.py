"""How much of the held-out documents stands in training documents too: runs of 13 words, as GPT-3's authors counted.

A held-out document that shares a run of 13 words with a training document is no honest test: the model may have learned
the run by heart. Words are compared in lower case and without punctuation. (Brown et al. 2020, appendix C.)

Cut a training document into parts of seven words, and any run of 13 has a whole part in it. So only a document with
such a part that stands in a held-out document too is looked through. Memory is bounded: of a very large corpus only so
many held-out documents are examined as have some two million runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stages.lib.overlap.words import Words, runs_of, words_of

RUN = 13  # words
LIMIT = 2**21  # runs of held-out documents that are looked for
_PART = (RUN + 1) // 2  # words
_GROUP = 2**19  # characters of held-out documents between two looks at the limit
_SLOTS = 2**23


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


def parts_of(words: Words) -> pa.ListArray:
    """The parts of each training document, by which it is known whether it may share a run with a held-out one."""
    runs = runs_of(words, _PART)
    counts = runs.counts()
    chosen = (np.arange(len(runs.numbers)) - np.repeat(runs.offsets[:-1], counts)) % _PART == 0
    offsets = np.cumsum([0, *-(-counts // _PART)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(runs.numbers[chosen]))


class HeldOut:
    """The runs of held-out documents, and which of them were met in training documents."""

    def __init__(self, documents: Iterable[tuple[int, str]], limit: int = LIMIT) -> None:
        """Take in documents, each as line and text, until they have `limit` runs."""
        self._lines: list[int] = []  # of documents that have runs
        self._of_each: list[np.ndarray] = []  # theirs
        parts, total = [np.empty(0, np.uint64)], 0
        for lines, texts in _groups(documents):
            words = words_of(texts)
            parts.append(runs_of(words, _PART).numbers)
            found = runs_of(words, RUN)
            for line, runs in zip(lines, found.of_each(), strict=True):
                if len(runs):
                    self._lines.append(line)
                    self._of_each.append(runs)
            total += len(found.numbers)
            if total >= limit:
                break
        self._parts = np.sort(np.concatenate(parts))
        self._runs = np.sort(np.concatenate([np.empty(0, np.uint64), *self._of_each]))
        self._met = np.zeros(len(self._runs), bool)
        # Most parts of training documents are told apart by a few of their bits, in a tenth of the time.
        self._slots = np.zeros(_SLOTS, bool)
        self._slots[self._parts % _SLOTS] = True

    def look_through(self, texts: pa.StringArray, parts: pa.ListArray) -> None:
        """Look for runs in training documents, of which these are the parts."""
        numbers = parts.flatten().to_numpy()
        likely = np.flatnonzero(self._slots[numbers % _SLOTS])
        found = likely[_places(self._parts, numbers[likely])[1]]
        offsets = parts.offsets.to_numpy()
        documents = np.unique(np.searchsorted(offsets, found + offsets[0], "right") - 1)
        if len(documents):
            runs = runs_of(words_of(texts.take(pa.array(documents)).to_pylist()), RUN)
            places, met = _places(self._runs, runs.numbers)
            self._met[places[met]] = True

    def leakage(self) -> Leakage:
        """What was found so far."""
        met = self._runs[self._met]
        shares = [float(_places(met, runs)[1].mean()) for runs in self._of_each]
        leaks = [Leak(line, share) for line, share in zip(self._lines, shares, strict=True) if share]
        return Leakage(len(self._lines), sorted(leaks, key=lambda leak: (-leak.share, leak.line)))


def _groups(documents: Iterable[tuple[int, str]]) -> Iterator[tuple[list[int], list[str]]]:
    """Yield the documents, lines and texts, some at a time."""
    lines, texts, size = [], [], 0
    for line, text in documents:
        lines.append(line)
        texts.append(text)
        size += len(text)
        if size >= _GROUP:
            yield lines, texts
            lines, texts, size = [], [], 0
    if lines:
        yield lines, texts


def _places(known: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the numbers stand among those known, which are in order, each at its first place; and whether they do."""
    if not len(known):
        return np.zeros(len(numbers), np.int64), np.zeros(len(numbers), bool)
    places = np.searchsorted(known, numbers) % len(known)
    return places, known[places] == numbers
