"""Tables: CSV with whatever parts its columns, and Excel's workbooks."""

from __future__ import annotations

import csv
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import StringIO
from itertools import chain, islice
from typing import Any
from xml.etree.ElementTree import ParseError

from stages.lib.common.cli import printable
from tools.collect import decoding, records
from tools.collect.documents import Document, Found, Left, Note, Unreadable, Wishes, package
from tools.collect.sources import File, refuse_bomb

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_ROWS = 100  # by which the separator is told
_EVEN = 0.9  # of the rows, at least, have as many cells as the first
_NAME = 60  # characters of a column's name, at most
_CELL = 200  # lines of a cell, at most, where quotes are not to be trusted
_LOOKED_AT = 20  # rows of a sheet by which it is told how wide its table is
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")  # a character that XML has no place for, in a workbook
_SAID = re.compile(r'"?sep=(.)"?[\r\n]')  # what Excel writes before the first row
csv.field_size_limit(decoding.LINE)


def separator(start: str, called_table: bool) -> str | None:
    """What parts the columns of a table that begins like this, or None where that is no table.

    Where the name does not call it a table, it has to look like nothing else: prose has spaces after its commas.
    """
    if (said := _SAID.match(start)) and said[1] in SEPARATORS:
        return said[1]
    best: tuple[float, str | None] = (0, None)
    for one in SEPARATORS:
        try:
            rows = list(islice(filter(None, csv.reader(StringIO(start, ""), delimiter=one)), _ROWS))
        except csv.Error:
            continue
        if rows and len(start) >= 2**15:
            rows.pop()  # may be cut off
        if len(rows) < (2 if called_table else 4) or len(rows[0]) < 2:
            continue
        even = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        prose = any(cell.startswith(" ") for row in rows[:5] for cell in row[1:]) or not _is_header(rows[0])
        prose |= not any(row[0] for row in rows)  # paragraphs that begin with a tab
        if even >= (_EVEN if called_table else 1) and (called_table or not prose):
            best = max(best, (even * len(rows[0]), one))
    # One column needs nothing to part it.
    return best[1] or ("," if called_table and _is_header(start.split("\n")[0].split(",")) else None)


def _is_header(row: list[Any], column: str | None = None) -> bool:
    """Whether these are names of columns; surely where one of them is `column`, or what people call their texts."""
    names = [str(cell or "").strip() for cell in row]
    if column in names or any(name.lower() in records.TEXT for name in names):
        return True
    if len(set(names)) < len(names) or names.count("") > 1:  # an index column has no name
        return False
    if len(names) == 1 and re.search(r"[.,!?…]", names[0]):
        return False
    return all(len(name) <= _NAME and "\n" not in name and not records.counts(name) for name in names)


def _stands_over_others(first: list[Any], below: list[list[Any] | Left]) -> bool:
    """Whether a row has words where all those below have numbers or times: forms have whole questions for names."""
    for place, name in enumerate(map(_cell, first)):
        cells = [_cell(row[place]) for row in below if not isinstance(row, Left) and len(row) > place]
        filled = [*filter(None, cells)]
        if name and not records.counts(name) and filled and all(map(records.counts, filled)):
            return True
    return False


def _cell(cell: Any) -> str:
    return str("" if cell is None else cell).strip()


