"""The corpus file as lines: plain or compressed, however large it is and however long a line in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.lib.cli import UserError

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
BOM = b"\xef\xbb\xbf"
_BLOCK = 2**22  # bytes that are read at once: few enough to stay in the processor's cache


class Block(NamedTuple):
    """Some whole lines of the corpus file, one after the other.

    `number` is that of the first one, from 1; `content` is their bytes, with the line ends; `size` is the bytes they
    have in the file. It is more than `content` only when the block is one line longer than allowed: then `content` is
    the beginning of the line, and its line end.
    """

    number: int
    content: bytes
    size: int


def size(path: str | Path) -> int:
    """The bytes of the corpus file. Raises UserError if there is none."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: corpus.path in params.yaml must name one JSON Lines file")
    if not path.exists():
        raise UserError(f'{path} is not there: put your texts into it, one {{"text": "..."}} a line, in UTF-8')
    return path.stat().st_size


class Reader:
    """The lines of a file of JSON Lines, plain or compressed (`.gz`, `.zst`), some thousands at a time."""

    def __init__(self, path: str | Path, max_bytes: int) -> None:
        """Of a line longer than `max_bytes` no more than a block is held in memory beyond that."""
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.position = 0  # bytes of the file that were read; of a compressed file, of what is packed

    def __iter__(self) -> Iterator[Block]:
        """Yield the lines. Raises UserError when the file as a whole is no JSON Lines, or breaks off while unpacked."""
        with open(self.path, "rb", buffering=_BLOCK) as packed:
            compression = COMPRESSED.get(self.path.suffix)
            try:
                file = BufferedReader(pa.CompressedInputStream(packed, compression), _BLOCK) if compression else packed
                _refuse_other_files(self.path, file.peek(256))
                number = 1
                for content, size in self._blocks(file):
                    self.position = packed.tell() if compression else self.position + size
                    yield Block(number, content, size)
                    number += int(np.count_nonzero(np.frombuffer(content, np.uint8) == 0x0A))
            except OSError as error:
                if not compression or error.errno is not None:
                    raise
                raise UserError(f"{self.path} cannot be unpacked ({error}): it is damaged, make it again") from None

    def _blocks(self, file: BufferedReader) -> Iterator[tuple[bytes, int]]:
        """Yield whole lines, some at a time; a line that is too long by itself, cut, and its size in the file."""
        rest = b""
        while more := file.read(_BLOCK):
            block = rest + more
            end = block.rfind(b"\n") + 1
            if end:
                yield block[:end], end
            rest = block[end:]
            if len(rest) > self.max_bytes + 1:
                size, last = len(rest), rest[-1:]
                while not last.endswith(b"\n") and (more := file.readline(_BLOCK)):
                    size, last = size + len(more), (last + more)[-2:]
                yield rest.rstrip(b"\r") + re.sub(rb"[^\r\n]", b"", last), size
                rest = b""
        if rest:
            yield rest, len(rest)


def _refuse_other_files(path: Path, start: bytes) -> None:
    """Raise UserError when a file that begins with these bytes holds no lines of JSON in UTF-8 at all."""
    encoding = None
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[1::2].count(0) > len(start) / 8 > 0:
        encoding = "UTF-16" if start[0] in b"\xff\xfe" else "UTF-16LE"
    elif start[::2].count(0) > len(start) / 8 > 0:
        encoding = "UTF-16BE"
    if encoding:
        raise UserError(f"{path} is {encoding}, not UTF-8: {convert(encoding)}")
    if start.removeprefix(BOM).lstrip().startswith(b"["):
        raise UserError(
            f"{path} is one JSON array, not a document a line: jq -c '.[]' {path} > NEW turns it into JSON Lines"
        )


def convert(encoding: str) -> str:
    """What to do with a file in another encoding."""
    return f"convert it with iconv -f {encoding} -t UTF-8 OLD > NEW"
