"""Bytes into characters: the encoding of a file found out, or told."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, NamedTuple, TextIO

import charset_normalizer

from tools.collect.documents import Unreadable
from tools.collect.sources import WHOLE, File

LINE = 2**24  # characters of a line, at most: a longer one comes in pieces
_CHUNK = 2**20  # bytes that are looked at at once
_SAMPLE = 2**16  # bytes by which an encoding is guessed
# Longest first: UTF-32's mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Asked for all it knows, the library takes short Russian texts for Japanese or Greek ones. Others have to be named.
_GUESSES = ["cp1251", "koi8_r", "cp866", "cp1252"]
_DECLARED = re.compile(rb"""(?:encoding|charset)\s*=\s*["']?([\w-]+)""")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")  # would look like no text at all
_DAMAGED = 0.05  # of the characters that are not ASCII: with fewer that are no UTF-8, it is UTF-8 with damages


class Encoding(NamedTuple):
    """A codec of Python's, what it does with bytes that are none of its characters, and what is said of it."""

    codec: str
    errors: str
    said: str


UTF8 = Encoding("utf-8", "strict", "UTF-8")


def encoding_of(file: File, wished: str | None) -> Encoding:
    """The encoding of a file: the wished one, or the one its bytes speak for. Raises Unreadable where none does."""
    start = file.start()
    for mark, codec in _MARKS.items():
        name = codec.removesuffix("-sig")
        if start.startswith(mark) and (not wished or codecs.lookup(wished).name.startswith(name)):
            return Encoding(codec, "replace", name.upper())
    if wished:
        return Encoding(wished, "replace", wished)
    if codec := wide(start):
        return Encoding(codec, "replace", codec.upper())
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open() as stream:
        for chunk in iter(partial(stream.read, _CHUNK), b""):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                return _guess(chunk + stream.read(_CHUNK), _DECLARED.search(start[:1024]), file.name)
    return UTF8


def wide(start: bytes) -> str | None:
    """UTF-16 without a mark, in one of its orders, or None: half the bytes of what is no other script are zero."""
    for codec, zeros in (("utf-16-le", start[1:512:2]), ("utf-16-be", start[0:512:2])):
        if zeros.count(0) > len(zeros) / 8 and start[:512].count(0) == zeros.count(0):
            return codec
    return None


def _guess(sample: bytes, declared: re.Match[bytes] | None, name: str) -> Encoding:
    foreign = _CONTROL.sub(b"", b"\n".join(line for line in sample.split(b"\n") if not line.isascii())[:_SAMPLE])
    as_utf8 = foreign.decode("utf-8", "replace")
    if as_utf8.count("\ufffd") < _DAMAGED * sum(character > "\x7f" for character in as_utf8):
        return Encoding("utf-8", "replace", "UTF-8 with damaged places")
    codec = declared[1].decode("ascii", "replace") if declared else None
    if codec is None or not known(codec) or codecs.lookup(codec).name == "utf-8":
        guesses = [guess.encoding for guess in charset_normalizer.from_bytes(foreign, cp_isolation=_GUESSES)]
        if not guesses:
            raise Unreadable(f"{name} is in an encoding that was not found out: --encoding names it")
        # A language in Latin letters has others one by one, Russian has words of them.
        western = "cp1252" in guesses and not re.search(rb"[\x80-\xff]{2}", foreign)
        codec = "cp1252" if western else guesses[0]
    return Encoding(codec, "replace", codec)


def known(codec: str) -> bool:
    """Whether Python can decode text with a codec of this name."""
    try:
        bytes(4).decode(codec)  # as many as one character may take
    except (LookupError, UnicodeError):
        return False
    return True


@contextmanager
def text(file: File, encoding: Encoding, newline: str | None = None) -> Iterator[TextIO]:
    """The characters of a file, as a stream; with `newline=""` the line ends are left as they are."""
    with file.open() as stream:
        buffered: BinaryIO = stream if isinstance(stream, io.BufferedIOBase) else io.BufferedReader(stream)
        yield io.TextIOWrapper(buffered, encoding.codec, encoding.errors, newline)


def lines(file: File, encoding: Encoding) -> Iterator[str]:
    """The lines of a file with their ends, each "\\n"; one of more than `LINE` characters in pieces."""
    with text(file, encoding) as stream:
        yield from iter(partial(stream.readline, LINE), "")


def whole_text(file: File, encoding: Encoding, most: int = WHOLE) -> str:
    """All of a file. Raises Unreadable when it has more than `most` bytes."""
    return file.whole(most).decode(encoding.codec, encoding.errors)
