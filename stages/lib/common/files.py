"""Files that are whole or not there: everything is written beside its place and renamed into it.

The cost is one rename a file and, for folders, room for the old and the new one at once. In return no reader ever
meets half an output, whatever killed the writer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stages.lib.common.cli import UserError, command, printable

_PROBE_BYTES = 2**20  # no full disk takes as much
# How a table's cell is written, so that it stays one cell on one line.
_STAND_FOR = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
_ESCAPES = str.maketrans({character: f"\\{letter}" for letter, character in _STAND_FOR.items()})


def need(*paths: str | Path) -> None:
    """Raise UserError when one of a stage's inputs is not there."""
    for path in paths:
        if not Path(path).exists():
            raise UserError(f"{path} is not there yet: run {command('dvc repro')}, which makes it")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of `path` if the block ends without an error."""
    path = Path(path)
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _name(error, path)
        raise
    mask = os.umask(0)
    os.umask(mask)
    for file in partial.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)  # safetensors writes files that only their owner may read
        sync(file)
    sync(partial)
    old = path.parent / f".{path.name}.old.partial"
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of `path` if the block ends without an error."""
    path = Path(path)
    partial = _partial(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except BaseException as error:
        partial.unlink(missing_ok=True)
        _name(error, path)
        raise
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Have a write that fails inside the block raise OSError, whatever the library that writes makes of it.

    torch and safetensors raise errors of their own. safetensors writes the system's number into its message; torch does
    not say why. So after one the disk is asked again: where it takes no more bytes, that is the OSError raised;
    otherwise theirs goes on.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None
        probe = Path(folder) / ".probe.partial"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(_PROBE_BYTES))
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
        raise


@contextmanager
def reading(folder: str | Path) -> Iterator[None]:
    """Have what a library makes of a damaged file of a model inside the block be one line about its folder.

    Libraries raise all kinds of errors there. Those of the system, and of memory, go on. Raises UserError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) or isinstance(error, MemoryError) or "memory" in str(error):
            raise
        reason = printable((str(error).strip() or type(error).__name__).split("\n")[0])
        raise UserError(
            f"{printable(str(folder))} cannot be read ({reason}): it is damaged. In DVC's cache "
            f"{command('python -m tools.cache mend')} finds what is, then {command('dvc repro')} brings it back"
        ) from None


def _name(error: BaseException, path: Path) -> None:
    """Tell an error of the system that came without a path which one it is about."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _partial(path: Path) -> Path:
    return path.parent / f".{path.name}.partial"


def sync(path: Path) -> None:
    """Bring a file or folder onto the disk itself, so that it survives a power cut and not only a crash."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: Path, name: Path) -> None:
    """Give a file a second name; on a file system that has no such thing, copy it."""
    try:
        os.link(source, name)
    except OSError:
        shutil.copyfile(source, name)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has."""
    with new_file(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def to_json(data: Any) -> str:
    """`data` as JSON, the same bytes for the same data. Raises ValueError for NaN and infinity: null says "none"."""
    return json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def to_json_line(data: Any) -> str:
    """`data` as one line of a JSON Lines file."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"


def read_json_lines(path: str | Path) -> list[Any]:
    """What the lines of a JSON Lines file hold. A line ends at a line feed alone: JSON leaves U+2028 in texts raw."""
    with open(path, "rb") as lines:
        return [json.loads(line) for line in lines]


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as a JSON file, keys in the order given."""
    write_text(path, to_json(data))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_tsv(path: str | Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table for `dvc plots`: one header line, then one line a row, columns parted by tabs.

    Within a cell a tab, a line end and a backslash are written as `\\t`, `\\n`, `\\r` and `\\\\`.
    """
    lines = ["\t".join(str(cell).translate(_ESCAPES) for cell in row) for row in [header, *rows]]
    write_text(path, "\n".join(lines) + "\n")


def read_tsv(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table that `write_tsv` wrote, each as column name to text."""
    lines = Path(path).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    header, *rows = ([_unescaped(cell) for cell in line.split("\t")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", lambda escape: _STAND_FOR[escape[1]], cell)


def size_of_tree(path: str | Path) -> int:
    """Bytes of the files below `path`, each counted once however many names it has; of a folder that may be at work."""
    sizes: dict[int, int] = {}
    for file in Path(path).rglob("*"):
        with suppress(FileNotFoundError):  # gone by now
            if file.is_file():
                found = file.stat()
                sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_tree(path: str | Path) -> dict[str, str]:
    """The SHA-256 of every file at or below `path`, by its path relative to `path` ("." for a single file)."""
    path = Path(path)
    if path.is_file():
        return {".": sha256(path)}
    return {file.relative_to(path).as_posix(): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}
