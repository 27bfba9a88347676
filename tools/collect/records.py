"""Records into documents: lines and arrays of JSON, rows of tables, Arrow and Parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from stages.lib.common.cli import printable
from stages.lib.corpus.records import BadLine, object_of
from tools.collect import decoding
from tools.collect.documents import Document, Found, Left, Note, Unreadable, Wishes, named
from tools.collect.sources import File
from tools.collect.template import TURN, Template, turns

Record = dict[str, Any]
_SAMPLE = 200  # records by which it is told what holds the text
_JSON = 2**30  # bytes of a JSON file, which takes several times as much in memory
# Fields that people call their texts, and sets of fields that make one together.
TEXT = ("text", "content", "body", "message", "article", "document", "story", "review", "comment", "post", "текст")
_TOGETHER = (
    "{prompt}\\n{completion}",
    "{prompt}\\n{response}",
    "{instruction}\\n\\n{input}\\n\\n{output}",
    "{instruction}\\n\\n{output}",
    "{question}\\n{answer}",
)
_DECODER = json.JSONDecoder(object_pairs_hook=object_of)
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}([ T,]+\d{1,2}:\d\d.{0,20})?$")  # and a time, a zone
_BLANK = re.compile(r"\s*")
_CLEARLY = 3  # times as long as any other a column is that needs no name


def documents(records: Iterable[Record | Left], wishes: Wishes, name: str) -> Found:
    """A document of each record, by what is wished or else by what the first records look like. Raises Unreadable."""
    numbered = enumerate(records, 1)
    sample: list[tuple[int, Record]] = []
    for number, record in numbered:
        if isinstance(record, Left):
            yield record
        elif len(sample := [*sample, (number, record)]) == _SAMPLE:
            break
    if not sample:
        return
    said, text_of = _way([record for _, record in sample], wishes, name)
    yield Note(said)
    for number, record in chain(sample, numbered):
        if isinstance(record, Left):
            yield record
        elif not (text := text_of(record)):
            yield Left(f"records without {said}")
        else:
            yield Document(text, str(number))


def _way(sample: list[Record], wishes: Wishes, name: str) -> tuple[str, Callable[[Record], str | None]]:
    """What to say of the way from a record to its text, and the way."""
    fields = list(dict.fromkeys(field for record in sample for field in record))
    if wishes.template and not set(Template(wishes.template).fields) <= {"role", "content", *fields}:
        raise Unreadable(f"{name} has not all fields of the template (its fields: {_listed(fields)})")
    if wishes.column:
        if wishes.column not in fields:
            raise Unreadable(f"{name} has no column {printable(wishes.column)} (its columns: {_listed(fields)})")
        return _column(wishes.column)
    if not wishes.template and _strings(sample, "text"):
        return _column("text")
    if any(map(turns, sample)) and not (wishes.template and set(Template(wishes.template).fields) <= set(fields)):
        return _dialogue(Template(wishes.template or TURN))
    for template in map(Template, (wishes.template,) if wishes.template else _TOGETHER):
        if wishes.template or set(template.fields) <= set(fields):
            return f"a text by the template {template.pattern}", template.fill
    return _column(_text_column(sample, fields, name))


def _column(column: str) -> tuple[str, Callable[[Record], str | None]]:
    def text_of(record: Record) -> str | None:
        value = record.get(column)
        return value if isinstance(value, str) else None

    return f"a text in column {printable(column)}", text_of


def _dialogue(template: Template) -> tuple[str, Callable[[Record], str | None]]:
    def text_of(record: Record) -> str:
        return "\n".join(template.fill(turn) for turn in turns(record) if turn["content"])

    return f"turns, each by the template {template.pattern}", text_of


def _strings(sample: list[Record], field: str) -> list[str]:
    values = [record.get(field) for record in sample]
    return [value for value in values if isinstance(value, str) and value]


def counts(cell: str) -> bool:
    """Whether a cell is a number, or a date with or without a time."""
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return bool(_DATE.match(cell))
    return True


def _text_column(sample: list[Record], fields: list[str], name: str) -> str:
    texts = {field: values for field in fields if (values := _strings(sample, field)) and not all(map(counts, values))}
    lengths = {field: fmean(map(len, values)) for field, values in texts.items()}
    usual = [field for field in lengths if field.strip().lower() in TEXT]
    if len(usual) == 1:
        return usual[0]
    longest = sorted(lengths, key=lengths.__getitem__, reverse=True)
    if not longest:
        raise Unreadable(f"{name} has no column of text (its columns: {_listed(fields)})")
    if len(longest) == 1 or lengths[longest[0]] >= _CLEARLY * lengths[longest[1]]:
        return longest[0]
    could = ", ".join(f"{named(field)} (some {lengths[field]:.0f} characters)" for field in longest[:4])
    raise Unreadable(f"{name}: the text could be in more than one column: {could}; --column names it")


def _listed(fields: list[str]) -> str:
    more = f" and {len(fields) - 12} more" if len(fields) > 12 else ""
    return ", ".join(named(field, 40) for field in fields[:12]) + more


def read_lines(file: File, wishes: Wishes) -> Found:
    """The documents in JSON Lines."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    yield Note(f"encoding {encoding.said}")
    yield from documents(_parsed(decoding.lines(file, encoding)), wishes, file.name)


