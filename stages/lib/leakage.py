"""How much of the held-out documents stands in training documents too: runs of 13 words, as GPT-3's authors counted.

A held-out document that shares a run of 13 words with a training document is no honest test: the model may have learned
the run by heart. Words are compared in lower case and without punctuation. (Brown et al. 2020, appendix C.)

Memory is bounded: of a very large corpus only so many held-out documents are examined as have some four million runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import regex

RUN = 13  # words
LIMIT = 2**22  # runs of held-out documents that are looked for
_WORDS = regex.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
_KNOWN_WORDS = 2**18


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


class _Words(dict[str, int]):
    """A hash of 64 bits for each word met so far."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        self[word] = value = int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")
        return value


def runs(text: str, words: dict[str, int]) -> np.ndarray:
    """A hash of 64 bits for each run of 13 words in a text, in order; `words` gives the hash of a word."""
    found = _WORDS.findall(text.lower())
    count = len(found) - RUN + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = np.fromiter(map(words.__getitem__, found), np.uint64, len(found))
    combined = np.zeros(count, np.uint64)
    for place in range(RUN):
        combined = combined * _FACTOR + hashes[place : place + count]
    return combined


def measure(held_out: Iterable[tuple[int, str]], training: Iterable[str], limit: int = LIMIT) -> Leakage:
    """Look for the runs of held-out documents, each given as line and text, in the texts of the training documents."""
    words = _Words()
    lines, parts, total = [], [], 0
    for line, text in held_out:
        hashes = runs(text, words)
        if len(hashes):
            lines.append(line)
            parts.append(hashes)
            total += len(hashes)
            if total >= limit:
                break
    if not lines:
        return Leakage(0, [])
    wanted, places = np.unique(np.concatenate(parts), return_inverse=True)
    seen = np.zeros(len(wanted), dtype=bool)
    for hashes in _batched(runs(text, words) for text in training):
        found = np.searchsorted(wanted, hashes)
        found[found == len(wanted)] = 0
        seen[found[wanted[found] == hashes]] = True
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    shares = np.add.reduceat(seen[places].astype(np.int64), starts) / np.array([len(part) for part in parts])
    leaks = [Leak(line, share) for line, share in zip(lines, shares.tolist(), strict=True) if share]
    return Leakage(len(lines), sorted(leaks, key=lambda leak: (-leak.share, leak.line)))


def _batched(arrays: Iterable[np.ndarray], size: int = 2**16) -> Iterator[np.ndarray]:
    waiting, count = [], 0
    for array in arrays:
        waiting.append(array)
        count += len(array)
        if count >= size:
            yield np.concatenate(waiting)
            waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)
