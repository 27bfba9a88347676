"""Documents into rows: cut what is longer than a row, pack what is shorter, lose no token.

A document of token ids d1 ... dn becomes the sequence B d1 ... dn E, where B opens a text and E closes it; for OpenAI's
models both are `<|endoftext|>`. The sequence is cut into segments of at most `max_length` tokens, each after the first
beginning with the last token of the one before. The first token of a segment is context only; every other token is
predicted once, in exactly one segment.

Segments are then packed into rows: the longest one that waits opens a row, and the one, two or three that fill the rest
best go with it. That is tried among the documents of one window. A window of some million tokens is what is held in
memory; it fills rows nearly as well as the whole corpus at once would.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

WINDOW = 4_000_000  # tokens that are packed together
IGNORE = -100  # the label of a token that is not to be predicted


@dataclass(frozen=True)
class Document:
    """One document as the model sees it: `ids` are B d1 ... dn E; `size` is the UTF-8 bytes of its text.

    One that was cut short is B d1 ... dm, without the E: it is not `whole`.
    """

    line: int
    ids: np.ndarray
    size: int
    whole: bool = True


@dataclass(frozen=True)
class Segment:
    """A run of a document's tokens that stands in one row.

    `size` is the document's bytes, 0 after its first segment; with its `last` one nothing of it follows in later rows.
    """

    line: int
    ids: np.ndarray
    size: int
    last: bool


Row = list[Segment]


def segments(document: Document, max_length: int) -> list[Segment]:
    """Cut a document into segments of at most `max_length` tokens, each overlapping the one before by one token."""
    ids = document.ids
    starts = range(0, max(len(ids) - 1, 1), max_length - 1)
    return [
        Segment(document.line, ids[at : at + max_length], document.size if at == 0 else 0, last=at == starts[-1])
        for at in starts
    ]


def shorten(document: Document, max_length: int, overlong: str) -> Document | None:
    """What is left of a document for rows of `max_length` tokens: all of it, its beginning, or nothing.

    `overlong` says what becomes of a document longer than a row. `split`: it stays whole, and goes on in further rows.
    `truncate`: its first `max_length` tokens stay, without the closing E, because the text does not end there. `drop`:
    None is returned.
    """
    if overlong == "split" or len(document.ids) <= max_length:
        return document
    return Document(document.line, document.ids[:max_length], document.size, False) if overlong == "truncate" else None


def pack(documents: Iterable[Document], max_length: int) -> Iterator[Row]:
    """Pack documents into rows of at most `max_length` tokens; the segments of a row stand in corpus order.

    Rows come in the order of the last document in each. So the segments of a document come in order, and how long
    documents are says little about where their rows stand.
    """
    window: list[Document] = []
    tokens = 0
    for document in documents:
        window.append(document)
        tokens += len(document.ids)
        if tokens >= WINDOW:
            yield from _pack_window(window, max_length)
            window, tokens = [], 0
    yield from _pack_window(window, max_length)


def _pack_window(window: list[Document], max_length: int) -> list[Row]:
    cut = [segments(document, max_length) for document in window]
    rows = [[segment] for one in cut for segment in one[:-1]]
    waiting = _Waiting([one[-1] for one in cut])
    while waiting.lengths:
        row = [waiting.take(waiting.lengths[-1])]
        room = max_length - len(row[0].ids)
        while chosen := waiting.best_for(room):
            row += map(waiting.take, chosen)
            room -= sum(chosen)
        rows.append(sorted(row, key=lambda segment: segment.line))
    # A stable sort: a document's full rows stay in order and before the row that holds its end.
    return sorted(rows, key=lambda row: row[-1].line)


class _Waiting:
    """The segments that have no row yet; `lengths` are those that there are, in order."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = defaultdict[int, list[Segment]](list)
        for segment in reversed(segments):  # so that of equally long ones the first in the corpus is taken first
            self._segments[len(segment.ids)].append(segment)
        self._count = Counter({length: len(found) for length, found in self._segments.items()})
        self.lengths = sorted(self._segments)

    def take(self, length: int) -> Segment:
        """Hand out a segment of this length."""
        self._count[length] -= 1
        if not self._count[length]:
            self.lengths.remove(length)
        return self._segments[length].pop()

    def best_for(self, room: int) -> tuple[int, ...]:
        """The one, two or three lengths that leave the least room, the fewest of those; () if none fits."""
        longest = max(self._between(1, room), default=0)
        if not longest or room > 3 * longest:
            return (longest,) if longest else ()
        pairs = map(self._pair, range(min(room, 2 * longest), longest, -1))
        best = next(filter(None, pairs), (longest,))
        threes = map(self._three, range(room, sum(best), -1))
        return next(filter(None, threes), best)

    def _between(self, least: int, greatest: int) -> list[int]:
        return self.lengths[bisect_left(self.lengths, least) : bisect_right(self.lengths, greatest)]

    def _pair(self, total: int) -> tuple[int, ...]:
        """Two lengths that add up to `total`, as even as can be: the short ones are wanted for later rows."""
        for greater in self._between((total + 1) // 2, total - self.lengths[0]):
            less = total - greater
            if self._count[less] and self._count[greater] > (less == greater):
                return greater, less
        return ()

    def _three(self, total: int) -> tuple[int, ...]:
        """Three lengths that add up to `total`, the first as great as can be."""
        for first in reversed(self._between((total + 2) // 3, total - 2 * self.lengths[0])):
            self._count[first] -= 1  # one of them is spoken for
            pair = self._pair(total - first)
            self._count[first] += 1
            if pair:
                return (first, *pair)
        return ()


def documents_of(rows: Iterable[Row], closing: int) -> Iterator[Document]:
    """Put packed documents together again, in the order in which they end. `closing` is the id of E."""
    unfinished = defaultdict[int, list[Segment]](list)
    for segment in chain.from_iterable(rows):
        unfinished[segment.line].append(segment)
        if segment.last:
            first, *others = unfinished.pop(segment.line)
            ids = np.concatenate([first.ids, *(other.ids[1:] for other in others)])
            # E stands nowhere inside a document, and a segment has at least two tokens: E at the end is the end.
            yield Document(segment.line, ids, first.size, bool(ids[-1] == closing))
