"""Documents into rows: cut what is longer than a row, pack what is shorter, lose no token.

A document of token ids d1 ... dn becomes the sequence E d1 ... dn E, where E is `<|endoftext|>`. The sequence is cut
into segments of at most `max_length` tokens, each after the first beginning with the last token of the one before.
The first token of a segment is context only; every other token is predicted once, in exactly one segment.

Segments are then packed into rows by best fit, the longest first, among the documents of one window. A window of
some million tokens is what is held in memory; it fills rows nearly as well as the whole corpus at once would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

WINDOW = 4_000_000  # tokens that are packed together


@dataclass(frozen=True)
class Document:
    """One document as the model sees it: `ids` are E d1 ... dn E; `size` is the UTF-8 bytes of its text."""

    line: int
    ids: np.ndarray
    size: int


@dataclass(frozen=True)
class Segment:
    """A run of a document's tokens that stands in one row. `size` is the document's bytes, 0 after its first one."""

    line: int
    ids: np.ndarray
    size: int


Row = list[Segment]


def segments(document: Document, max_length: int) -> list[Segment]:
    """Cut a document into segments of at most `max_length` tokens, each overlapping the one before by one token."""
    ids = document.ids
    starts = range(0, max(len(ids) - 1, 1), max_length - 1)
    return [Segment(document.line, ids[at : at + max_length], document.size if at == 0 else 0) for at in starts]


def shorten(document: Document, max_length: int, overlong: str) -> Document | None:
    """What is left of a document for rows of `max_length` tokens: all of it, its beginning, or nothing.

    `overlong` says what becomes of a document longer than a row. `split`: it stays whole, and goes on in further rows.
    `truncate`: its first `max_length` tokens stay, without the closing E, because the text does not end there. `drop`:
    None is returned.
    """
    if overlong == "split" or len(document.ids) <= max_length:
        return document
    return Document(document.line, document.ids[:max_length], document.size) if overlong == "truncate" else None


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

    # open_rows[n]: the rows with room for exactly n tokens. Bit n of `roomy` is set when there are any, so that the
    # tightest row with room is one bit operation away, however many rows are open.
    open_rows: list[list[Row]] = [[] for _ in range(max_length + 1)]
    roomy = 0
    for segment in sorted(ends, key=lambda segment: -len(segment.ids)):
        length = len(segment.ids)
        fits = roomy >> length
        if fits:
            room = length + (fits & -fits).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                roomy &= ~(1 << room)
        else:
            room, row = max_length, []
            rows.append(row)
        row.append(segment)
        open_rows[room - length].append(row)
        roomy |= 1 << (room - length)

    for row in rows[full_rows:]:
        row.sort(key=lambda segment: segment.line)
    # A stable sort: a document's full rows stay in order and before the row that holds its end.
    return sorted(rows, key=lambda row: row[-1].line)


def documents_of(rows: Iterable[Row], boundary: int) -> Iterator[Document]:
    """Put packed documents together again, in the order in which they end. `boundary` is the id of E."""
    unfinished: dict[int, tuple[list[np.ndarray], int]] = {}
    for row in rows:
        for segment in row:
            if segment.line in unfinished:
                parts, size = unfinished[segment.line]
                parts.append(segment.ids[1:])
            else:
                parts, size = [segment.ids], segment.size
                unfinished[segment.line] = parts, size
            # E stands nowhere inside a document, and a segment has at least two tokens, so E at the end is the end.
            if segment.ids[-1] == boundary:
                del unfinished[segment.line]
                yield Document(segment.line, np.concatenate(parts), size)
