"""One line of the corpus to the text in it, with a name for everything that can be wrong with a line."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from stages.lib.common.cli import printable
from stages.lib.corpus.formats import BOM, convert, how_to_collect

# Control characters that no text holds on purpose: all but tab, line feed, form feed, carriage return and next line.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
SURROGATE = re.compile(r"[\ud800-\udfff]")
_CUT_OFF = "the file ends in the middle of this line: it was cut off, get it again"
_HALF_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{0,3}\Z")
# The letters that Russian uses most, by which a guess at an encoding is judged.
_FREQUENT = frozenset("оеаинтсрвл")
# A line may be as long as the corpus: of the parts of one that are no use, no more than this is looked at or shown.
_BYTES, _NAMES, _SHOWN_NAMES, _NAME_LENGTH = 4096, 1000, 12, 40


class BadLine(Exception):
    """A line that holds no usable document. Its text says what is wrong, where, and what to do."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # the same few words for every line with this problem


class Line(NamedTuple):
    """One line of the corpus file.

    `number` counts from 1; `content` is its bytes without the line end, of a line longer than allowed only the
    beginning; `end` is the line end, b"\\n", b"\\r\\n" or, at the end of the file, b""; `size` is the bytes of it all.
    """

    number: int
    content: bytes
    end: bytes
    size: int


def text_of(line: Line, field: str, max_bytes: int) -> str | None:
    """The string in a line's `field`, exactly as written there, or None for a blank line. Raises BadLine."""
    content = line.content
    if (length := line.size - len(line.end)) > max_bytes:
        raise BadLine(
            "line too long",
            f"has {length} bytes, but validate.max_line_bytes allows {max_bytes}: split the document, or raise it in "
            "params.yaml",
        )
    if not content.strip():
        return None
    if content.startswith(BOM):
        raise BadLine("byte order mark", "starts with a byte order mark (BOM): save the file as UTF-8 without BOM")
    try:
        source = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if not line.end and error.reason == "unexpected end of data":
            raise BadLine("cut off", _CUT_OFF) from None
        raise BadLine("not UTF-8", _explain_encoding(content, error)) from None
    record = _load(source, line)
    if not isinstance(record, dict):
        raise BadLine("not an object", f'a JSON {_type(record)}, not an object: write {{"{printable(field)}": "..."}}')
    if field not in record:
        raise _missing(record, field)
    text = record[field]
    if not isinstance(text, str):
        raise BadLine("not a string", f'field "{printable(field)}" is a JSON {_type(text)}, not a string')
    if not text or text.isspace():
        raise BadLine("empty text", f'field "{printable(field)}" is empty: remove the line')
    if b"\\u" in content and (half := SURROGATE.search(text)):
        raise BadLine("lone surrogate", f"half a surrogate pair at character {half.start() + 1} of the text: remove it")
    if bad := CONTROL.search(text):
        raise BadLine(
            "control character",
            f"U+{ord(bad[0]):04X} is a control character, at {bad.start() + 1} of the text: remove it",
        )
    return text


def _load(source: str, line: Line) -> Any:
    """The JSON value of a line. Raises BadLine."""
    try:
        return _DECODER.decode(source)
    except json.JSONDecodeError as error:
        kind, reason = _explain_json(source, line, error)
        raise BadLine(kind, f"not JSON at column {error.colno}: {reason}") from None
    except RecursionError:
        raise BadLine("not JSON", "JSON nested too deep to be read") from None
    except ValueError:
        raise BadLine("not JSON", "a number of thousands of digits, which cannot be read: remove it") from None


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises BadLine where a field stands twice in it: the library would keep the last one alone."""
    record = dict(pairs)
    if len(record) < len(pairs):
        name, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise BadLine(
            "field twice", f'the field "{printable(name, _NAME_LENGTH)}" stands twice in one object: keep one'
        )
    return record


def _no_constant(name: str) -> None:
    raise BadLine("not JSON", f"{name} is not JSON: write null or a number")


# Made once: json.loads makes one a call, which takes longer than to read a short line.
_DECODER = json.JSONDecoder(object_pairs_hook=object_of, parse_constant=_no_constant)


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}[type(value)]


def _missing(record: dict[str, Any], field: str) -> BadLine:
    """What is wrong with an object that has not the field."""
    for name, first in islice(_arrays_of_objects(record), _NAMES):
        if {"role", "content"} <= first.keys() or {"from", "value"} <= first.keys():
            return BadLine("turns of a chat", f"the turns of a chat, not one text: {how_to_collect('FILE')}")
        if field in first or len(record) == 1:
            return BadLine(
                "documents in an array",
                f'one object with an array of documents, "{printable(name, _NAME_LENGTH)}": {how_to_collect("FILE")}',
            )
    return BadLine("no text field", _explain_missing(record, field))


def _arrays_of_objects(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each array of objects, and its first object."""
    for name, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield name, value[0]


def _explain_missing(record: dict[str, Any], field: str) -> str:
    names = list(islice(record, _NAMES))
    near = difflib.get_close_matches(field, [name for name in names if len(name) <= _NAME_LENGTH], 1)
    mend = f"rename {printable(near[0])}" if near else "rename the one that holds the text"
    more = f" and {len(record) - _SHOWN_NAMES} more" if len(record) > _SHOWN_NAMES else ""
    found = ", ".join(printable(name, _NAME_LENGTH) for name in names[:_SHOWN_NAMES]) or "none"
    return f'no field "{printable(field)}" (fields: {found}{more}): {mend}, or set corpus.text_field in params.yaml'


def _explain_json(source: str, line: Line, error: json.JSONDecodeError) -> tuple[str, str]:
    """The kind of a JSON error, and what to do about it."""
    bare = source.strip()
    at_end = (
        not source[error.pos :].strip() or error.msg.startswith("Unterminated string") or _HALF_ESCAPE.search(source)
    )
    if bare.startswith(("{'", "['")):
        return "single quotes", "single quotes: JSON takes double quotes only"
    if "\r" in bare:
        return "not JSON", "line ends of old Macs: convert them with tr '\\r' '\\n' < OLD > NEW"
    if bare in ("{", "["):
        return "JSON over several lines", "a document over several lines: " + how_to_collect("FILE")
    if at_end and not line.end:
        return "cut off", _CUT_OFF
    if error.msg == "Extra data":
        return "text after the object", "something follows the object: one object a line, and nothing else"
    if error.msg.startswith("Invalid control character"):
        return "not JSON", "a tab or another control character inside a string: write \\t, \\n, \\u001f"
    if error.msg.startswith("Unterminated string"):
        return "not JSON", "a string without its closing quote: a line break inside a text is written \\n"
    return "not JSON", error.msg[0].lower() + error.msg[1:]


def _explain_encoding(content: bytes, error: UnicodeDecodeError) -> str:
    where = f"byte {error.start + 1} (0x{content[error.start]:02x}) is not UTF-8"
    content = content[error.start :][:_BYTES]
    foreign = sum(byte >= 0x80 for byte in content)
    # A language written in Latin letters has such bytes one by one; Russian has words of them.
    together = sum(one >= 0x80 and other >= 0x80 for one, other in pairwise(content))
    for encoding in ("CP1251", "KOI8-R", "CP866"):
        guess = content.decode(encoding, errors="replace")
        if together > foreign / 2 and sum(character in _FREQUENT for character in guess) > foreign / 3:
            return f"{where}; it looks like {encoding}: {convert(encoding)}"
    return f"{where}: find out the file's encoding, and {convert('ENCODING')}"
