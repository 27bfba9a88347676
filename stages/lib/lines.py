"""The corpus file, line by line: bytes in, texts out, and a name for everything that can be wrong with a line.

Nearly every line of a corpus is an object with one string in it, written in letters that need no second look. Such a
text is cut out of the line as it stands there. Every other line goes through the careful parser, which knows what can
be wrong with it, and whose word is final: where both read a line, they read the same.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.lib.cli import UserError

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_BLOCK = 2**18  # bytes that are read at once: few enough to stay in the processor's cache
_BOM = b"\xef\xbb\xbf"
# Control characters that no text holds on purpose: all but tab, line feed, form feed, carriage return and next line.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
# The letters that Russian uses most, by which a guess at an encoding is judged.
_FREQUENT = frozenset("оеаинтсрвл")


class BadLine(Exception):
    """A line that holds no usable document. Its text says what is wrong, where, and what to do."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # the same few words for every line with this problem


class Line(NamedTuple):
    """One line of the corpus file.

    `number` counts from 1; `content` is its bytes without the line end, of a line longer than allowed only the
    beginning; `end` is the line end, b"\\n", b"\\r\\n" or, at the end of the file, b""; `size` is the bytes of it all.
    `ordinary`: its characters are UTF-8 that needs no second look (see `unusual_places`).
    """

    number: int
    content: bytes
    end: bytes
    size: int
    ordinary: bool = False


def size(path: str | Path) -> int:
    """The bytes of the corpus file. Raises UserError if there is none."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: corpus.path in params.yaml must name one JSON Lines file")
    if not path.exists():
        raise UserError(f'{path} is not there: put your texts into it, one {{"text": "..."}} a line, in UTF-8')
    return path.stat().st_size


class Reader:
    """The lines of a file of JSON Lines, plain or compressed (`.gz`, `.zst`), one after the other."""

    def __init__(self, path: str | Path, max_bytes: int) -> None:
        """Of a line longer than `max_bytes` no more than a block is held in memory beyond that."""
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.position = 0  # bytes of the file that were read; of a compressed file, of what is packed

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines. Raises UserError when the file as a whole is no JSON Lines, or breaks off while unpacked."""
        with open(self.path, "rb", buffering=_BLOCK) as packed:
            compression = COMPRESSED.get(self.path.suffix)
            try:
                file = BufferedReader(pa.CompressedInputStream(packed, compression), _BLOCK) if compression else packed
                _refuse_other_files(self.path, file.peek(256))
                number = 0
                for block, size in self._blocks(file):
                    self.position = packed.tell() if compression else self.position + size
                    for line in _lines(block, size, number):
                        number = line.number
                        yield line
            except OSError as error:
                if not compression or error.errno is not None:
                    raise
                raise UserError(f"{self.path} cannot be unpacked ({error}): it is damaged, make it again") from None

    def _blocks(self, file: BufferedReader) -> Iterator[tuple[bytes, int]]:
        """Yield whole lines, some megabytes at a time; a line that is too long by itself, and its size after it."""
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


def _lines(block: bytes, size: int, number: int) -> Iterator[Line]:
    """Yield the lines of a block, the first being `number` + 1.

    `size` is the bytes it has in the file: more than it holds only when it is one line too long.
    """
    contents = block.split(b"\n")
    if not contents[-1]:
        contents.pop()
    unusual = _unusual_lines(block)
    left = size
    for index, content in enumerate(contents):
        more = len(contents) - index > 1
        end = b"\n" if more or block.endswith(b"\n") else b""
        length = len(content) + len(end) if more else left
        left -= length
        if end and content.endswith(b"\r"):
            content, end = content[:-1], b"\r\n"
        yield Line(number + index + 1, content, end, length, unusual is not None and index not in unusual)


def _unusual_lines(block: bytes) -> set[int] | None:
    """The lines of a block, from 0, with characters that need a second look; None when all do."""
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return None
    values = np.frombuffer(block, dtype=np.uint8)
    places = unusual_places(values)
    return set(np.searchsorted(np.flatnonzero(values == 0x0A), places).tolist())


# Bytes that begin an ordinary character whatever follows: ASCII from the space on, and the rest of characters that
# began before; letters U+00C0 to U+02FF; Greek from U+0380; Cyrillic U+0400 to U+047F and U+04C0 to U+04FF; Chinese.
_ORDINARY = np.zeros(256, dtype=bool)
_ORDINARY[[0x0A, *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC3, 0xCC), 0xCF, 0xD0, 0xD1, 0xD3]] = True
_ORDINARY[0xE4:0xEA] = True


