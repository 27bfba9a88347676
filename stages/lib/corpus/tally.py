"""What became of the lines of a corpus that are no documents, and the messages about them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stages.lib.common.cli import printable
from stages.lib.corpus import formats
from stages.lib.corpus.documents import Documents, Problem
from stages.lib.corpus.places import Places

SHOWN = 20  # problems named one by one
# Of a file that begins like that, the lines are no use one by one: it is another kind of file.
_NO_JSON = ("not JSON", "text after the object", "byte order mark")
_WHOLE_FILE = ("not UTF-8", "JSON over several lines")


class Tally:
    """Counts lines by what they are, and keeps the first bad ones."""

    def __init__(self, path: str, field: str, places: Places) -> None:
        self._path, self._field, self._places = printable(path), field, places
        self.lines = self.blank = self.documents = self.duplicates = self.windows_line_ends = 0
        self.problems: Counter[str] = Counter()  # by kind
        self._named: list[str] = []  # the first ones, with their places
        self._first: Problem | None = None
        self._first_of_kind: dict[str, str] = {}
        self._no_objects = True  # of all bad lines

    def add(self, found: Documents) -> None:
        """Take in what a block holds, but for its bad lines."""
        self.lines += found.count
        self.blank += found.blank
        self.documents += len(found.lines)
        self.windows_line_ends += found.windows_line_ends

    def reject(self, problem: Problem) -> None:
        """Take in a bad line."""
        named = f"{self._places.full(problem.line)}: {problem.reason}"
        if self._first is None:
            self._first = problem._replace(content=problem.content[: formats.LOOKED_AT])
        if len(self._named) < SHOWN:
            self._named.append(named)
        self._first_of_kind.setdefault(problem.kind, named)
        self._no_objects = self._no_objects and not problem.content.removeprefix(formats.BOM).lstrip().startswith(b"{")
        self.problems[problem.kind] += 1

    def figures(self, kept: int) -> dict[str, Any]:
        """The sums: lines = kept + duplicates + rejected + blank."""
        return {
            "lines": self.lines,
            "kept": kept,
            "duplicates": self.duplicates,
            "rejected": self.problems.total(),
            "blank": self.blank,
            "rejected_by_kind": dict(sorted(self.problems.items())),
            "windows_line_ends": self.windows_line_ends,
        }

    def bad_lines(self, more: bool) -> str:
        """The message that ends a run because of bad lines; `more`: there may be others, which were not looked at."""
        if one := self._one_reason(more):
            return one
        count = self.problems.total()
        first = (
            f"{'at least ' * more}{count} bad line{'s' * (count > 1)} in {self._path}: mend them, or set "
            "validate.on_error: skip in params.yaml"
        )
        return "\n".join([first, *self._one_by_one(more)])

    def nothing_to_train_on(self, advice: str | None) -> str:
        """The message that ends a run without training documents; `advice`: how to have more, if there are others."""
        if advice:
            return (
                f"every document of {self._path} fell into validation or test: {advice}, or set "
                "validate.validation_fraction and validate.test_fraction to 0 in params.yaml"
            )
        if one := self._one_reason(more=False):
            return one
        return "\n".join([f"{self._path} holds no document: put your texts into it", *self._one_by_one(more=False)])

    def _one_reason(self, more: bool) -> str | None:
        """One line where one reason holds for the whole file."""
        count = self.problems.total()
        if self._first is None or (count == 1 and not self._no_objects):
            return None
        others = f"; {'at least ' * more}{count - 1} more bad line{'s' * (count > 2)}" if count > 1 else ""
        encoding = self._first_of_kind.get("not UTF-8")
        if self.documents:
            # English lines are UTF-8 in any encoding.
            return encoding + others if encoding and len(self.problems) == 1 and count > SHOWN else None
        if encoding and count > 1 and (len(self.problems) == 1 or self._no_objects):
            return encoding + others
        if self._no_objects and self._first.kind in _NO_JSON:
            first = self._first.content.decode("utf-8", "replace").removeprefix("\ufeff")
            name = self._places.name(self._first.line)
            return f"{name} is {formats.explain_text(name, first, self._field)}"
        if count > 1 and (len(self.problems) == 1 or self._first.kind in _WHOLE_FILE):
            return self._named[0] + others
        return None

    def _one_by_one(self, more: bool) -> list[str]:
        rest = self.problems.total() - len(self._named)
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.problems.most_common())
        ending = [f"... and {'at least ' * more}{rest} more"] * (rest > 0)
        ending += [f"by kind: {kinds}"] * (self.problems.total() > 1)
        return [*self._named, *(["; ".join(ending)] if ending else [])]
