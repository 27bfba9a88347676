"""What a file is, told from how it begins; the name only where content leaves it open."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from tools.collect import books, decoding, records, tables, telegram, texts, vk, whatsapp
from tools.collect.documents import Found, Unreadable, Wishes
from tools.collect.sources import File


class Kind(NamedTuple):
    """A kind of files: what it is called, what is counted in it, what reads it, and how its documents are divided.

    Those that reading divides already, or that are no text to be divided, are not divided by the ways that miss here.
    """

    title: str
    unit: str
    read: Callable[[File, Wishes], Found]
    ways: tuple[str, ...] = ()


_ALL = ("chapter", "paragraph", "size")
_BOOK = ("paragraph", "size")
KINDS = {
    "text": Kind("plain text", "files", texts.read, _ALL),
    "csv": Kind("tables", "rows", tables.read_csv, _ALL),
    "sheets": Kind("workbooks", "rows", tables.read_sheets, _ALL),
    "json": Kind("JSON", "records", records.read_json, _ALL),
    "jsonl": Kind("JSON Lines", "records", records.read_lines, _ALL),
    "arrow": Kind("Arrow and Parquet", "rows", records.read_arrow, _ALL),
    "telegram": Kind("Telegram's exports", "messages", telegram.read),
    "whatsapp": Kind("WhatsApp's exports", "messages", whatsapp.read),
    "vk": Kind("VK's archives", "messages", vk.read),
    **{form: Kind(form.upper(), "chapters", partial(books.read, form=form), _BOOK) for form in books.FORMS},
}
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_ARROW = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
# Inside a ZIP: the beginning of a file's name that only one kind has, and what `mimetype` says in other kinds.
_PARTS = {"word/document": "docx", "xl/workbook": "sheets"}
_MIMETYPES = {
    "application/epub+zip": "epub",
    "application/vnd.oasis.opendocument.text": "odt",
}
_OTHERS = {
    b"%PDF-": "a PDF file: take its text out with pdftotext, or save it as .docx",
    b"\xd0\xcf\x11\xe0": "a file of the old Office: open it and save it as .docx or .xlsx",
    b"7z\xbc\xaf\x27\x1c": "packed with 7-Zip: unpack it",
    b"Rar!": "packed with RAR: unpack it",
}
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_PART_OF_HTML = re.compile(r"</(?:p|div|a|b|i|h\d|li|td|span)>|<br\b", re.IGNORECASE)
_PAGES = {".html", ".htm", ".xhtml"}
# A letter, a mailbox, or a page saved with its pictures: headers, and among them what they all have.
_MAIL = re.compile(r"From \S+@\S+ |(?:From|Return-Path|Received|Delivered-To|Subject|Date|MIME-Version): ")
_MIME = re.compile(r"^(?:MIME-Version|Content-Type): ", re.MULTILINE | re.IGNORECASE)
_SUBTITLES = re.compile(r"WEBVTT\b|(?:\d+\s+)?\d\d:\d\d:\d\d[,.]\d{3} --> ")
_JSON = re.compile(r'\[\s*[\[{"]|\{\s*["}]|\[\s*\]')
_TABLES = {".csv", ".tsv", ".tab"}


def recognise(file: File, column: str | None = None) -> str:
    """The name of its kind in `KINDS`, or of how it is packed; with this name in its first line it is a table.

    Raises Unreadable for what is nothing of that.
    """
    start = file.start()
    for magic, kind in _PACKED.items():
        if start.startswith(magic):
            return kind
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(file)
    if start.startswith(_ARROW):
        return "arrow"
    if start[257:262] == b"ustar":
        return "tar"
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise Unreadable(f"{file.name} is {what}")
    if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")) and not decoding.wide(start):
        raise Unreadable(f"{file.name} is no text, and no kind of file that is known here")
    return _written(_decoded(start), file, column)


def _zipped(file: File) -> str:
    with file.anywhere() as stream, zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if "mimetype" in names:
            with archive.open("mimetype") as said:
                mimetype = said.read(100).decode("ascii", "replace").strip()
            if kind := _MIMETYPES.get(mimetype):
                return kind
            if "opendocument" in mimetype:
                raise Unreadable(f"{file.name} is no text of LibreOffice's: a table of its save as .xlsx or .csv")
        if any(name.startswith("ppt/") for name in names):
            raise Unreadable(f"{file.name} is a presentation: save it as text, or as .docx")
        return next((kind for part, kind in _PARTS.items() if any(name.startswith(part) for name in names)), "zip")


def _decoded(start: bytes) -> str:
    """Enough of it for what is looked for: marks in ASCII, and lines."""
    codec = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else decoding.wide(start) or "utf-8"
    return start.decode(codec, "replace").removeprefix("\ufeff").replace("\r\n", "\n")


def _written(start: str, file: File, column: str | None) -> str:
    """The kind of what is written in characters."""
    begins = start.lstrip()
    if begins.startswith("{\\rtf"):
        return "rtf"
    if begins.startswith("<"):
        return _marked_up(begins, file)
    if whatsapp.begins(begins):
        return "whatsapp"
    if _JSON.match(begins):
        if telegram.begins(begins):
            return "telegram"
        return "jsonl" if _is_lines(file, begins) else "json"
    if _MAIL.match(begins) and _MIME.search(begins[:8192]):
        raise Unreadable(f"{file.name} is a letter, or a page saved as mail is: save what it says as text or HTML")
    if _SUBTITLES.match(begins):
        raise Unreadable(f"{file.name} holds subtitles: save what is said as text, without times")
    if _suffix(file) in _PAGES and _PART_OF_HTML.search(begins):
        return "html"
    named = column is not None and (column.isdigit() or column in begins.partition("\n")[0])
    called_table = named or _suffix(file) in _TABLES
    return "csv" if tables.separator(start, called_table) else "text"


def _suffix(file: File) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _marked_up(begins: str, file: File) -> str:
    if "<FictionBook" in begins:
        return "fb2"
    if "message__header" in begins:
        return "vk"
    if "ui_crumb" in begins:
        raise Unreadable(f"{file.name} is a page of VK's archive that holds no messages")
    if "<title>Exported Data</title>" in begins and 'class="page_wrap' in begins:
        raise Unreadable(f"{file.name} is Telegram's export as HTML: export again, as machine-readable JSON")
    tags = 1 if _suffix(file) in _PAGES else 3
    if _HTML.search(begins[:4096]) or len(_PART_OF_HTML.findall(begins[:4096])) >= tags:
        return "html"
    if begins.startswith("<?xml"):
        raise Unreadable(f"{file.name} is XML of a kind that is not known here")
    return "text"


def _is_lines(file: File, begins: str) -> bool:
    """Whether JSON comes a record a line: the first line is one by itself, and not all there is."""
    first, _, more = begins.partition("\n")
    if not more:  # the first line is longer than what was looked at, or the only one
        with file.open() as stream:
            first, more = stream.readline(2 * decoding.LINE).decode("utf-8", "replace"), stream.read(1)
    try:
        return isinstance(json.loads(first), dict) and bool(more)
    except (ValueError, RecursionError):
        return False
