"""A block of lines to the documents in it, each with what it is compared with others by.

What a block holds depends on nothing outside it, so that the blocks of a large corpus are shared among processes. Which
documents are copies of others is found out where all of them come together.
"""

from __future__ import annotations

import io
import json
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.lib.common import parallel
from stages.lib.common.cli import printable
from stages.lib.corpus import description
from stages.lib.corpus.lines import Block
from stages.lib.corpus.records import BadLine, Line, text_of
from stages.lib.overlap import leakage, near_duplicates
from stages.lib.overlap.near_duplicates import Bands
from stages.lib.overlap.words import words_of

_SMALL = 16_000_000  # bytes of a corpus below which further processes cost more time than they save
KEY = 16  # bytes


class Rules(NamedTuple):
    """How lines are read: the field that holds the text, and the most bytes that a line may have.

    When a block has `most` bad lines, no more of them are looked for in it. With `bands` documents are signed, and
    parts of them numbered, so that near-duplicates and leaks are found.
    """

    field: str
    max_bytes: int
    most: int | None = None
    bands: Bands | None = None


class Problem(NamedTuple):
    """A bad line: its number, what is wrong with it, and its bytes without the line end (cut, if it is too long).

    `kind` is the same few words for every line with this problem, `reason` says what is wrong and what to do.
    """

    line: int
    kind: str
    reason: str
    content: bytes


@dataclass
class Documents:
    """What a block holds: its documents, in order, by their `texts`, the `lines` they stand on, and their `keys`.

    `texts` are UTF-8, one after the other, of as many bytes as `sizes` says: see `strings`. `marked` says of each with
    0 or 1 whether marks of other tools stand in it. `bad` has the bad lines, one after the other, `bad_lines` their
    numbers, `bad_sizes` their bytes in the file. `signatures` are uint32 [documents, bands], `parts` as in `leakage`.
    Further how many lines there are in all, how many are `blank`, and how many end as on Windows.
    """

    texts: bytearray = field(default_factory=bytearray)
    sizes: array[int] = field(default_factory=partial(array, "q"))
    lines: list[int] = field(default_factory=list)
    keys: bytearray = field(default_factory=bytearray)
    marked: bytearray = field(default_factory=bytearray)
    signatures: np.ndarray | None = None
    parts: pa.ListArray | None = None
    bad: bytearray = field(default_factory=bytearray)
    bad_lines: array[int] = field(default_factory=partial(array, "q"))
    bad_sizes: array[int] = field(default_factory=partial(array, "q"))
    count: int = 0
    blank: int = 0
    windows_line_ends: int = 0

    def strings(self) -> pa.StringArray:
        """The texts."""
        ends = array("i", accumulate(self.sizes, initial=0))
        return pa.StringArray.from_buffers(len(self.sizes), pa.py_buffer(ends), pa.py_buffer(self.texts))

    def problems(self, rules: Rules) -> Iterator[Problem]:
        """Yield what is wrong with the bad lines, which were read by these rules.

        It is found out once more here: kept for the millions of lines that a block may have it would take gigabytes.
        """
        lines = _lines(Block(1, bytes(self.bad), len(self.bad)))
        for number, size, line in zip(self.bad_lines, self.bad_sizes, lines, strict=True):
            try:
                text_of(line._replace(size=size), rules.field, rules.max_bytes)
            except BadLine as error:
                yield Problem(number, error.kind, str(error), line.content)

    def _add(self, line: Line, text: str | None) -> None:
        if text is None:
            self.blank += 1
            return
        encoded = text.encode()
        self.texts += encoded
        self.sizes.append(len(encoded))
        self.lines.append(line.number)
        self.keys += key_of(text)
        self.marked.append(bool(description.marks_of(text)))

    def _add_bad(self, line: Line) -> None:
        self.bad += line.content + line.end
        self.bad_lines.append(line.number)
        self.bad_sizes.append(line.size)


def read(rules: Rules, block: Block) -> Documents:
    """What a block holds, its texts exactly as they stand there."""
    found, usual = Documents(), _usual_beginnings(rules.field)
    for line in _lines(block):
        found.count += 1
        found.windows_line_ends += line.end == b"\r\n"
        enough = len(found.bad_lines) == rules.most
        if enough and not line.content.startswith(usual):
            continue
        try:
            found._add(line, text_of(line, rules.field, rules.max_bytes))
        except BadLine:
            if not enough:
                found._add_bad(line)
    if rules.bands:
        words = words_of(found.strings().to_pylist())
        found.signatures = near_duplicates.signatures(words, rules.bands)
        found.parts = leakage.parts_of(words)
    return found


def sources(blocks: Iterable[Block], wanted: np.ndarray) -> Iterator[tuple[int, str]]:
    """Of the documents on these lines, yield the number of each that says where it is from, and what it says.

    It does in a field `source`, as tools.collect writes it.
    """
    numbers = set(wanted.tolist())
    for block in blocks:
        if b'"source"' in block.content:
            for line in _lines(block):
                with suppress(ValueError, TypeError, KeyError):  # the corpus is being written to: that is said later
                    if line.number in numbers and isinstance(source := json.loads(line.content)["source"], str):
                        yield line.number, printable(source)


def _lines(block: Block) -> Iterator[Line]:
    whole = block.size == len(block.content)
    for number, raw in enumerate(io.BytesIO(block.content), block.number):
        end = b"\r\n" if raw.endswith(b"\r\n") else b"\n" if raw.endswith(b"\n") else b""
        yield Line(number, raw.removesuffix(end), end, len(raw) if whole else block.size)


def _usual_beginnings(field: str) -> tuple[bytes, ...]:
    """How documents begin, as the usual programs write them: with and without a space."""
    name = json.dumps(field, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return b"{" + name + b': "', b"{" + name + b':"'


def key_of(text: str) -> bytes:
    """16 bytes that two documents share when they have the same words in Unicode's composition (NFC)."""
    return blake2b(" ".join(unicodedata.normalize("NFC", text).split()).encode(), digest_size=KEY).digest()


@contextmanager
def reading(rules: Rules, size: int) -> Iterator[Callable[[Iterable[Block]], Iterator[Documents]]]:
    """Give a function that reads blocks, in order; used in a `with` block.

    Where `size`, the bytes of the corpus, is worth it, processes share the work. What the function gives does not
    depend on how many there are.
    """
    count = min(parallel.processors(), 4)
    if size < _SMALL or count == 1:
        yield partial(map, partial(read, rules))
        return
    with parallel.processes(count) as pool:
        yield lambda blocks: parallel.in_order(pool, partial(read, rules), blocks, 2 * count)
