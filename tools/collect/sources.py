"""Where bytes come from: files, folders, and what is packed, whose paths are shown but never written to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from stages.lib.common.cli import UserError, printable
from tools.collect.documents import Left, Unreadable

START = 2**16  # bytes of a beginning from which a file's kind is told
WHOLE = 2**28  # bytes of a file that cannot be read piece by piece
# What comes out of a packed file is a bomb when it is large, and so many times as large as what went in.
UNPACKED, RATIO = 2**26, 200
SPOOLED = 2**33  # bytes of a packed file that are kept on the disk, without a name, while its parts are read
DEEP = 3  # archives in archives
MANY = 100_000  # files of one source

_STREAMS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": lambda stream: pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd"),
}
PACKED = {"zip", "tar", *_STREAMS}
_PAGE = re.compile(r"messages\d+\.html")  # of VK's archive: a chat is a folder of such pages
_DATASETS = {"state.json", "dataset_info.json", "dataset_dict.json"}  # what `save_to_disk` writes beside its data


@dataclass(frozen=True)
class File:
    """Bytes to read. `name`, on one line, is all of it: by its end the kind is told, and it is kept with documents.

    `open` gives the bytes from the beginning, each time anew; `size` is how many they are where they stand, packed or
    not; `depth` in how many archives that is.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int
    depth: int = 0

    def start(self) -> bytes:
        """The first `START` bytes."""
        with self.open() as stream:
            return stream.read(START)

    def whole(self, most: int = WHOLE) -> bytes:
        """All bytes. Raises Unreadable when there are more than `most`."""
        with self.open() as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise Unreadable(f"{self.name} has more than {most // 2**20} MiB, too many to be read at once: divide it")
        return content

    def anywhere(self) -> BinaryIO:
        """A stream that can be read in any order, as archives and Parquet are."""
        stream = self.open()
        if not self.depth:
            return stream
        with stream:
            kept = tempfile.TemporaryFile()  # noqa: SIM115
            shutil.copyfileobj(_Bounded(stream, SPOOLED, self.name), kept)
        kept.seek(0)
        return kept


class _Bounded(io.RawIOBase):
    """A stream that ends with Unreadable where more comes than there may be."""

    def __init__(self, stream: BinaryIO, most: int, name: str) -> None:
        self._stream, self._left, self._name = stream, most, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise Unreadable(f"{self._name} unpacks to far more than texts do: it is left packed")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def files_of(source: Path, not_this: Path) -> Iterator[File | Left]:
    """The files of a source: itself, or those of a folder and below, but for the file `not_this`. Raises UserError."""
    try:
        source.stat()
    except OSError as error:
        _refuse(error)
    if source.is_dir():
        yield from _joined(_walk(source, not_this))
    elif source.is_file():
        yield _on_disk(source, source.name)
    else:
        raise UserError(f"{printable(str(source))} is neither a file nor a folder")


def _refuse(error: OSError) -> None:
    raise UserError(f"{printable(str(error.filename))} cannot be read: {error.strerror}") from None


def _on_disk(path: Path, name: str) -> File:
    return File(_one_line(name), lambda: open(path, "rb"), path.stat().st_size)


def _one_line(name: str) -> str:
    return printable(name, sys.maxsize)


def _walk(folder: Path, not_this: Path) -> Iterator[File | Left]:
    count = 0
    for place, folders, names in os.walk(folder, onerror=_refuse):
        if linked := sum((Path(place) / name).is_symlink() for name in folders):
            yield Left("links to folders", linked)
        if hidden := sum(name.startswith(".") for name in folders):
            yield Left("hidden folders", hidden)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        own = _DATASETS if "dataset_info.json" in names or "dataset_dict.json" in names else set()
        for name in sorted(set(names) - own, key=_natural):
            path = Path(place) / name
            if (count := count + 1) > MANY:
                raise UserError(f"{printable(str(folder))} has more than {MANY} files: name parts of it")
            if reason := _left_out(name):
                yield Left(reason)
            elif not path.is_file():
                yield Left("links to nowhere and special files")
            elif path.resolve() == not_this:
                yield Left("corpus that is to be replaced")
            else:
                yield _on_disk(path, str(Path(folder.resolve().name) / path.relative_to(folder)))


