"""A block of lines to the documents in it, most of them without a look at any single line.

Nearly every line of a corpus is an object with one string in it. Such a text is cut out of the block as it stands
there, together with all the others, by operations on whole arrays. Every other line goes to the careful parser of
`records`, which knows what can be wrong with it, and whose word is final: what both can read, they read the same.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.lib.corpus import scan
from stages.lib.corpus.lines import Block
from stages.lib.corpus.records import BadLine, Line, refuse_control_characters, text_of
from stages.lib.corpus.unusual import are_control, unusual_places

_NEWLINE, _RETURN, _QUOTE, _BACKSLASH, _BRACE = b'\n\r"\\}'
# What an escape stands for; 0 for those that are left to the careful parser.
_UNESCAPED = np.zeros(256, np.uint8)
_UNESCAPED[list(b'n"tr/')] = list(b'\n"\t\r/')
# An escape that may stand for an unusual character.
_ESCAPED_CHARACTER = re.compile(rb"\\[bfu]")
# Whatever is white space in a line of JSON, escaped or not, and more: a text that it matches may be empty.
# It takes what it can and never goes back: to remember where it might costs a hundred bytes for each of the text.
_MAYBE_EMPTY = re.compile(rb"(?:[ \\nrt]+|[\xc2\xe1\xe2\xe3][\x80-\xbf]+)*+")
_MAYBE_EMPTY_START = np.isin(np.arange(256), list(b" \\\xc2\xe1\xe2\xe3"))


class Problem(NamedTuple):
    """A bad line: its number, what is wrong with it, and its bytes without the line end (cut, if it is too long).

    `kind` is the same few words for every line with this problem, `reason` says what is wrong and what to do.
    """

    line: int
    kind: str
    reason: str
    content: bytes


class Problems:
    """The bad lines of a block, in order.

    A block may have millions of them, and what is to be said of each takes a hundred times the memory of the line. So
    it is found out whenever it is asked for, and only the places of the lines are kept.
    """

    def __init__(self, read: Callable[[int], object], line: Callable[[int], Line], indices: array[int]) -> None:
        """`read` raises BadLine for the line of each of these indices, and `line` gives it."""
        self._read, self._line, self._indices = read, line, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Problem]:
        for index in self._indices:
            line = self._line(index)
            try:
                self._read(index)
            except BadLine as error:
                kind, reason = error.kind, str(error)
            yield Problem(line.number, kind, reason, line.content)


class Documents(NamedTuple):
    """What a block holds: `texts`, the `lines` (int64) they stand on, and which are `unusual` (bool).

    A text that is not unusual is its own Unicode composition (NFC), and its white space is ASCII's. Further the
    `problems`, in order; how many lines there are in all, how many are `blank`, and how many end as on Windows.
    """

    texts: pa.StringArray
    lines: np.ndarray
    unusual: np.ndarray
    problems: Problems
    count: int
    blank: int
    windows_line_ends: int


class Parser:
    """Takes the documents out of blocks of lines."""

    def __init__(self, text_field: str, max_bytes: int, most: int | None = None) -> None:
        """`text_field` is the field that holds the text; a line of more than `max_bytes` is a bad one.

        When a block has `most` bad lines, the rest of it is not looked at.
        """
        self._field = text_field
        self._max_bytes = max_bytes
        self._most = most
        quoted = json.dumps(text_field, ensure_ascii=False).encode("utf-8", "backslashreplace")
        # How an object begins, as the usual programs write it: with and without a space.
        self._beginnings = [np.frombuffer(b"{" + quoted + colon + b'"', np.uint8) for colon in (b": ", b":")]

    def parse(self, block: Block) -> Documents:
        """The documents of a block, in order, exactly as they stand there."""
        bounds = _Bounds(block)
        plain, texts, unusual = self._cut_out(bounds)
        blank = bounds.stops == bounds.starts
        careful, problems, more_blank = self._with_care(bounds, np.flatnonzero(~plain & ~blank), unusual)
        indices, unusual = np.flatnonzero(plain), unusual[plain]
        if careful:
            found = pa.array([text for _, text, _ in careful], pa.string())
            indices = np.concatenate([indices, [index for index, _, _ in careful]])
            unusual = np.concatenate([unusual, [strange for _, _, strange in careful]])
            order = np.argsort(indices)
            texts, indices, unusual = (
                pa.concat_arrays([texts, found]).take(pa.array(order)),
                indices[order],
                unusual[order],
            )
        return Documents(
            *(texts, block.number + indices, unusual, problems, len(bounds.starts)),
            *(int(blank.sum()) + more_blank, int(bounds.windows.sum())),
        )

    def _cut_out(self, bounds: _Bounds) -> tuple[np.ndarray, pa.StringArray, np.ndarray]:
        """Of all lines: which are plain (bool), the texts of these, and which may have unusual characters (bool)."""
        values, starts, stops = bounds.values, bounds.starts, bounds.stops
        plain, unusual = np.zeros((2, len(starts)), dtype=bool)
        # Where each text has its first byte, and where the quotation mark behind it stands.
        firsts, lasts = starts.copy(), stops - 2
        if bounds.block.size > len(values) or not _is_utf8(bounds.block.content):
            return plain, pa.array([], pa.string()), ~unusual

        for beginning in self._beginnings:
            size = len(beginning)
            found = np.flatnonzero(~plain & (lasts > starts + size) & (stops - starts <= self._max_bytes))
            found = found[(values[starts[found, None] + np.arange(size)] == beginning).all(axis=1)]
            found = found[(values[lasts[found]] == _QUOTE) & (values[lasts[found] + 1] == _BRACE)]
            plain[found] = True
            firsts[found] += size

        places = unusual_places(values)
        unusual[bounds.lines_of(places)] = True
        plain[bounds.lines_of(places[are_control(values, places)])] = False
        for index in np.flatnonzero(plain & _MAYBE_EMPTY_START[values[firsts]]):
            plain[index] = not _MAYBE_EMPTY.fullmatch(bounds.block.content, firsts[index], lasts[index])

        def inside(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Those of the places that are inside the text of a plain line, and these lines."""
            lines = bounds.lines_of(places)
            within = plain[lines] & (places >= firsts[lines]) & (places < lasts[lines])
            return places[within], lines[within]

        # An escaped backslash is left to the careful parser: without one, each backslash begins an escape of its own.
        backslashes, lines = inside(scan.places(lambda piece: piece == _BACKSLASH, values))
        plain[lines[(_UNESCAPED[values[backslashes + 1]] == 0) | (backslashes + 1 == lasts[lines])]] = False
        quotes, lines = inside(scan.places(lambda piece: piece == _QUOTE, values))
        plain[lines[values[quotes - 1] != _BACKSLASH]] = False

        backslashes, lines = inside(backslashes)
        written = values.copy()
        written[backslashes + 1] = _UNESCAPED[values[backslashes + 1]]
        # What stands between the texts, the texts, and so on in turn.
        turns = np.diff(np.stack([firsts[plain], lasts[plain]], axis=1).ravel(), prepend=0, append=len(values))
        keep = np.repeat(np.arange(len(turns)) % 2 == 1, turns)
        keep[backslashes] = False
        sizes = lasts - firsts - np.bincount(lines, minlength=len(starts))
        offsets = np.concatenate([[0], np.cumsum(sizes[plain])]).astype(np.int32)
        texts = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(written[keep]))
        return plain, texts, unusual

    def _with_care(
        self, bounds: _Bounds, indices: np.ndarray, unusual_lines: np.ndarray
    ) -> tuple[list[tuple[int, str, bool]], Problems, int]:
        """Of the lines with these indices: index, text and whether it is unusual; the bad ones; how many are blank."""

        def read(index: int) -> tuple[str, bool] | None:
            return self._read(bounds.line(index), bool(unusual_lines[index]))

        found, bad, blank = [], array("q"), 0
        for index in indices.tolist():
            try:
                if (document := read(index)) is None:
                    blank += 1
                else:
                    found.append((index, *document))
            except BadLine:
                bad.append(index)
                if len(bad) == self._most:
                    break
        return found, Problems(read, bounds.line, bad), blank

    def _read(self, line: Line, unusual: bool) -> tuple[str, bool] | None:
        """The text of a line and whether it is unusual, which the line may be; None if it is blank. Raises BadLine."""
        text = text_of(line, self._field, self._max_bytes)
        if text is None:
            return None
        unusual = unusual or _ESCAPED_CHARACTER.search(line.content) is not None
        if unusual:
            refuse_control_characters(text)
            unusual = len(unusual_places(np.frombuffer(text.encode("utf-8"), np.uint8))) > 0
        return text, unusual


