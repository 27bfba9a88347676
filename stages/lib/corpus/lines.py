"""The corpus as lines: one file or a folder of them, plain or compressed, however large and however long a line."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from stages.lib.common.cli import UserError, command, printable
from stages.lib.corpus import formats
from stages.lib.corpus.formats import COMPRESSED
from stages.lib.corpus.places import Places

ENDINGS = (".jsonl", *(f".jsonl{ending}" for ending in COMPRESSED))  # of a folder's files
_BLOCK = 2**22  # bytes that are read at once: few enough to stay in the processor's cache
_NO_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a link to a folder",
}


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
    name = printable(str(path))
    if not path.exists():
        raise UserError(f'{name} is not there: put your texts into it, one {{"text": "..."}} a line, in UTF-8')
    if not path.is_dir():
        _refuse_what_is_no_file(path)
        return [path]
    found = list(_below(path))
    for file in found:
        _refuse_what_is_no_file(file)
        if not file.name.endswith(ENDINGS):
            raise UserError(
                f"{printable(str(file))} is none of {', '.join(ENDINGS)}, and all files of {name} are the corpus: "
                f"{command(f'python -m tools.collect {shlex.quote(name)}')} makes one of texts in other forms"
            )
    if not found:
        raise UserError(f"{name} holds no file: put your texts there, as {', '.join(ENDINGS)}")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and below. Raises OSError where one cannot be looked into."""

    def refuse(error: OSError) -> None:
        raise error

    for at, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]  # to folders
        yield from (Path(at, name) for name in (*names, *links) if not name.startswith("."))


def _refuse_what_is_no_file(path: Path) -> None:
    """Raise UserError where reading might wait for ever, or would find nothing."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{printable(str(path))} is a link to nothing: take it away, or put the file there")
    if kind := _NO_FILES.get(stat.S_IFMT(path.stat().st_mode)):
        raise UserError(f"{printable(str(path))} is {kind}, not a file: put the texts themselves there")


def size(path: str | Path) -> int:
    """The bytes of the corpus' files. Raises UserError if there are none."""
    return sum(file.stat().st_size for file in files_of(path))


class Reader:
    """The lines of JSON Lines, plain or compressed (`.gz`, `.zst`), some thousands at a time."""

    def __init__(self, path: str | Path, max_bytes: int, limit: int | None = None) -> None:
        """`path` is a file or a folder. Of a line longer than `max_bytes` no more than a block is held beyond that.

        The lines after the first `limit` are not read; None: all are.
        """
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.limit = limit
        self.position = 0  # bytes of the files that were read; of compressed ones, of what is packed
        self.places = Places()  # of the lines read so far
        self._before: dict[Path, tuple[int, ...]] = {}

    def __iter__(self) -> Iterator[Block]:
        """Yield the lines. Raises UserError when a file as a whole is no JSON Lines, or breaks off while unpacked."""
        number = 1
        self._before = {path: _state(path) for path in files_of(self.path)}
        for path in self._before:
            if self.limit is not None and number > self.limit:
                return
            self.places.add(number, path.as_posix())
            for content, size in self._of_file(path):
                if self.limit is not None and number + content.count(b"\n") > self.limit:
                    kept = _first_lines(content, self.limit - number + 1)
                    if kept:
                        yield Block(number, kept, size if kept == content else len(kept))
                    return
                yield Block(number, content, size)
                number += content.count(b"\n")
                number += not content.endswith(b"\n")  # at the end of a file, before the next one's first line

    def again(self) -> Reader:
        """One that reads the same lines once more."""
        return Reader(self.path, self.max_bytes, self.limit)

    def refuse_changes(self) -> None:
        """Raise UserError when the files are not those that were read: one was written to, came, or went meanwhile."""
        now = {path: _state(path) for path in files_of(self.path)}
        for path in sorted(self._before.keys() | now.keys()):
            if self._before.get(path) != now.get(path):
                raise UserError(
                    f"{printable(str(path))} changed while it was read: wait until it is written, then run the same "
                    "command again"
                )

    def _of_file(self, path: Path) -> Iterator[tuple[bytes, int]]:
        """Yield whole lines and their size in the file."""
        with open(path, "rb", buffering=_BLOCK) as packed:
            before = self.position
            compression = COMPRESSED.get(path.suffix)
            try:
                if compression and not os.fstat(packed.fileno()).st_size:
                    raise OSError("without a byte")  # which would be unpacked to nothing
                file = BufferedReader(pa.CompressedInputStream(packed, compression), _BLOCK) if compression else packed
                formats.refuse(path, file.peek(formats.LOOKED_AT))
                for content, size in self._blocks(file):
                    self.position = before + packed.tell() if compression else self.position + size
                    yield content, size
            except OSError as error:
                if not compression or error.errno is not None:
                    raise
                raise UserError(
                    f"{printable(str(path))} cannot be unpacked ({error}): it is damaged, or zstd packed it with "
                    "--long: make it again"
                ) from None

    def _blocks(self, file: BufferedReader) -> Iterator[tuple[bytes, int]]:
        """Yield whole lines, some at a time; a line that is too long by itself, cut, and its size in the file."""
        parts: list[bytes] = []  # of a line whose end is still to come
        size = 0  # theirs
        while more := file.read(_BLOCK):
            end = more.rfind(b"\n") + 1
            if end:
                yield b"".join([*parts, more[:end]]), size + end
                parts, size, more = [], 0, more[end:]
            parts.append(more)
            size += len(more)
            if size > self.max_bytes + 1:
                rest, last = b"".join(parts), more[-1:]
                while not last.endswith(b"\n") and (more := file.readline(_BLOCK)):
                    size, last = size + len(more), (last + more)[-2:]
                yield rest.removesuffix(b"\r") + re.sub(rb"[^\r\n]", b"", last), size
                parts, size = [], 0
        if size:
            yield b"".join(parts), size


def _first_lines(content: bytes, count: int) -> bytes:
    end = 0
    for _ in range(count):
        end = content.find(b"\n", end) + 1 or len(content)
    return content[:end]


def _state(path: Path) -> tuple[int, ...]:
    """What shows that a file was written to, or that another one took its place."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino
