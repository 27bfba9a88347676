"""Documents that are nearly the same: edited copies, quoted replies, the same boilerplate round another line.

Two documents are as similar as the share of their shingles that both have (Jaccard); a shingle is five words in a row.
Pairs are proposed by MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3), which misses one in two hundred of those that are just similar enough, fewer of the others; more only where
hundreds of documents have so much in common that they fill a band. Each is then looked at exactly: no pair is named
that is not one.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from rensa import RMinHash

from stages.lib.overlap.words import Words, mixed, runs_of, words_of

SHINGLE = 5  # words
_MISSED = 0.005  # of the pairs that are just similar enough
_MOST_BANDS = 16
# Of a text that is there a thousand times, each copy is compared with so many at most: those before it that share most
# bands, of the nearest in each band; and no more are compared when so many are found to be nearly the same.
_COMPARED, _ENOUGH = 50, 10
_LOOKED_AT = 100
# Documents with the same number in a band, more than are looked at, are told apart by further bands, so many at most.
_FURTHER = 3
_HELD = 2**22  # shingles that are kept, in case their text is compared again
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
    """Of each text one number a band, the same for most texts that are similar: uint32 [texts, bands].

    That is 0 for a text without a word, which is like no other, and never 0 for any other.
    """
    if len(words.offsets) == 1:
        return np.empty((0, bands.count), np.uint32)
    found = shingles(words)
    count = bands.count * bands.rows
    hashes = RMinHash.digest_matrix_from_flat_token_hashes(found.numbers, found.offsets, count, _SEED)
    hashes = np.array(hashes.to_rows(), np.uint64)
    signed = np.zeros((len(hashes), bands.count), np.uint64)
    for row in range(bands.rows):
        signed = mixed(signed ^ hashes[:, row :: bands.rows])
    signed = np.maximum((signed >> np.uint64(32)).astype(np.uint32), 1)
    signed[words.counts() == 0] = 0
    return signed


def pairs(signed: np.ndarray, text_of: Callable[[int], str], similarity: float) -> Iterator[Pair]:
    """Yield the pairs of documents that are at least so similar, by the later one, then by the earlier one.

    `signed` are the signatures of all documents, in order: uint32 [documents, bands]; they are written over. `text_of`
    gives the text at a place. Of a text that is there very often each copy is compared with some, and with what these
    are copies of: the earliest that is no near-duplicate of one before.
    """
    linked, held, originals = _link(signed), _Shingles(text_of), dict[int, int]()
    for second in np.flatnonzero((linked > 0).any(axis=1)).tolist():
        alike = dict(islice(_alike(second, _candidates(linked, second), held, similarity), _ENOUGH))
        further = {originals[first] for first in alike if first in originals} - alike.keys()
        alike |= _alike(second, further, held, similarity)
        yield from (Pair(first, second, alike[first]) for first in sorted(alike))
        if (original := min((first for first in alike if first not in originals), default=None)) is not None:
            originals[second] = original


def firsts(count: int, found: Iterable[Pair]) -> array[int]:
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


class _Shingles:
    """The shingles of texts, by their places: uint64, each once, in order. Those that were asked for last are kept."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self._text_of, self._held, self._count = text_of, OrderedDict[int, np.ndarray](), 0

    def __getitem__(self, place: int) -> np.ndarray:
        if (found := self._held.pop(place, None)) is None:
            found = np.unique(shingles(words_of([self._text_of(place)])).numbers)
            self._count += len(found)
        self._held[place] = found
        while self._count > _HELD and len(self._held) > 1:
            self._count -= len(self._held.popitem(last=False)[1])
        return found


def _alike(second: int, firsts: Iterable[int], held: _Shingles, similarity: float) -> Iterator[tuple[int, float]]:
    """Yield those of the documents `firsts` that are at least so similar to `second`, and how similar they are."""
    for first in firsts:
        one, other = held[first], held[second]
        both = len(np.intersect1d(one, other, assume_unique=True))
        if (found := both / (len(one) + len(other) - both)) >= similarity:
            yield first, found


def _link(signed: np.ndarray) -> np.ndarray:
    """Put in each number's place that of the document before with the same number in this band, + 1; 0 for none.

    Where very many have the same number, it is the one before that has the same in the next bands as well.
    """
    count, first = signed.shape[1], signed[:, :_FURTHER].copy()
    for band in range(count):
        order = np.argsort(signed[:, band], kind="stable")
        column = signed[order, band]
        same = (column[1:] == column[:-1]) & (column[1:] > 0)
        for further in range(band + 1, min(band + _FURTHER, band + count - 1) + 1):
            bucket = np.cumsum(np.concatenate([[False], ~same]), dtype=np.uint32)
            crowded = np.bincount(bucket)[bucket] > _LOOKED_AT
            if not crowded.any():
                break
            number = signed[:, further] if further < count else first[:, further - count]
            members = order[crowded]
            order[crowded] = members[np.lexsort((members, number[members], bucket[crowded]))]
            numbers = number[order]
            same &= ~crowded[1:] | (numbers[1:] == numbers[:-1])
        signed[:, band] = 0
        signed[order[1:][same], band] = order[:-1][same] + 1
    return signed


def _candidates(linked: np.ndarray, place: int) -> list[int]:
    """The documents before this one with which it is to be compared, those first that share most bands."""
    shared = Counter[int]()
    for band, link in enumerate(linked[place].tolist()):
        for _ in range(_LOOKED_AT):
            if not link:
                break
            shared[link - 1] += 1
            link = int(linked[link - 1, band])
    return [other for other, _ in shared.most_common(_COMPARED)]
