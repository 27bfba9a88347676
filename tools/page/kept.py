"""Texts that somebody wants to keep: lines at the end of a file, each whole or not there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def append(path: Path, line: str) -> None:
    """Put `line`, which has its line end, after the last one of a file; make the file where there is none.

    A last line that was cut off is left alone, and ended. Where the disk takes less than all of it, the file is as it
    was before. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another page may keep its texts there too
        size = file.seek(0, os.SEEK_END)
        data = line.encode()
        if size:
            file.seek(size - 1)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            _write(file.fileno(), data)
            os.fsync(file.fileno())
        except OSError as error:
            os.ftruncate(file.fileno(), size)
            error.filename = error.filename or str(path)
            raise


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
