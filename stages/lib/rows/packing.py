"""Documents into rows: cut what is longer than a row, pack what is shorter, lose no token.

A document of token ids d1 ... dn becomes the sequence B d1 ... dn E, where B opens a text and E closes it; for OpenAI's
models both are `<|endoftext|>`. The sequence is cut into segments of at most `max_length` tokens, each after the first
beginning with the last token of the one before.
The first token of a segment is context only; every other token is predicted once, in exactly one segment.

Segments are then packed into rows: the longest one that waits opens a row, and the one, two or three that fill the rest
best go with it. That is tried among the documents of one window. A window of some million tokens is what is held in
memory; it fills rows nearly as well as the whole corpus at once would.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
    rows: list[Row] = []
    ends: list[Segment] = []
    for document in window:
        *full, end = segments(document, max_length)
        rows.extend([segment] for segment in full)
        ends.append(end)
    waiting = _Waiting(ends)
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
    """The segments that have no row yet, by length; `lengths` are those that there are, in order."""

    def __init__(self, segments: list[Segment]) -> None:
        self._by_length: dict[int, list[Segment]] = {}
        for segment in reversed(segments):  # so that of equally long ones the first in the corpus is taken first
            self._by_length.setdefault(len(segment.ids), []).append(segment)
        self.lengths = sorted(self._by_length)

    def take(self, length: int) -> Segment:
        """Hand out a segment of this length."""
        found = self._by_length[length]
        if len(found) == 1:
            del self._by_length[length]
            self.lengths.remove(length)
        return found.pop()

    def best_for(self, room: int) -> tuple[int, ...]:
        """The one, two or three lengths that leave the least room, the fewest of those; () if none fits."""
        fitting = bisect_right(self.lengths, room)
        if not fitting:
            return ()
        longest = self.lengths[fitting - 1]
        if room > 3 * longest:
            return (longest,)
        pairs = map(self._pair, range(min(room, 2 * longest), longest, -1))
        best = next(filter(None, pairs), (longest,))
        threes = map(self._three, range(room, sum(best), -1))
        return next(filter(None, threes), best)

    def _pair(self, total: int, beside: int = 0) -> tuple[int, ...]:
        """Two lengths that add up to `total`, as even as can be: the short ones are wanted for later rows.

        `beside` is a length of which one segment is spoken for.
        """
        for at in range(bisect_left(self.lengths, (total + 1) // 2), len(self.lengths)):
            pair = (self.lengths[at], total - self.lengths[at])
            if pair[1] < self.lengths[0]:
                break
            if all(len(self._by_length.get(one, ())) >= pair.count(one) + (one == beside) for one in pair):
                return pair
        return ()

    def _three(self, total: int) -> tuple[int, ...]:
        """Three lengths that add up to `total`, the first as great as can be."""
        for at in range(bisect_right(self.lengths, total - 2 * self.lengths[0]) - 1, -1, -1):
            length = self.lengths[at]
            if 3 * length < total:
                break
            if pair := self._pair(total - length, beside=length):
                return (length, *pair)
        return ()


def documents_of(rows: Iterable[Row], closing: int) -> Iterator[Document]:
    """Put packed documents together again, in the order in which they end. `closing` is the id of E."""
    unfinished: dict[int, tuple[list[np.ndarray], int]] = {}
    for row in rows:
        for segment in row:
            if segment.line in unfinished:
                parts, size = unfinished[segment.line]
                parts.append(segment.ids[1:])
            else:
                parts, size = [segment.ids], segment.size
                unfinished[segment.line] = parts, size
            if segment.last:
                del unfinished[segment.line]
                # E stands nowhere inside a document, and a segment has at least two tokens: E at the end is the end.
                yield Document(segment.line, np.concatenate(parts), size, bool(segment.ids[-1] == closing))
