"""Documents that are nearly the same: edited copies, quoted replies, the same boilerplate round another line.

Two documents are as similar as the share of their shingles that both have (Jaccard); a shingle is five words in a row.
Pairs are proposed by MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3), which misses one in two hundred of those that are just similar enough, fewer of the others. Each is then
looked at exactly: no pair is named that is not one.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex
from rensa import RMinHash
from xxhash import xxh3_64_intdigest

from stages.lib.overlap.words import words_of

SHINGLE = 5  # words
_MISSED = 0.005  # of the pairs that are just similar enough
_MOST_BANDS = 16
# Of a text that is there a thousand times, each copy is compared with so many: those before it that share most bands,
# of the nearest in each band.
_COMPARED = 10
_LOOKED_AT = 20
_SEED = 1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits all over
# Scripts that put no space between words: each character counts as a word.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_PARTS = regex.compile(rf"{_UNSPACED.pattern}\p{{M}}*|[^{_UNSPACED.pattern[1:-1]}]+")


class Pair(NamedTuple):
    """Two documents, by their places, the earlier one first, and how similar they are."""

    first: int
    second: int
    similarity: float


class Bands(NamedTuple):
    """How a signature is cut: `count` bands of `rows` hashes each."""

    count: int
    rows: int

    @classmethod
    def of(cls, similarity: float) -> Bands:
        """The most rows, and so the fewest pairs to look at in vain, that find pairs this similar."""
        for rows in range(8, 0, -1):
            # A band of two documents is the same with the probability similarity ^ rows.
            same = min(similarity**rows, 1 - 1e-9)
            count = math.ceil(math.log(_MISSED) / math.log(1 - same))
            if count <= _MOST_BANDS:
                return cls(count, rows)
        return cls(_MOST_BANDS, 1)


def shingles(text: str) -> set[str]:
    """The shingles of a text; of one that is shorter, all of it."""
    words = _words(text)
    return {" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}


def signatures(texts: Sequence[str], bands: Bands) -> np.ndarray:
    """Of each text one number a band, the same for most texts that are similar: uint32 [texts, bands]."""
    if not texts:
        return np.empty((0, bands.count), np.uint32)
    hashes, offsets = _hashed(texts)
    count = bands.count * bands.rows
    rows = np.array(RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, count, _SEED).to_rows(), np.uint64)
    mixed = np.zeros((len(texts), bands.count), np.uint64)
    for row in range(bands.rows):
        mixed = (mixed ^ rows[:, row :: bands.rows]) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _words(text: str) -> list[str]:
    words = words_of(text)
    if _UNSPACED.search(text):
        return [part for word in words for part in _PARTS.findall(word)]
    return words


def _hashed(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of all texts as hashes (uint64), and where those of each begin, with the end of all (int64).

    The same as hashing each of `shingles`, for all texts at once; some stand there more than once.
    """
    words: list[int] = []
    counts = []
    for text in texts:
        found = [xxh3_64_intdigest(word.encode()) for word in _words(text)]
        found += [0] * (SHINGLE - len(found))
        words += found
        counts.append(len(found))
    hashes = np.array(words, np.uint64)
    rolled = np.zeros(len(hashes) - SHINGLE + 1, np.uint64)
    for place in range(SHINGLE):
        rolled = rolled * _MULTIPLIER + hashes[place : place + len(rolled)]
    within = np.ones(len(hashes), bool)
    for back in range(1, SHINGLE):
        within[np.cumsum(counts) - back] = False  # they would go on into the next text
    return rolled[within[: len(rolled)]], np.cumsum([0, *(count - SHINGLE + 1 for count in counts)])


def pairs(signed: np.ndarray, text_of: Callable[[int], str], similarity: float) -> Iterator[Pair]:
    """Yield the pairs of documents that are at least so similar, by the later one, then by the earlier one.

    `signed` are the signatures of all documents, in order: uint32 [documents, bands]; they are written over. `text_of`
    gives the text at a place.
    """
    linked = _link(signed)

    @lru_cache(maxsize=1000)
    def shingles_of(place: int) -> set[str]:
        return shingles(text_of(place))

    for second in np.flatnonzero((linked > 0).any(axis=1)).tolist():
        mine = shingles_of(second)
        for first in _candidates(linked, second):
            found = _jaccard(mine, shingles_of(first))
            if found >= similarity:
                yield Pair(first, second, found)


def firsts(count: int, found: Sequence[Pair]) -> array[int]:
    """For each of `count` documents the place of the first one that it is, by way of others even, a near-duplicate of.

    One that is like no other is its own first.
    """
    parents = array("q", range(count))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    for pair in found:
        one, other = sorted((root(pair.first), root(pair.second)))
        parents[other] = one
    for place in range(count):
        parents[place] = parents[parents[place]]  # the first of a group comes before all others of it
    return parents


def _jaccard(one: set[str], other: set[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def _link(signed: np.ndarray) -> np.ndarray:
    """Put in each number's place that of the document before with the same number in this band, + 1; 0 for none."""
    for band in range(signed.shape[1]):
        column = signed[:, band]
        order = np.argsort(column, kind="stable")
        same = column[order[1:]] == column[order[:-1]]
        column[:] = 0
        column[order[1:][same]] = order[:-1][same] + 1
    return signed


def _candidates(linked: np.ndarray, place: int) -> list[int]:
    """The documents before this one with which it is to be compared, in order."""
    shared = Counter[int]()
    for band, link in enumerate(linked[place].tolist()):
        for _ in range(_LOOKED_AT):
            if not link:
                break
            shared[link - 1] += 1
            link = int(linked[link - 1, band])
    return sorted(other for other, _ in shared.most_common(_COMPARED))
