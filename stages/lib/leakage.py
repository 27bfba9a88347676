"""How much of the held-out documents stands in training documents too: runs of 13 words, as GPT-3's authors counted.

A held-out document that shares a run of 13 words with a training document is no honest test: the model may have learned
the run by heart. Words are compared in lower case and without punctuation. (Brown et al. 2020, appendix C.)

Texts are taken some at a time and their runs hashed together, in operations on whole arrays. Memory is bounded: of a
very large corpus only so many held-out documents are examined as have some two million runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from unicodedata import category

import numpy as np

from stages.lib.characters import SEPARATOR, Kinds, code_points, joined
from stages.lib.hashing import mixed, segment_hashes

RUN = 13  # words
LIMIT = 2**21  # runs of held-out documents that are looked for
_GROUP = 2**18  # characters that are worked on together, which fit in the processor's cache


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


class Runs:
    """Finds the runs of words in texts."""

    def __init__(self) -> None:
        self._kinds = Kinds(_kind)

    def of(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """A hash (uint64) for each run of 13 words in the texts, in order, and how many runs each text has."""
        characters = code_points(joined(texts).lower())
        kinds = self._kinds.of(characters)
        edges = np.flatnonzero(np.diff(kinds == _WORD, prepend=False, append=False))
        starts, ends = edges[::2], edges[1::2]
        words = mixed(segment_hashes(characters, starts, ends))
        lengths = np.diff(np.searchsorted(starts, np.flatnonzero(kinds == _SEPARATOR)), prepend=0)
        counts = np.maximum(lengths - RUN + 1, 0)
        # A run begins at every word of a text but its last twelve.
        skipped = (np.cumsum(lengths) - lengths) - (np.cumsum(counts) - counts)
        firsts = np.arange(counts.sum()) + np.repeat(skipped, counts)
        return segment_hashes(words, firsts, firsts + RUN), counts


_WORD, _OTHER, _SEPARATOR = 1, 2, 3


def _kind(character: str) -> int:
    if character == SEPARATOR:
        return _SEPARATOR
    return _WORD if category(character)[0] in "LNM" or character == "_" else _OTHER


def measure(held_out: Iterable[tuple[int, str]], training: Iterable[str], limit: int = LIMIT) -> Leakage:
    """Look for the runs of held-out documents, each given as line and text, in the texts of the training documents."""
    runs = Runs()
    lines, parts, counts, total = [], [], [], 0
    for group in _groups((text, line) for line, text in held_out):
        hashes, found = runs.of([text for text, _ in group])
        lines.extend(line for _, line in group)
        parts.append(hashes)
        counts.append(found)
        total += len(hashes)
        if total >= limit:
            break
    if not total:
        return Leakage(0, [])
    wanted, places = np.unique(np.concatenate(parts), return_inverse=True)
    seen = np.zeros(len(wanted), dtype=bool)
    for group in _groups((text,) for text in training):
        hashes, _ = runs.of([text for (text,) in group])
        hashes.sort()  # looked up in order, neighbours are met in the cache
        found = np.searchsorted(wanted, hashes)
        found[found == len(wanted)] = 0
        seen[found[wanted[found] == hashes]] = True
    counts = np.concatenate(counts)
    examined = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[examined]
    shares = np.add.reduceat(seen[places].astype(np.int64), starts) / counts[examined]
    leaks = [Leak(lines[index], share) for index, share in zip(examined, shares.tolist(), strict=True) if share]
    return Leakage(len(examined), sorted(leaks, key=lambda leak: (-leak.share, leak.line)))


def _groups(documents: Iterable[tuple]) -> Iterator[list[tuple]]:
    """Documents, each a tuple that begins with its text, in groups of some `_GROUP` characters."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document[0])
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