def _left_out(name: str) -> str | None:
    """Why a file of this name, or path in an archive, is not looked at among others."""
    # The last one begins those that Word keeps beside a document that is open.
    if any(part.startswith((".", "__MACOSX", "~$")) and part not in (".", "..") for part in PurePosixPath(name).parts):
        return "hidden files"
    return "style sheets and scripts" if name.lower().endswith((".css", ".js")) else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which part 10 comes after part 9."""
    pieces = [piece.lstrip("0") if at % 2 else piece for at, piece in enumerate(re.split(r"([0-9]+)", name))]
    return [(1 + len(piece), piece) if at % 2 else (0, piece) for at, piece in enumerate(pieces)]


def _joined(files: Iterator[File | Left]) -> Iterator[File | Left]:
    """The same, with the pages of one of VK's chats as one file, from the newest, which is the first, on."""

    def chat(file: File | Left) -> str | None:
        if isinstance(file, Left) or not _PAGE.fullmatch(PurePosixPath(file.name).name):
            return None
        return str(PurePosixPath(file.name).parent)

    for folder, group in groupby(files, chat):
        if folder is None:
            yield from group
        else:
            pages = list(group)
            size = sum(page.size for page in pages)
            yield File(f"{folder}/messages*.html", lambda pages=pages: _chain(pages), size, pages[0].depth)


def _chain(pages: list[File]) -> BinaryIO:
    return io.BytesIO(b"\n".join(page.whole() for page in pages))


def unpacked(file: File, kind: str) -> Iterator[File | Left]:
    """What is in a packed file, of a kind in `PACKED`. Raises Unreadable for one that no honest packer made."""
    if file.depth >= DEEP:
        raise Unreadable(f"{file.name} is packed more than {DEEP} times: unpack it")
    if kind == "zip":
        yield from _joined(_zip_members(file))
    elif kind == "tar":
        yield from _joined(_tar_members(file))
    else:
        most = max(UNPACKED, RATIO * file.size)
        name = re.sub(r"\.(gz|bz2|xz|zst)$", "", file.name)

        def opened() -> BinaryIO:
            return io.BufferedReader(_Bounded(_STREAMS[kind](file.open()), most, file.name))

        yield File(name, opened, file.size, file.depth + 1)


def _zip_members(file: File) -> Iterator[File | Left]:
    with file.anywhere() as stream, zipfile.ZipFile(stream) as archive:
        refuse_bomb(archive, file.name)
        members = [one for one in archive.infolist() if not one.is_dir()]
        for one in sorted(members, key=lambda one: _natural(one.filename)):
            fault = "files locked with a password" if one.flag_bits & 1 else None
            yield _member(file, _name(one), one.compress_size, fault, lambda one=one: archive.open(one))


def _name(member: zipfile.ZipInfo) -> str:
    """Old packers of Russian Windows wrote names in its code page of the terminal, which the library does not know."""
    if member.flag_bits & 0x800:
        return member.filename
    return member.filename.encode("cp437", "replace").decode("cp866", "replace")


def refuse_bomb(archive: zipfile.ZipFile, name: str) -> None:
    """Raise Unreadable when a ZIP says that it holds more than honest ones do. None gives more than it says."""
    members = archive.infolist()
    size, packed = sum(one.file_size for one in members), sum(one.compress_size for one in members)
    if len(members) > MANY or size > max(UNPACKED, RATIO * packed):
        raise Unreadable(f"{name} unpacks to far more than texts do: it is left packed")


def _tar_members(file: File) -> Iterator[File | Left]:
    with file.anywhere() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        members = [one for one in islice(archive, MANY) if not one.isdir()]
        if archive.next():
            raise Unreadable(f"{file.name} has more than {MANY} files")
        # Where the next file's header is damaged or cut off the library believes that there is none.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise Unreadable(f"{file.name} is damaged, or cut off: it has no end")
        for one in sorted(members, key=lambda one: _natural(one.name)):
            fault = None if one.isreg() and not one.issparse() else "links and special files"
            yield _member(file, one.name, one.size, fault, lambda one=one: archive.extractfile(one))


def _member(file: File, name: str, size: int, fault: str | None, opened: Callable[[], BinaryIO]) -> File | Left:
    fault = _left_out(name) or fault
    return Left(fault) if fault else File(_one_line(f"{file.name}/{name}"), opened, size, file.depth + 1)