class _Bounds:
    """Where the lines of a block are: all arrays have an entry for each line, counted from 0."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.values = values = np.frombuffer(block.content, np.uint8)
        self._newlines = scan.places(lambda piece: piece == _NEWLINE, values)
        unfinished = values[-1] != _NEWLINE
        ends = np.append(self._newlines, len(values)) if unfinished else self._newlines
        self.starts = np.concatenate([[0], ends[:-1] + 1])
        self.windows = (ends > self.starts) & (values[ends - 1] == _RETURN)
        if unfinished:
            self.windows[-1] = False
        self.stops = ends - self.windows  # behind the last byte that is not of the line end

    def lines_of(self, places: np.ndarray) -> np.ndarray:
        """The line that each of these places is in."""
        return np.searchsorted(self._newlines, places)

    def line(self, index: int) -> Line:
        """One line by itself."""
        content, start, stop = self.block.content, self.starts[index], self.stops[index]
        end = content[stop : stop + 2] if self.windows[index] else content[stop : stop + 1]
        size = stop - start + len(end) if self.block.size == len(content) else self.block.size
        return Line(self.block.number + index, content[start:stop], end, int(size))


def _is_utf8(content: bytes) -> bool:
    offsets = pa.py_buffer(np.array([0, len(content)], np.int64))
    try:
        # A third quicker than decoding, and without Python's lock.
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(content)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
