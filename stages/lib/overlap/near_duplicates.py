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
from rensa import RMinHash

from stages.lib.overlap.words import Words, mixed, runs_of, words_of

SHINGLE = 5  # words
_MISSED = 0.005  # of the pairs that are just similar enough
_MOST_BANDS = 16
# Of a text that is there a thousand times, each copy is compared with so many: those before it that share most bands,
# of the nearest in each band.
_COMPARED = 10
_LOOKED_AT = 20
_SEED = 1


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


def shingles(words: Words) -> Words:
    """The shingles of each text; of one that is shorter, all of it. Some stand there more than once."""
    missing = np.maximum(SHINGLE - words.counts(), 0)
    filled = np.insert(words.numbers, np.repeat(words.offsets[1:], missing), 0)
    return runs_of(Words(filled, words.offsets + np.concatenate([[0], np.cumsum(missing)])), SHINGLE)


def signatures(words: Words, bands: Bands) -> np.ndarray:
    """Of each text one number a band, the same for most texts that are similar: uint32 [texts, bands]."""
    if len(words.offsets) == 1:
        return np.empty((0, bands.count), np.uint32)
    found = shingles(words)
    count = bands.count * bands.rows
    hashes = RMinHash.digest_matrix_from_flat_token_hashes(found.numbers, found.offsets, count, _SEED)
    hashes = np.array(hashes.to_rows(), np.uint64)
    signed = np.zeros((len(hashes), bands.count), np.uint64)
    for row in range(bands.rows):
        signed = mixed(signed ^ hashes[:, row :: bands.rows])
    return (signed >> np.uint64(32)).astype(np.uint32)


def pairs(signed: np.ndarray, text_of: Callable[[int], str], similarity: float) -> Iterator[Pair]:
    """Yield the pairs of documents that are at least so similar, by the later one, then by the earlier one.

    `signed` are the signatures of all documents, in order: uint32 [documents, bands]; they are written over. `text_of`
    gives the text at a place.
    """
    linked = _link(signed)

    @lru_cache(maxsize=1000)
    def shingles_of(place: int) -> set[int]:
        return set(shingles(words_of([text_of(place)])).numbers.tolist())

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


def _jaccard(one: set[int], other: set[int]) -> float:
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
