"""What a file is that is no JSON Lines in UTF-8, told from how it begins, and what to do with it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from stages.lib.common.cli import UserError, printable

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
BOM = b"\xef\xbb\xbf"
LOOKED_AT = 2**16  # bytes of a file's beginning in which something is looked for
CHAT = {"messages", "conversations", "conversation", "turns"}  # what the turns of a chat are called

_MAGIC = {
    b"\x1f\x8b": ("packed with gzip", "have its name end in .jsonl.gz, in corpus.path too if that names it"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "have its name end in .jsonl.zst, in corpus.path too if that names it"),
    b"BZh": ("packed with bzip2", "unpack it"),
    b"\xfd7zXZ\0": ("packed with xz", "unpack it"),
    b"PK\x03\x04": ("a ZIP archive, as .docx, .xlsx and .epub are", "unpack it, or save its text as JSON Lines"),
    b"%PDF-": ("a PDF", "take its text out of it, and write that as JSON Lines"),
    b"PAR1": (
        "Parquet",
        'python -c "import json, pyarrow.parquet as p; [print(json.dumps(row, default=str)) for batch in '
        "p.ParquetFile('OLD').iter_batches() for row in batch.to_pylist()]\" > NEW turns it into JSON Lines",
    ),
}
# A JSON object over several lines that holds its documents in an array.
_WRAPPED = re.compile(rb'\s*\{[^\S\n]*\n[^\[\]]*?"(\w+)"\s*:\s*\[\s*\{')


def refuse(path: Path, start: bytes) -> None:
    """Raise UserError when a file that begins with these bytes holds no lines of JSON in UTF-8 at all."""
    name = printable(str(path))
    for magic, (what, mend) in _MAGIC.items():
        if start.startswith(magic):
            raise UserError(f"{name} is {what}: {mend}")
    if encoding := _wide_encoding(start[:256]):
        raise UserError(f"{name} is {encoding}, not UTF-8: {convert(encoding)}")
    start = start[:LOOKED_AT].removeprefix(BOM)
    if re.match(rb'\s*\[\s*[\[{"]', start):
        raise UserError(
            f"{name} is one JSON array, not a document a line: jq -c '.[]' OLD > NEW turns it into JSON Lines"
        )
    if (found := _WRAPPED.match(start)) and (array := found[1].decode("ascii", "replace")) not in CHAT:
        raise UserError(
            f'{name} is one JSON object with an array "{array}", not a document a line: '
            f"jq -c '.{array}[]' OLD > NEW turns it into JSON Lines"
        )


def _wide_encoding(start: bytes) -> str | None:
    """UTF-16 in one of its orders, or None."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if start[1::2].count(0) > len(start) / 8 > 0:
        return "UTF-16LE"
    return "UTF-16BE" if start[::2].count(0) > len(start) / 8 > 0 else None


def convert(encoding: str) -> str:
    """What to do with a file in another encoding."""
    return f"convert it with iconv -f {encoding} -t UTF-8 OLD > NEW"


def explain_text(first: str, field: str) -> str:
    """What a file is, and what to do with it, of which no line is JSON and the first one is this."""
    for separator in ",;\t":
        if field in [name.strip().strip('"') for name in first.split(separator)]:
            return (
                'a table (CSV), not JSON Lines: python -c "import csv, json; csv.field_size_limit(2**31 - 1); '
                "[print(json.dumps(row)) for row in csv.DictReader(open('OLD', encoding='utf-8-sig', newline=''), "
                f'delimiter={separator!r})]" > NEW turns it into JSON Lines'
            )
    document = f'select(test("\\\\S")) | {{{json.dumps(field)}: .}}'
    by_line, by_paragraph = shlex.quote(document), shlex.quote(f'split("\\n\\n")[] | {document}')
    return (
        f"plain text, not JSON Lines: jq -Rc {by_line} OLD > NEW makes a document of each line, jq -Rsc {by_paragraph} "
        "OLD > NEW of what stands between empty lines"
    )
