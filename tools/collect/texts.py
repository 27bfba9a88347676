"""Plain text and Markdown, kept as written."""

from __future__ import annotations

from tools.collect import decoding, divide
from tools.collect.documents import Document, Found, Note, Wishes, numbered
from tools.collect.sources import File


def read(file: File, wishes: Wishes) -> Found:
    """The file as one document, or as many as it is divided into: piece by piece, where no marks divide it before."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    yield Note(f"encoding {encoding.said}")
    if wishes.marks or wishes.by in (None, "file"):
        yield Document(decoding.whole_text(file, encoding))
        return
    pieces = divide.pieces(decoding.lines(file, encoding), wishes.by, wishes.size)
    yield from numbered(pieces, Document("", divided=True))
