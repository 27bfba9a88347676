"""The corpus: JSON Lines in, validated documents out, and every line accounted for.

Each line of the input ends in exactly one of four ways: kept, blank, duplicate of an earlier line, or rejected with a
reason. The text of a kept document stays as it was written, to the byte.

A document's split follows from a hash of its normalised text alone. So it keeps its split when lines are added,
removed or reordered, and a copy of a training document can never turn up among the held-out ones.

Validated documents stand in one Arrow file a split (columns `text`, `line`, `split`), which is memory-mapped when it
is read. The key of each document seen so far is held in memory (about 130 bytes a document).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.lib.cli import UserError

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([("text", pa.string()), ("line", pa.int64()), ("split", pa.string())])
# A record batch ends at whichever comes first, so that what holds one in memory stays small.
BATCH_DOCUMENTS, BATCH_BYTES = 1000, 2**23

# Control characters that no text holds on purpose; tab, line feed, carriage return and form feed are left alone.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


class BadLine(Exception):
    """A line that holds no usable document. Its text says why and what to do."""


def size(path: str | Path) -> int:
    """The bytes of the corpus file. Raises UserError if there is none."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: corpus.path in params.yaml must name one JSON Lines file")
    if not path.exists():
        raise UserError(f'{path} is not there: put your texts into it, one {{"text": "..."}} a line, in UTF-8')
    return path.stat().st_size


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line's number, from 1, and its bytes without the line end."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            yield number, line.rstrip(b"\r\n")


def parse_line(line: bytes, text_field: str) -> str | None:
    """The text of one JSON line, exactly as written there, or None for a blank line. Raises BadLine."""
    if not line.strip():
        return None
    if line.startswith(b"\xef\xbb\xbf"):
        raise BadLine("starts with a byte order mark (BOM): save the file as UTF-8 without BOM")
    try:
        source = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise BadLine(f"byte {error.start + 1} (0x{byte:02x}) is not UTF-8: convert the file to UTF-8") from None
    try:
        record = json.loads(source, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadLine(f"not JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadLine("JSON nested too deep") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadLine(f"not JSON that can be read: {error}") from None
    if not isinstance(record, dict):
        raise BadLine(f'a JSON {_json_type(record)}, not an object: write {{"{text_field}": "..."}}')
    if text_field not in record:
        found = ", ".join(record).encode("utf-8", "backslashreplace").decode("utf-8") or "none"
        raise BadLine(f'no field "{text_field}" (fields: {found}): rename it, or set corpus.text_field in params.yaml')
    text = record[text_field]
    if not isinstance(text, str):
        raise BadLine(f'field "{text_field}" is a JSON {_json_type(text)}, not a string')
    if not text.strip():
        raise BadLine(f'field "{text_field}" is empty')
    if bad := _CONTROL.search(text):
        raise BadLine(f"control character U+{ord(bad[0]):04X} at character {bad.start() + 1} of the text: remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadLine(f"half a surrogate pair at character {error.start + 1} of the text: remove it") from None
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise BadLine("the same field stands twice in one object: keep one")
    return record


def _no_constant(name: str) -> None:
    raise BadLine(f"{name} is not JSON: write null or a number")


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}[type(value)]


def document_key(text: str) -> bytes:
    """16 bytes that two documents share when they differ in white space and Unicode composition (NFC) at most."""
    normalised = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normalised.encode("utf-8"), digest_size=16).digest()


def split_of(key: bytes, seed: int, validation_fraction: float, test_fraction: float) -> str:
    """The split of the document with this key: the same whatever else is in the corpus."""
    digest = hashlib.blake2b(key, digest_size=8, salt=seed.to_bytes(16, "little")).digest()
    position = int.from_bytes(digest, "little") / 2**64  # uniform in [0, 1)
    if position < test_fraction:
        return "test"
    if position < test_fraction + validation_fraction:
        return "validation"
    return "train"


class Writer:
    """Writes validated documents into one Arrow file a split below `folder`; used in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        self._writers = {}
        for split in SPLITS:
            sink = self._open.enter_context(pa.OSFile(str(folder / f"{split}.arrow"), "wb"))
            self._writers[split] = self._open.enter_context(pa.ipc.new_stream(sink, SCHEMA))
        self._waiting: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._sizes = dict.fromkeys(SPLITS, 0)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            if kind is None:
                for split in SPLITS:
                    self._write(split)

    def add(self, text: str, line: int, split: str) -> int:
        """Append one document, `line` being its line number in the corpus, from 1; return its size in UTF-8 bytes."""
        waiting = self._waiting[split]
        waiting.append({"text": text, "line": line, "split": split})
        size = len(text.encode("utf-8"))
        self._sizes[split] += size
        if len(waiting) == BATCH_DOCUMENTS or self._sizes[split] >= BATCH_BYTES:
            self._write(split)
        return size

    def _write(self, split: str) -> None:
        if waiting := self._waiting[split]:
            self._writers[split].write_batch(pa.RecordBatch.from_pylist(waiting, schema=SCHEMA))
            waiting.clear()
            self._sizes[split] = 0


def count_documents(folder: str | Path, split: str) -> int:
    """How many documents a split has."""
    return sum(batch.num_rows for batch in read_documents(folder, split))


def read_documents(folder: str | Path, split: str) -> Iterator[pa.RecordBatch]:
    """Yield the documents of a split, one record batch at a time, in corpus order (columns of `SCHEMA`)."""
    with pa.memory_map(str(Path(folder) / f"{split}.arrow")) as source, pa.ipc.open_stream(source) as reader:
        yield from reader
