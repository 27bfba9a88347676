"""What a file is that is no JSON Lines in UTF-8, told from how it begins, and what to do with it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from stages.lib.common.cli import UserError, command, printable

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
BOM = b"\xef\xbb\xbf"
LOOKED_AT = 2**16  # bytes of a file's beginning in which something is looked for

_MAGIC = {
    b"\x1f\x8b": ("packed with gzip", "have its name end in .jsonl.gz, in corpus.path too if that names it"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "have its name end in .jsonl.zst, in corpus.path too if that names it"),
    b"BZh": ("packed with bzip2", None),
    b"\xfd7zXZ\0": ("packed with xz", None),
    b"PK\x03\x04": ("a ZIP archive, as .docx, .xlsx and .epub are", None),
    b"%PDF-": ("a PDF", "take its text out with pdftotext, and give that to " + command("python -m tools.collect")),
    b"PAR1": ("Parquet", None),
    b"ARROW1": ("an Arrow file", None),
    b"{\\rtf": ("RTF", None),
    b"\xd0\xcf\x11\xe0": (
        "a file of an old Word or Excel",
        "save it as .docx or .xlsx there, and give that to " + command("python -m tools.collect"),
    ),
    b"SQLite format 3\0": (
        "an SQLite database",
        "take its texts out as CSV, and give that to " + command("python -m tools.collect"),
    ),
}
# A JSON object over several lines that holds its documents in an array.
_WRAPPED = re.compile(rb'\s*\{[^\S\n]*\n[^\[\]]*?"(\w+)"\s*:\s*\[\s*\{')


def how_to_collect(path: str | Path, options: str = "") -> str:
    """The command that makes a corpus of a file."""
    collect = command(f"python -m tools.collect {shlex.quote(str(path))}{options} --output NEW.jsonl")
    return f"{collect} makes a corpus of it"


def refuse(path: Path, start: bytes) -> None:
    """Raise UserError when a file that begins with these bytes holds no lines of JSON in UTF-8 at all."""
    what, mend = next((told for magic, told in _MAGIC.items() if start.startswith(magic)), (None, None))
    if path.suffix in COMPRESSED and mend and what.startswith("packed"):
        what, mend = "packed twice", "unpack it once"
    if start[257:262] == b"ustar":
        what = "a tar archive"
    if not what and (encoding := _wide_encoding(start[:256])):
        raise UserError(f"{printable(str(path))} is {encoding}, not UTF-8: {convert(encoding)}")
    start = start[:LOOKED_AT].removeprefix(BOM)
    if re.match(rb'\s*\[\s*[\[{"]', start):
        what = "one JSON array, not a document a line"
    elif found := _WRAPPED.match(start):
        what = f'one JSON object with an array "{found[1].decode("ascii", "replace")}", not a document a line'
    elif re.match(rb"\s*<[!?\w]", start):
        what = "a page or book with markup (HTML, FB2, XML), not JSON Lines"
    if what:
        raise UserError(f"{printable(str(path))} is {what}: {mend or printable(how_to_collect(path))}")


def _wide_encoding(start: bytes) -> str | None:
    """UTF-32, or UTF-16 in one of its orders; None for anything else."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first, second = start[::2].count(0), start[1::2].count(0)
    if max(first, second) <= len(start) / 8 or min(first, second) > max(first, second) / 8:
        return None
    return "UTF-16LE" if second > first else "UTF-16BE"


def convert(encoding: str) -> str:
    """What to do with a file in another encoding."""
    return f"convert it with iconv -f {encoding} -t UTF-8 OLD > NEW"


def explain_text(name: str, first: str, field: str) -> str:
    """What a file is, and what to do with it, of which no line is JSON and the first one is this."""
    if any(field in [column.strip().strip('"') for column in first.split(separator)] for separator in ",;\t"):
        return f"a table (CSV), not JSON Lines: {how_to_collect(name, f' --column {shlex.quote(field)}')}"
    return (
        f"plain text, not JSON Lines: {how_to_collect(name, ' --by paragraph')} (or --by chapter, --by size, --by file)"
    )
