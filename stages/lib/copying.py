"""Word for word: which runs of tokens a text shares with the documents the model was trained on.

All runs of `SHORTEST` tokens of the texts are looked up by hash in the training tokens, block by block, and what is
found is compared token by token from there on. That takes some seconds for 100 MB, and memory for one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stages.lib.packing import Document

SHORTEST = 5  # tokens; shorter runs are in every text
_BLOCK = 1_000_000  # training tokens looked at together
_FACTORS = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(SHORTEST)], dtype=np.uint64)
_SEPARATOR, _EDGE = -1, -2  # equal to no token, nor to each other
_PADDING = [_SEPARATOR] * SHORTEST  # so that there is something to hash, however short the texts


@dataclass(frozen=True)
class Run:
    """`length` tokens of a text, from index `start` on, that follow each other in a training document too."""

    start: int
    length: int


def runs(texts: list[np.ndarray], documents: Iterable[Document]) -> list[list[Run]]:
    """For each text, given as token ids, its runs of at least `SHORTEST` tokens that stand in one of `documents` too.

    From each index on only the longest run is listed, and none that goes on to the left in the same place.
    """
    flat = np.concatenate([[_SEPARATOR], *([*text, _SEPARATOR] for text in texts), _PADDING]).astype(np.int64)
    longest = np.zeros(len(flat), dtype=np.int64)
    keys = _keys(flat)
    order = np.argsort(keys, kind="stable")
    for block in _blocks(documents):
        _look_up(flat, longest, keys[order], order, block)
    found = []
    at = 1
    for text in texts:
        own = longest[at : at + len(text)]
        found.append([Run(int(start), int(own[start])) for start in np.flatnonzero(own)])
        at += len(text) + 1
    return found


def longest(found: list[Run]) -> int:
    """The tokens of the longest run, 0 if there is none."""
    return max((run.length for run in found), default=0)


def _blocks(documents: Iterable[Document]) -> Iterator[np.ndarray]:
    # Documents stay whole, and what opens and closes them stands in no text, so no run goes from one to the next.
    edge = np.full(SHORTEST, _EDGE)
    parts, size = [edge], 0
    for document in documents:
        parts.append(document.ids)
        size += len(document.ids)
        if size >= _BLOCK:
            yield np.concatenate([*parts, edge])
            parts, size = [edge], 0
    if size:
        yield np.concatenate([*parts, edge])


def _keys(ids: np.ndarray) -> np.ndarray:
    """A hash of the `SHORTEST` tokens from each index on."""
    windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.uint64), SHORTEST)
    return (windows * _FACTORS).sum(axis=1, dtype=np.uint64)


def _look_up(flat: np.ndarray, longest: np.ndarray, keys: np.ndarray, order: np.ndarray, block: np.ndarray) -> None:
    wanted = _keys(block)
    first, last = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
    counts = last - first
    there = np.repeat(np.arange(len(wanted)), counts)
    # The n-th of the texts' indices with the same hash, n counting up from 0 for each index of the block.
    nth = np.arange(len(there)) - np.repeat(np.cumsum(counts) - counts, counts)
    here = order[first[there] + nth]
    starts = flat[here - 1] != block[there - 1]  # index 0 holds a separator or an edge, so -1 is never a run's start
    here, there = here[starts], there[starts]
    lengths = np.zeros(len(here), dtype=np.int64)
    alive = np.arange(len(here))
    while len(alive):
        alive = alive[flat[here[alive] + lengths[alive]] == block[there[alive] + lengths[alive]]]
        lengths[alive] += 1
    real = lengths >= SHORTEST  # not so when two hashes were equal by chance
    np.maximum.at(longest, here[real], lengths[real])