def unusual_places(text: np.ndarray) -> np.ndarray:
    """The places in UTF-8 (bytes, uint8) of characters that need a second look.

    That are control characters, white space beyond ASCII, and all that Unicode's composition (NFC) could change or
    that was not thought of here. A text without them is its own NFC, and its white space is ASCII's.
    """
    places = np.flatnonzero(~_ORDINARY[text])
    if not len(places):
        return places
    padded = np.concatenate([text, np.zeros(2, np.uint8)])
    first, second, third = padded[places], padded[places + 1], padded[places + 2]
    ordinary = (
        ((first == 0x0D) & (second == 0x0A))  # a line end of Windows
        | ((first == 0xC2) & (second > 0xA0))  # U+00A1 to U+00BF: guillemets and the like
        | ((first == 0xCE) & (second != 0x87))  # Greek, but for one dot
        | ((first == 0xD2) & (second >= 0x8A))  # Cyrillic from U+048A
        # Dashes, quotation marks, dots.
        | ((first == 0xE2) & (second == 0x80) & ((third >= 0x90) & (third < 0xA8) | (third >= 0xB0)))
        | ((first == 0xE2) & (second == 0x82) & (third == 0xBD))  # the rouble
        | ((first == 0xE2) & (second == 0x82) & (third == 0xAC))  # the euro
        | ((first == 0xE2) & (second == 0x84) & (third == 0x96))  # №
        | ((first == 0xF0) & (second == 0x9F))  # emoji
    )
    return places[~ordinary]


def _refuse_other_files(path: Path, start: bytes) -> None:
    """Raise UserError when a file that begins with these bytes holds no lines of JSON in UTF-8 at all."""
    encoding = None
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[1::2].count(0) > len(start) / 8 > 0:
        encoding = "UTF-16" if start[0] in b"\xff\xfe" else "UTF-16LE"
    elif start[::2].count(0) > len(start) / 8 > 0:
        encoding = "UTF-16BE"
    if encoding:
        raise UserError(f"{path} is {encoding}, not UTF-8: {convert(encoding)}")
    if start.removeprefix(_BOM).lstrip().startswith(b"["):
        raise UserError(
            f"{path} is one JSON array, not a document a line: jq -c '.[]' {path} > NEW turns it into JSON Lines"
        )


def convert(encoding: str) -> str:
    """What to do with a file in another encoding."""
    return f"convert it with iconv -f {encoding} -t UTF-8 OLD > NEW"


