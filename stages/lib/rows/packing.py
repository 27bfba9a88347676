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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

WINDOW = 4_000_000  # tokens that are packed together


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
    full_rows = len(rows)

    waiting = _Waiting(ends, max_length)
    while waiting:
        row = [waiting.take(waiting.longest(max_length))]
        room = max_length - len(row[0].ids)
        while chosen := waiting.best_for(room):
            row += [waiting.take(length) for length in chosen]
            room -= sum(chosen)
        rows.append(row)

    for row in rows[full_rows:]:
        row.sort(key=lambda segment: segment.line)
    # A stable sort: a document's full rows stay in order and before the row that holds its end.
    return sorted(rows, key=lambda row: row[-1].line)


class _Waiting:
    """The segments that have no row yet, by length.

    Bit n of `present` is set when there is one of n tokens, and bit max_length - n of `mirrored`. So the pairs of
    lengths that add up to a number are one operation on integers away, however many segments wait.
    """

    def __init__(self, segments: list[Segment], max_length: int) -> None:
        self._by_length: list[list[Segment]] = [[] for _ in range(max_length + 1)]
        for segment in reversed(segments):  # so that of equally long ones the first in the corpus is taken first
            self._by_length[len(segment.ids)].append(segment)
        self._max_length = max_length
        self._present = sum(1 << length for length, found in enumerate(self._by_length) if found)
        self._mirrored = sum(1 << (max_length - length) for length, found in enumerate(self._by_length) if found)

    def __bool__(self) -> bool:
        return self._present > 0

    def take(self, length: int) -> Segment:
        """Hand out a segment of this length."""
        found = self._by_length[length]
        segment = found.pop()
        if not found:
            self._present ^= 1 << length
            self._mirrored ^= 1 << (self._max_length - length)
        return segment

    def longest(self, room: int) -> int:
        """The greatest length that fits, 0 if none does."""
        fitting = self._present & ((2 << room) - 1)
        return max(fitting.bit_length() - 1, 0)

    def best_for(self, room: int) -> tuple[int, ...]:
        """The one, two or three lengths that leave the least room, the fewest of those; () if none fits."""
        longest = self.longest(room)
        if not longest or room > 3 * longest:
            return (longest,) if longest else ()
        left = ()
        for total in range(room, longest - 1, -1):
            left = (total,) if self._present >> total & 1 else self._pair(total)
            if left:
                break
        for total in range(room, sum(left), -1):
            if three := self._three(total):
                return three
        return left

    def _pair(self, total: int, without: int = 0) -> tuple[int, ...]:
        """Two lengths that add up to `total`, as even as can be: the short ones are wanted for later rows."""
        half = (total + 1) // 2
        greater = (self._present & self._mirrored >> (self._max_length - total)) >> half << half
        while greater:
            length = (greater & -greater).bit_length() - 1
            pair = (length, total - length)
            if all(len(self._by_length[one]) >= pair.count(one) + (one == without) for one in pair):
                return pair
            greater &= greater - 1
        return ()

    def _three(self, total: int) -> tuple[int, ...]:
        """Three lengths that add up to `total`."""
        least = (total + 2) // 3
        greatest = (self._present & ((1 << total) - 1)) >> least << least
        while greatest:
            length = greatest.bit_length() - 1
            if pair := self._pair(total - length, without=length):
                return (length, *pair)
            greatest ^= 1 << length
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
