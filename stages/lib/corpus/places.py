"""Where the lines of the corpus stand: its files may be many, its lines are counted through all of them."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

from stages.lib.common import cli, files

_NAME = 2**16  # characters of a name that are shown: all, as no system has longer paths


class Places:
    """The files of a corpus, each with the number of its first line; the numbers go on from file to file.

    A file's name is kept as it can be printed: one that breaks the line or is no UTF-8 has escapes in it.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._names: list[str] = []
        self._sources: dict[int, str] = {}

    @classmethod
    def read(cls, path: str | Path, sources: str | Path | None = None) -> Places:
        """What `write` stored, and, as a table with the columns `line` and `source`, where some texts are from."""
        made = cls()
        for row in files.read_tsv(path):
            made.add(int(row["first_line"]), row["file"])
        made._sources = {int(row["line"]): row["source"] for row in (files.read_tsv(sources) if sources else [])}
        return made

    def write(self, path: str | Path) -> None:
        """Store them as a table with the columns `first_line` and `file`."""
        files.write_tsv(path, ["first_line", "file"], zip(self._firsts, self._names, strict=True))

    def add(self, first_line: int, name: str) -> None:
        """Append a file whose lines are counted from `first_line` on."""
        self._firsts.append(first_line)
        self._names.append(cli.printable(name, _NAME))

    def full(self, line: int) -> str:
        """File and line, for a message."""
        name, number = self._find(line)
        return f"{name}, line {number}"

    def name(self, line: int) -> str:
        """The file that the line stands in."""
        return self._find(line)[0]

    def short(self, line: int) -> str:
        """Where the text is from, if that is known; else the line, preceded by its file where there are several."""
        if line in self._sources:
            return self._sources[line]
        name, number = self._find(line)
        return f"{name}:{number}" if len(self._names) > 1 else str(number)

    def _find(self, line: int) -> tuple[str, int]:
        # The last file that begins there: those before it are empty.
        at = bisect_right(self._firsts, line) - 1
        return self._names[at], line - self._firsts[at] + 1