class Parser:
    """Takes the text out of a line."""

    def __init__(self, text_field: str, max_bytes: int) -> None:
        """`text_field` is the field that holds the text; a line of more than `max_bytes` is a bad one."""
        self._field = text_field
        self._max_bytes = max_bytes
        quoted = json.dumps(text_field, ensure_ascii=False).encode("utf-8", "backslashreplace")
        # How an object begins, as the usual programs write it: with and without a space.
        self._beginnings = (b"{" + quoted + b': "', b"{" + quoted + b':"')

    def plain(self, line: Line) -> bytes | None:
        """The text of an ordinary line with one string in it, in UTF-8; None for any other line, good or bad."""
        content = line.content
        if not line.ordinary or not content.endswith(b'"}') or len(content) > self._max_bytes:
            return None
        for beginning in self._beginnings:
            if content.startswith(beginning):
                break
        else:
            return None
        text = content[len(beginning) : -2]
        quotes = text.count(b'"')
        if b"\\" in text:
            # Without an escaped backslash, each backslash begins an escape of its own.
            if b"\\\\" in text or (quotes and text.count(b'\\"') != quotes):
                return None
            text = text.replace(b"\\n", b"\n")
            if quotes:
                text = text.replace(b'\\"', b'"')
            if b"\\" in text:
                text = text.replace(b"\\t", b"\t").replace(b"\\r", b"\r")
                if b"\\" in text:
                    return None
        elif quotes:
            return None
        return None if text.isspace() or not text else text

    def text(self, line: Line) -> str | None:
        """The text of a line, exactly as written there, or None for a blank line. Raises BadLine."""
        plain = self.plain(line)
        return self.text_with_care(line) if plain is None else plain.decode("utf-8")

    def text_with_care(self, line: Line) -> str | None:
        """What `text` gives, found out by a real JSON parser, with every problem named."""
        content, field = line.content, self._field
        if line.size - len(line.end) > self._max_bytes:
            raise BadLine(
                "line too long",
                f"has {line.size - len(line.end)} bytes, but validate.max_line_bytes allows {self._max_bytes}: split "
                "the document, or raise it in params.yaml",
            )
        if not content.strip():
            return None
        if content.startswith(_BOM):
            raise BadLine("byte order mark", "starts with a byte order mark (BOM): save the file as UTF-8 without BOM")
        try:
            source = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadLine("not UTF-8", _explain_encoding(content, error)) from None
        record = _load(source, line)
        if not isinstance(record, dict):
            raise BadLine("not an object", f'a JSON {_type(record)}, not an object: write {{"{field}": "..."}}')
        if field not in record:
            raise BadLine("no text field", _explain_missing(record, field))
        text = record[field]
        if not isinstance(text, str):
            raise BadLine("not a string", f'field "{field}" is a JSON {_type(text)}, not a string')
        if not text.strip():
            raise BadLine("empty text", f'field "{field}" is empty: remove the line')
        if bad := _CONTROL.search(text):
            raise BadLine(
                "control character",
                f"U+{ord(bad[0]):04X} is a control character, at {bad.start() + 1} of the text: remove it",
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadLine(
                "lone surrogate", f"half a surrogate pair at character {error.start + 1} of the text: remove it"
            ) from None
        return text


def _load(source: str, line: Line) -> Any:
    """The JSON value of a line. Raises BadLine."""
    try:
        return json.loads(source, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        kind, reason = _explain_json(source, line, error)
        raise BadLine(kind, f"not JSON at column {error.colno}: {reason}") from None
    except RecursionError:
        raise BadLine("not JSON", "JSON nested too deep to be read") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadLine("not JSON", f"not JSON that can be read: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        name, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise BadLine("field twice", f'the field "{_printable(name)}" stands twice in one object: keep one')
    return record


def _no_constant(name: str) -> None:
    raise BadLine("not JSON", f"{name} is not JSON: write null or a number")


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}[type(value)]


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _explain_missing(record: dict[str, Any], field: str) -> str:
    names = [_printable(name) for name in record]
    near = difflib.get_close_matches(field, names, 1)
    mend = f"rename {near[0]}" if near else "rename the one that holds the text"
    found = ", ".join(names) or "none"
    return f'no field "{field}" (fields: {found}): {mend}, or set corpus.text_field in params.yaml'


def _explain_json(source: str, line: Line, error: json.JSONDecodeError) -> tuple[str, str]:
    """The kind of a JSON error, and what to do about it."""
    bare = source.strip()
    at_end = not source[error.pos :].strip() or error.msg.startswith("Unterminated string")
    if bare.startswith(("{'", "['")):
        return "single quotes", "single quotes: JSON takes double quotes only"
    if "\r" in bare:
        return "not JSON", "line ends of old Macs: convert them with tr '\\r' '\\n' < OLD > NEW"
    if bare in ("{", "["):
        return "not JSON", "a document over several lines: jq -c . OLD > NEW puts each on one"
    if at_end and not line.end:
        return "cut off", "the file ends in the middle of this line: it was cut off, get it again"
    if error.msg == "Extra data":
        return "text after the object", "something follows the object: one object a line, and nothing else"
    if error.msg.startswith("Invalid control character"):
        return "not JSON", "a tab or another control character inside a string: write \\t, \\n, \\u001f"
    if error.msg.startswith("Unterminated string"):
        return "not JSON", "a string without its closing quote: a line break inside a text is written \\n"
    return "not JSON", error.msg[0].lower() + error.msg[1:]


def _explain_encoding(content: bytes, error: UnicodeDecodeError) -> str:
    where = f"byte {error.start + 1} (0x{content[error.start]:02x}) is not UTF-8"
    foreign = sum(byte >= 0x80 for byte in content)
    # A language written in Latin letters has such bytes one by one; Russian has words of them.
    together = sum(one >= 0x80 and other >= 0x80 for one, other in pairwise(content))
    for encoding in ("CP1251", "KOI8-R", "CP866"):
        guess = content.decode(encoding, errors="replace")
        if together > foreign / 2 and sum(character in _FREQUENT for character in guess) > foreign / 3:
            return f"{where}; it looks like {encoding}: {convert(encoding)}"
    return f"{where}: find out the file's encoding, and {convert('ENCODING')}"