def _parsed(lines: Iterable[str]) -> Iterator[Record | Left]:
    too_long = False
    for line in lines:
        if too_long or (not line.endswith("\n") and len(line) == decoding.LINE):
            if not too_long:
                yield Left("lines that are too long")
            too_long = not line.endswith("\n")
            continue
        try:
            record = _DECODER.decode(line) if not line.isspace() else Left("empty lines")
        except BadLine:
            record = Left("records with a field twice")
        except (ValueError, RecursionError):
            record = Left("lines that are no JSON")
        yield _record(record)


def _record(value: Any) -> Record | Left:
    if isinstance(value, str):
        return {"text": value}
    return value if isinstance(value, dict | Left) else Left("records that are neither objects nor texts")


def load(file: File, wishes: Wishes) -> tuple[Any, Note]:
    """What a JSON file holds, and its encoding. Raises Unreadable, with the line where it is none."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    try:
        values = _values(decoding.whole_text(file, encoding, _JSON))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg[0].lower()}{error.msg[1:]}"
        raise Unreadable(f"{file.name} begins like JSON, but is none at {where}") from None
    except (ValueError, BadLine) as error:  # a number of thousands of digits, or a field twice
        raise Unreadable(f"{file.name} is JSON that cannot be read: {error}") from None
    return values[0] if len(values) == 1 else values, Note(f"encoding {encoding.said}")


def _values(text: str) -> list[Any]:
    """The values of JSON in a text, mostly one; some programs write one object after the other, each over many lines.

    Raises JSONDecodeError.
    """
    values, place = [], _BLANK.match(text).end()
    while place < len(text) or not values:
        value, place = _DECODER.raw_decode(text, place)
        values.append(value)
        place = _BLANK.match(text, place).end()
    return values


def read_json(file: File, wishes: Wishes) -> Found:
    """The documents in a JSON array, or in the array that an object holds."""
    value, note = load(file, wishes)
    yield note
    array, where = _array(value)
    if where:
        yield Note(f"records from {printable(where)}")
    yield from documents(map(_record, array), wishes, file.name)


def _array(value: Any, where: str = "") -> tuple[list[Any], str]:
    """The longest array of objects or texts in a value, and the names on the way to it."""
    if isinstance(value, list):
        return value, where
    found: list[tuple[list[Any], str]] = []
    if isinstance(value, dict) and where.count(".") < 3 and not turns(value):
        inner = [(f"{where}.{name}".lstrip("."), one) for name, one in value.items()]
        found = [_array(one, name) for name, one in inner if isinstance(one, dict | list)]
        if len(value) > 1 and len(inner) == sum(isinstance(one, dict) for _, one in inner):
            found.append((list(value.values()), f"{where}.*".lstrip(".")))  # records by their names
    usable = [one for one in found if one[0] and isinstance(one[0][0], dict | str)]
    return max(usable, key=lambda one: len(one[0])) if usable else ([value], "")


def read_arrow(file: File, wishes: Wishes) -> Found:
    """The documents in Arrow's files or streams, or in Parquet."""
    with file.anywhere() as stream:
        yield from documents(_rows(stream, file.start()[:6]), wishes, file.name)


def _rows(stream: Any, magic: bytes) -> Iterator[Record]:
    if magic.startswith(b"PAR1"):
        parquet = pyarrow.parquet.ParquetFile(stream)
        readable = [field.name for field in parquet.schema_arrow if not _is_binary(field.type)]
        batches = parquet.iter_batches(1000, columns=readable)
    elif magic == b"ARROW1":
        reader = pa.ipc.open_file(stream)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        batches = pa.ipc.open_stream(stream)
    for batch in batches:
        batch.validate(
            full=True
        )  # Arrow believes what a file says of itself, and what is damaged would end the process
        readable = [field.name for field in batch.schema if not _is_binary(field.type)]
        for part in range(0, batch.num_rows, 1000):
            yield from batch.slice(part, 1000).select(readable).to_pylist()


def _is_binary(kind: pa.DataType) -> bool:
    """Pictures and sounds are: alone, or beside their paths."""
    inner = [field.type for field in kind] if pa.types.is_struct(kind) else [kind]
    return any(pa.types.is_binary(one) or pa.types.is_large_binary(one) for one in inner)
