"""Tables: CSV with whatever parts its columns, and Excel's workbooks."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import islice
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
csv.field_size_limit(decoding.LINE)


def separator(start: str, called_table: bool) -> str | None:
    """What parts the columns of a table that begins like this, or None where that is no table.

    Where the name does not call it a table, it has to look like nothing else: prose has spaces after its commas.
    """
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
        if even >= (_EVEN if called_table else 1) and (called_table or not prose):
            best = max(best, (even * len(rows[0]), one))
    # One column needs nothing to part it.
    return best[1] or ("," if called_table and _is_header(start.split("\n")[0].split(",")) else None)


def _is_header(row: list[Any]) -> bool:
    names = [str(cell or "").strip() for cell in row]
    if len(set(names)) < len(names) or names.count("") > 1:  # an index column has no name
        return False
    return all(len(name) <= _NAME and "\n" not in name and not _is_number(name) for name in names)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def read_csv(file: File, wishes: Wishes) -> Found:
    """The documents in a table of text."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    with decoding.text(file, encoding) as stream:
        parted = separator(stream.read(2**16), True) or ","
    yield Note(f"encoding {encoding.said}, columns parted by {SEPARATORS[parted]}")
    with decoding.text(file, encoding, newline="") as stream:
        reader = csv.reader(stream, delimiter=parted)
        try:
            yield from records.documents(_records(reader), wishes, file.name)
        except csv.Error as error:
            raise Unreadable(
                f"{file.name}, line {reader.line_num}: {error}; a quote that is never closed does that"
            ) from None


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
                    for event in records.documents(_rows(sheet), wishes, name):
                        read |= isinstance(event, Document)
                        yield event
                except Unreadable as error:
                    without.append((error, sum(1 for _ in _rows(sheet))))
        except (LookupError, ValueError, TypeError, ParseError) as error:
            raise Unreadable(f"{file.name} is a damaged workbook: {error}") from None
    if without and not read:
        raise without[0][0]
    for error, count in without:
        yield Note(str(error).removeprefix(f"{file.name}, "))
        yield Left("rows of sheets without a text", count)


def _rows(sheet: Any) -> Iterator[records.Record | Left]:
    return _records(_padded(sheet.iter_rows(values_only=True)))


def _padded(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[Any]]:
    """The rows that have something, no narrower than the first: a sheet leaves out what is empty at their ends."""
    width = 0
    for row in rows:
        filled = max((at for at, cell in enumerate(row, 1) if cell not in (None, "")), default=0)
        if filled:
            width = width or filled
            yield [*row[:filled], *[None] * (width - filled)]


def _records(rows: Iterable[list[Any]]) -> Iterator[records.Record | Left]:
    """Each row by the names in the first one; where that has none, its columns are called 1, 2, …"""
    filled = filter(any, rows)
    first = next(filled, None)
    if first is None:
        return
    names = [str(cell or number).strip() for number, cell in enumerate(first, 1)]
    if not _is_header(first):
        names = [str(number) for number in range(1, len(first) + 1)]
        yield dict(zip(names, first, strict=True))
    for row in filled:
        if len(row) == len(names):
            yield dict(zip(names, row, strict=True))
        else:
            yield Left("rows with more or fewer cells than the first")
