"""How much of the held-out documents stands in training documents too: runs of 13 words, as GPT-3's authors counted.

A held-out document that shares a run of 13 words with a training document is no honest test: the model may have learned
the run by heart. Words are compared in lower case and without punctuation. (Brown et al. 2020, appendix C.)

Texts are taken some at a time and their runs looked up together, in operations on whole arrays. Memory is bounded: of a
very large corpus only so many held-out documents are examined as have some two million runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from unicodedata import category

import numpy as np
import pyarrow as pa

from stages.lib.corpus.characters import SEPARATOR, Kinds, code_points, joined

RUN = 13  # words
LIMIT = 2**21  # runs of held-out documents that are looked for
_GROUP = 2**19  # characters that are worked on together: a word that they repeat is looked up once


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


class Words(NamedTuple):
    """Words one after the other through some texts, by number (uint64); at which of them a run of 13 begins."""

    numbers: np.ndarray
    firsts: np.ndarray


class Numbering:
    """Numbers words from 1 on, each by itself: no two share a number."""

    def __init__(self) -> None:
        self._kinds = Kinds(_kind)
        self._known: dict[bytes, int] = {}

    def of(self, texts: list[str], learn: bool) -> tuple[Words, np.ndarray]:
        """The words of those texts that have a run, and how many runs each of all texts has.

        A word that is new gets a number if it is to `learn`, and is 0 otherwise.
        """
        characters = code_points(joined(texts).lower())
        kinds = self._kinds.of(characters)
        within = kinds == _WORD
        edges = np.flatnonzero(np.diff(within, prepend=False, append=False))
        starts, sizes = edges[::2], edges[1::2] - edges[::2]
        lengths = np.diff(np.searchsorted(starts, np.flatnonzero(kinds == _SEPARATOR)), prepend=0)
        counts = np.maximum(lengths - RUN + 1, 0)
        if not counts.all():
            long = np.repeat(counts > 0, lengths)  # of all words
            within[within] = np.repeat(long, sizes)
            sizes = sizes[long]
        words = _array(characters[within], sizes).dictionary_encode()
        different = words.dictionary.to_pylist()
        if learn:
            for word in different:
                self._known.setdefault(word, len(self._known) + 1)
        numbers = np.array([self._known.get(word, 0) for word in different], np.uint64)
        # A run begins at every word of a text but its last twelve.
        firsts = np.arange(counts.sum()) + np.repeat((RUN - 1) * (np.cumsum(counts > 0) - 1), counts)
        return Words(numbers[words.indices.to_numpy()], firsts), counts


def _array(characters: np.ndarray, sizes: np.ndarray) -> pa.LargeBinaryArray:
    """Words that stand one after the other in `characters` (uint32), each of so many characters."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]) * characters.itemsize
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(characters)]
    )


class Runs:
    """Numbers the runs of 13 words in some texts, from 1 on, and finds these runs again in others.

    Runs of two words are numbered first, as pairs of words; then those of four, as pairs of these, of eight, and of
    13, two of eight that overlap (Karp, Miller and Rosenberg 1972). So nothing rests on a hash.
    """

    def __init__(self, words: Words) -> None:
        """The runs that begin at `words.firsts`; `numbers` (int64) has one for each."""
        self._pairs: list[_Index] = []
        numbers = words.numbers
        for step in _STEPS:
            pairs, numbers = np.unique(_paired(numbers, step), return_inverse=True)
            numbers = numbers.astype(np.uint64) + np.uint64(1)
            self._pairs.append(_Index(pairs))
        self.numbers = numbers[words.firsts].astype(np.int64)

    def found_in(self, words: Words) -> np.ndarray:
        """The numbers of those runs that begin at `words.firsts`, as far as they are known."""
        numbers = words.numbers
        for step, known in zip(_STEPS, self._pairs, strict=True):
            pairs, are_known = _paired(numbers, step), numbers > 0
            both = np.flatnonzero(are_known[:-step] & are_known[step:])
            numbers = np.zeros(len(pairs), np.uint64)
            numbers[both] = known.find(pairs[both])
        found = numbers[words.firsts].astype(np.int64)
        return found[found > 0]


class _Index:
    """Different keys (uint64, above 0), numbered from 1 on in their order: a hash table with linear probing."""

    def __init__(self, keys: np.ndarray) -> None:
        self._keys = np.concatenate([np.zeros(1, np.uint64), keys])
        self._bits = (2 * len(keys)).bit_length()
        self._table = np.zeros(2**self._bits, np.uint32)
        numbers, slots = np.arange(1, len(keys) + 1), self._slots(keys)
        while len(numbers):
            free = self._table[slots] == 0
            self._table[slots[free]] = numbers[free]
            left = self._table[slots] != numbers  # another key has the slot
            numbers, slots = numbers[left], self._next(slots[left])

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The number of each of these keys, 0 for those that are not there. Keys are compared in full."""
        numbers = self._table[slots := self._slots(keys)]
        others = np.flatnonzero(self._keys[numbers] != keys)
        slots = slots[others]
        while len(others):
            taken = numbers[others] > 0
            others, slots = others[taken], self._next(slots[taken])
            numbers[others] = self._table[slots]
            differ = self._keys[numbers[others]] != keys[others]
            others, slots = others[differ], slots[differ]
        return numbers

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        # Multiplied by 2^64 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4).
        return ((keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self._bits)).astype(np.int64)

    def _next(self, slots: np.ndarray) -> np.ndarray:
        return (slots + 1) % len(self._table)


_STEPS = (1, 2, 4, 5)  # from the first to the second of a pair, so that its words are 2, 4, 8 and 13


def _paired(numbers: np.ndarray, step: int) -> np.ndarray:
    """Each number (below 2^32) and the one `step` further on, as one."""
    return numbers[:-step] << np.uint64(32) | numbers[step:]


_WORD, _OTHER, _SEPARATOR = 1, 2, 3


def _kind(character: str) -> int:
    if character == SEPARATOR:
        return _SEPARATOR
    return _WORD if category(character)[0] in "LNM" or character == "_" else _OTHER


def measure(held_out: Iterable[tuple[int, str]], training: Iterable[str], limit: int = LIMIT) -> Leakage:
    """Look for the runs of held-out documents, each given as line and text, in the texts of the training documents."""
    numbering = Numbering()
    lines, parts, counts, total, before = [], [], [], 0, 0
    for group in _groups((text, line) for line, text in held_out):
        words, found = numbering.of([text for text, _ in group], learn=True)
        lines.extend(line for _, line in group)
        parts.append(Words(words.numbers, words.firsts + before))
        counts.append(found)
        total, before = total + len(words.firsts), before + len(words.numbers)
        if total >= limit:
            break
    if not total:
        return Leakage(0, [])
    runs = Runs(Words(*map(np.concatenate, zip(*parts, strict=True))))
    seen = np.zeros(runs.numbers.max() + 1, dtype=bool)
    for group in _groups((text,) for text in training):
        words, _ = numbering.of([text for (text,) in group], learn=False)
        seen[runs.found_in(words)] = True
    counts = np.concatenate(counts)
    examined = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[examined]
    shares = np.add.reduceat(seen[runs.numbers].astype(np.int64), starts) / counts[examined]
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
