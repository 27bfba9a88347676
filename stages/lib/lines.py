"""The corpus as lines: one file or a folder of them, plain or compressed, however large and however long a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.lib.cli import UserError
from stages.lib.places import Places

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
ENDINGS = (".jsonl", *(f".jsonl{ending}" for ending in COMPRESSED))  # of a folder's files
BOM = b"\xef\xbb\xbf"
_BLOCK = 2**22  # bytes that are read at once: few enough to stay in the processor's cache


class Block(NamedTuple):
    """Some whole lines of one file of the corpus, one after the other.

    `number` is that of the first one, counted from 1 through all files; `content` is their bytes, with the line ends;
    `size` is the bytes they have in the file. It is more than `content` only when the block is one line longer than
    allowed: then `content` is the beginning of the line, and its line end.
    """

    number: int
    content: bytes
    size: int


def files_of(path: str | Path) -> list[Path]:
    """The files of the corpus: `path` itself, or of a folder those in it and below, in the order of their names.

    Files and folders whose names begin with a dot are left alone. Raises UserError if there are none, or one in the
    folder is no JSON Lines.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f'{path} is not there: put your texts into it, one {{"text": "..."}} a line, in UTF-8')
    if not path.is_dir():
        return [path]
    found = [file for file in path.rglob("*") if file.is_file()]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    for file in found:
        if not file.name.endswith(ENDINGS):
            raise UserError(
                f"{file} is none of {', '.join(ENDINGS)}: take it out of {path}, whose files are the corpus"
            )
    if not found:
        raise UserError(f"{path} holds no file: put your texts there, as {', '.join(ENDINGS)}")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def size(path: str | Path) -> int:
    """The bytes of the corpus' files. Raises UserError if there are none."""
    return sum(file.stat().st_size for file in files_of(path))


class Reader:
    """The lines of JSON Lines, plain or compressed (`.gz`, `.zst`), some thousands at a time."""

    def __init__(self, path: str | Path, max_bytes: int) -> None:
        """`path` is a file or a folder. Of a line longer than `max_bytes` no more than a block is held beyond that."""
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.position = 0  # bytes of the files that were read; of compressed ones, of what is packed
        self.places = Places()  # of the lines read so far

    def __iter__(self) -> Iterator[Block]:
        """Yield the lines. Raises UserError when a file as a whole is no JSON Lines, or breaks off while unpacked."""
        number = 1
        for path in files_of(self.path):
            self.places.add(number, path.as_posix())
            for content, size in self._of_file(path):
                yield Block(number, content, size)
                number += int(np.count_nonzero(np.frombuffer(content, np.uint8) == 0x0A))
                number += not content.endswith(b"\n")  # at the end of a file, before the next one's first line

    def _of_file(self, path: Path) -> Iterator[tuple[bytes, int]]:
        """Yield whole lines and their size in the file."""
        with open(path, "rb", buffering=_BLOCK) as packed:
            before = self.position
            compression = COMPRESSED.get(path.suffix)
            try:
                file = BufferedReader(pa.CompressedInputStream(packed, compression), _BLOCK) if compression else packed
                _refuse_other_files(path, file.peek(256))
                for content, size in self._blocks(file):
                    self.position = before + packed.tell() if compression else self.position + size
                    yield content, size
            except OSError as error:
                if not compression or error.errno is not None:
                    raise
                raise UserError(f"{path} cannot be unpacked ({error}): it is damaged, make it again") from None

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
