"""Everything in a source, however it is packed, into lines of the corpus."""

from __future__ import annotations

import errno
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import chain
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from stages.lib.common import cli, files
from stages.lib.common.cli import UserError
from tools.collect import divide, recognise, sources
from tools.collect.account import Account, Tally
from tools.collect.documents import Document, Left, Unreadable, Wishes, named, numbered
from tools.collect.sources import File

# What libraries raise where a file is not what it claims to be.
_DAMAGES = (
    *(EOFError, LZMAError, zlib.error, zipfile.BadZipFile, tarfile.TarError),
    *(pa.ArrowException, RuntimeError, UnicodeError),
)


class Collection:
    """Writes lines to `out`, with the place each is from unless they are to be `bare`, and keeps account."""

    def __init__(self, wishes: Wishes, account: Account, out: BinaryIO, bare: bool, bar: cli.Bar) -> None:
        self._wishes, self._account, self._out, self._bare, self._bar = wishes, account, out, bare, bar

    def add(self, source: Path, not_this: Path) -> None:
        """Add a file, or all of a folder but the file `not_this`.

        A file that cannot be read is left out among others. What else is in the way is kept for the account to say.
        """
        for one in sources.files_of(source, not_this):
            self._add(one, alone=source.is_file())

    def _add(self, one: File | Left, alone: bool) -> None:
        if isinstance(one, Left):
            self._account.leave_files(one)
            return
        before = self._account.documents
        try:
            with _undamaged(one.name):
                kind = recognise.recognise(one, self._wishes.column)
                if kind in sources.PACKED:
                    for inner in sources.unpacked(one, kind):
                        self._add(inner, alone and kind not in ("zip", "tar"))
                else:
                    self._read(one, kind)
        except UserError as error:
            told = str(error).replace(one.name, named(one.name), 1)
            if isinstance(error, Unreadable) and not alone:
                self._account.leave_unreadable(told, in_part=self._account.documents > before)
            else:
                self._account.obstruct(told)

    def _read(self, file: File, kind: str) -> None:
        tally = self._account.tally(kind)
        before = self._account.documents
        whole = False
        try:
            for event in recognise.KINDS[kind].read(file, self._wishes):
                if isinstance(event, Document):
                    for piece in self._pieces(event, recognise.KINDS[kind]):
                        self._write(piece, file, tally)
                else:
                    self._account.take(event, tally)
            whole = True
        finally:
            tally.files += whole or self._account.documents > before

    def _write(self, document: Document, file: File, tally: Tally) -> None:
        if (text := self._account.write(document, tally)) is not None:
            source = f"{file.name}:{document.place}" if document.place else file.name
            line = {"text": text} if self._bare else {"text": text, "source": source}
            self._out.write(files.to_json_line(line).encode())
            self._bar.update()

    def _pieces(self, document: Document, kind: recognise.Kind) -> Iterator[Document]:
        divides = self._wishes.by in kind.ways
        if document.divided or not (divides or self._wishes.marks):
            yield document
            return
        text = document.text.replace("\r\n", "\n").replace("\r", "\n")  # as marks have their line ends
        self._account.look_for_marks(text)
        pieces = divide.at_marks(text, self._wishes.marks)
        if divides:
            divided = (divide.pieces(StringIO(piece), self._wishes.by, self._wishes.size) for piece in pieces)
            pieces = chain.from_iterable(divided)
        yield from numbered(pieces, document)


@contextmanager
def _undamaged(name: str) -> Iterator[None]:
    """Turn what a library makes of a damaged file into Unreadable."""
    try:
        yield
    except Unreadable:
        raise
    except NotImplementedError as error:  # Deflate64, which Windows uses for what is large
        raise Unreadable(f"{name} is packed in a way that is not known here ({error}): unpack it") from None
    except RecursionError:
        raise Unreadable(f"{name} is nested too deep to be read") from None
    except _DAMAGES as error:
        raise Unreadable(f"{name} is damaged, or cut off: {error}") from None
    except MemoryError:  # so much is often asked for by a number that is damaged
        raise Unreadable(f"{name} is damaged, or takes more memory than there is") from None
    except OSError as error:
        if isinstance(error, PermissionError):
            raise Unreadable(f"{name} may not be read by this user") from None
        # Of the system, and not of what unpacks or seeks where a damaged number says.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise Unreadable(f"{name} is damaged, or cut off: {error}") from None