def read_csv(file: File, wishes: Wishes) -> Found:
    """The documents in a table of text."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    with decoding.text(file, encoding) as stream:
        parted = separator(stream.read(2**16), True) or ","
    yield Note(f"encoding {encoding.said}, columns parted by {SEPARATORS[parted]}")
    way = _quotes(file, encoding, parted)
    with decoding.text(file, encoding, newline="") as stream:
        first = stream.readline()
        lines = stream if _SAID.match(first) else chain([first], stream)
        rows = csv.reader(lines, delimiter=parted, **way) if way else _row_by_row(lines, parted)
        yield from records.documents(_records(_in_one_column(rows, parted), wishes.column), wishes, file.name)


def _quotes(file: File, encoding: decoding.Encoding, parted: str) -> dict[str, Any] | None:
    """How cells are quoted in a table, as csv.reader takes it; None where no way leads to its end."""
    ways: list[dict[str, Any]] = [{"strict": True}, {"strict": True, "escapechar": "\\"}]
    if parted == "\t":  # what writes tabs often quotes nothing
        ways.append({"quoting": csv.QUOTE_NONE})
    for way in ways:
        with decoding.text(file, encoding, newline="") as stream, suppress(csv.Error):
            for _ in csv.reader(stream, delimiter=parted, **way):
                pass
            return way
    return None


def _row_by_row(lines: Iterable[str], parted: str) -> Iterator[list[str] | Left]:
    """The rows of a table some of which are quoted wrongly: where a quote is never closed its line is no row.

    csv.reader alone would take the rows that follow for the rest of that cell.
    """
    again: list[str] = []
    lines = iter(lines)

    def following() -> str:
        return again.pop(0) if again else next(lines, "")

    while line := following():
        taken = [line]
        while True:
            try:
                yield next(csv.reader(taken, delimiter=parted, strict=True), [])
                break
            except csv.Error as error:
                may_close = "unexpected end" in str(error) and len(taken) < _CELL
                if not may_close or not (line := following()):
                    yield Left("rows with a quote that is not closed, or closed too early")
                    again[:0] = taken[1:]
                    break
                taken.append(line)


def _in_one_column(rows: Iterable[list[str] | Left], parted: str) -> Iterator[list[str] | Left]:
    """The rows; below the name of a single column nothing is parted."""
    rows = iter(rows)
    first = next(rows, [])
    yield first
    for row in rows:
        yield [parted.join(row)] if isinstance(row, list) and row and first and len(first) == 1 else row


def read_sheets(file: File, wishes: Wishes) -> Found:
    """The documents in all sheets of a workbook of Excel."""
    openpyxl = package("openpyxl", file.name, "a workbook")
    without: list[tuple[Unreadable, int]] = []  # of sheets in which no text is found, why, and how many rows
    read = False
    with file.anywhere() as stream:
        with zipfile.ZipFile(stream) as archive:
            refuse_bomb(archive, file.name)
        try:
            for sheet in openpyxl.load_workbook(stream, read_only=True, data_only=True).worksheets:
                sheet.reset_dimensions()  # what the sheet says of its size need not be true
                name = f"{file.name}, sheet {printable(sheet.title)}"
                try:
                    for event in records.documents(_rows(sheet, wishes.column), wishes, name):
                        read |= isinstance(event, Document)
                        yield event
                except Unreadable as error:
                    without.append((error, sum(1 for _ in _rows(sheet, wishes.column))))
        except (LookupError, ValueError, TypeError, ParseError) as error:
            raise Unreadable(f"{file.name} is a damaged workbook: {error}") from None
    if without and not read:
        raise without[0][0]
    for error, count in without:
        yield Note(str(error).removeprefix(f"{file.name}, "))
        yield Left("rows of sheets without a text", count)


def _rows(sheet: Any, column: str | None) -> Iterator[records.Record | Left]:
    rows = (_filled(list(map(_unescaped, row))) for row in sheet.iter_rows(values_only=True))
    return _below_title(filter(None, rows), column)


def _unescaped(cell: Any) -> Any:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), cell) if isinstance(cell, str) else cell


def _filled(row: list[Any]) -> list[Any]:
    """The row without the empty cells at its end."""
    return row[: max((at for at, cell in enumerate(row, 1) if cell not in (None, "")), default=0)]


def _below_title(rows: Iterator[list[Any]], column: str | None) -> Iterator[records.Record | Left]:
    """The records of a sheet, whose table may have a title above it and notes at its side.

    A sheet leaves out what is empty at a row's end.
    """
    sample = list(islice(rows, _LOOKED_AT))
    ((width, _),) = Counter(map(len, sample)).most_common(1) or [(0, 0)]
    alone = [len(row) - row.count(None) - row.count("") == 1 for row in sample]
    above = alone.index(False) if width > 1 and False in alone else 0
    if above:
        yield Left("rows above the table", above)
    table = chain(sample[above:], rows)
    first = next(table, [])
    cut = ([*row, *[None] * (len(first) - len(row))][: len(first)] for row in table)
    yield from _records(chain([first], (row if any(row) else Left("rows beside the table") for row in cut)), column)


def _records(rows: Iterable[list[Any] | Left], column: str | None) -> Iterator[records.Record | Left]:
    """Each row by the names in the first one; where that has none, its columns are called 1, 2, …"""
    filled = (row for row in rows if isinstance(row, Left) or any(row))
    first = next(filled, [])
    while isinstance(first, Left):
        yield first
        first = next(filled, [])
    if not first:
        return
    sample = list(islice(filled, _LOOKED_AT))
    filled = chain(sample, filled)
    if _is_header(_filled(first), column) or _stands_over_others(first, sample):
        names = _different([str(cell or number).strip() for number, cell in enumerate(_filled(first), 1)])
    else:
        names = [str(number) for number in range(1, len(first) + 1)]
        yield dict(zip(names, first, strict=True))
    for row in filled:
        if isinstance(row, Left):
            yield row
        elif len(names) <= len(row) and not any(row[len(names) :]):
            yield dict(zip(names, row, strict=False))
        else:
            yield Left("rows with more or fewer cells than the first")


def _different(names: list[str]) -> list[str]:
    """The names, one that is there again with a number: a, a 2."""
    before: Counter[str] = Counter()
    found = []
    for name in names:
        before[name] += 1
        found.append(f"{name} {before[name]}" if before[name] > 1 else name)
    return found
