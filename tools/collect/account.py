"""What became of everything that was found, so that it adds up, and what is said of it."""

from __future__ import annotations

import random
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from stages.lib.common.cli import UserError, printable
from stages.lib.corpus.description import FEW_DOCUMENTS, LONG_DOCUMENT
from stages.lib.corpus.records import CONTROL, SURROGATE
from tools.collect import chats, divide
from tools.collect.documents import Document, Left, Note, Speakers, Wishes
from tools.collect.recognise import KINDS

# Bytes of a text, so that its line has no more than the pipeline takes where its settings are left as they are.
LONGEST = 15 * 2**20
_EXAMPLES, _BEGINNING, _NAMED = 3, 300, 5
# What the pipeline takes in no text, and byte order marks, which are no text either.
_NO_TEXT = re.compile(f"{CONTROL.pattern}|{SURROGATE.pattern}|\ufeff")
_LINE_END = re.compile(r"\r\n|[\r\v\f]")  # a line's or a page's, and that within a paragraph of Word's
_EMPTY_LINES = re.compile(r"(?:[^\S\n]*\n)+")


@dataclass
class Tally:
    """One kind of files: `written` and `left` count its units (messages, rows, …), `documents` what was made."""

    title: str
    unit: str
    files: int = 0
    written: int = 0
    documents: int = 0
    left: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        """What to say of it."""
        left = self.left.total()
        yield (
            f"{self.title}, {counted(self.files, 'files')}: {counted(self.written + left, self.unit)} found = "
            f"{self.written} written, in {counted(self.documents, 'documents')}, + {left} left out"
        )
        yield from (f"  left out: {count} {reason}" for reason, count in self.left.most_common())
        for note, count in self.notes.most_common(_NAMED):
            yield f"  {note}" + (f" ({count} files)" if count > 1 else "")


def counted(number: int, things: str) -> str:
    """A number of things, in the plural where there is not one."""
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


class Account:
    """Of everything. `documents` and `characters` count what is written."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes
        self._tallies: dict[str, Tally] = {}
        self._files_left: Counter[str] = Counter()
        self._unreadable: list[str] = []
        self._in_part: list[str] = []
        self._obstacles: dict[str, str] = {}
        self._speakers: Counter[str] = Counter()
        self._cleaned = 0
        self._few: list[str] = []
        self._marked: Counter[str] = Counter()  # long documents, by the mark that stands in them
        self._not_found = dict.fromkeys(wishes.marks)
        self._examples: list[str] = []
        self._chance = random.Random(0)
        self.documents = self.characters = 0

    def tally(self, kind: str) -> Tally:
        """The tally of a kind."""
        return self._tallies.setdefault(kind, Tally(KINDS[kind].title, KINDS[kind].unit))

    def leave_files(self, left: Left) -> None:
        """Note that files are left out before they are read."""
        self._files_left[left.reason] += left.count

    def leave_unreadable(self, message: str, in_part: bool = False) -> None:
        """Note that a file among others is left out, or what comes after the documents that it gave, and why."""
        if not in_part:
            self._files_left["unreadable"] += 1
        messages = self._in_part if in_part else self._unreadable
        messages.append(message)

    def obstruct(self, message: str) -> None:
        """Note what has to be mended first; of files that all lack the same, the first one's is enough."""
        self._obstacles.setdefault(message.partition(" is ")[2] or message, message)

    def require_no_obstacle(self) -> None:
        """Raise UserError with all that has to be mended first."""
        told, more = list(self._obstacles.values()), len(self._obstacles) - _NAMED
        if told:
            raise UserError("\n".join([*told[:_NAMED], *([f"... and {more} more"] if more > 0 else [])]))

    def take(self, event: Left | Note | Speakers, tally: Tally) -> None:
        """Note whatever is no document."""
        if isinstance(event, Left):
            tally.left[event.reason] += event.count
        elif isinstance(event, Note):
            tally.notes[event.text] += 1
        else:
            self._speakers.update(event.names)

    def look_for_marks(self, text: str) -> None:
        """Note which of the marks that are to part documents stand in a text."""
        self._not_found = {mark: None for mark in self._not_found if mark not in text}

    def write(self, document: Document, tally: Tally) -> str | None:
        """The text to write, without what is no text; None where nothing is left, or too much."""
        text = _LINE_END.sub("\n", document.text)
        cleaned = _NO_TEXT.sub("", text)
        self._cleaned += cleaned != text
        beginning = _EMPTY_LINES.match(cleaned)
        text = cleaned[beginning.end() if beginning else 0 :].rstrip()
        if not text or len(text.encode()) > LONGEST:
            reason = "too long for a line of the corpus: --by size divides them" if text else "empty"
            tally.left[reason] += document.parts or 1
            return None
        tally.written += document.parts
        tally.documents += 1
        self._remember(text)
        return text

    def _remember(self, text: str) -> None:
        """Keep some documents by chance, always the same, and all while they are few."""
        self.documents += 1
        self.characters += len(text)
        if self.documents < FEW_DOCUMENTS:
            self._few.append(text)
        if len(text) > LONG_DOCUMENT:
            mark, count = divide.commonest_mark(text)
            self._marked[mark] += count > 2
        if len(self._examples) < _EXAMPLES:
            self._examples.append(text[: _BEGINNING + 1])
        elif (at := self._chance.randrange(self.documents)) < _EXAMPLES:
            self._examples[at] = text[: _BEGINNING + 1]

    def require_speaker(self) -> None:
        """Raise UserError when chats were read, and nobody in them has the name that is asked for."""
        name = self._wishes.mine
        if name and self._speakers and not any(chats.is_same(one, name) for one in self._speakers):
            raise UserError(f"no {printable(name)} in what was read: in it write {chats.listed(self._speakers)}")

    def lines(self) -> Iterator[str]:
        """What was found, left out and why, kind by kind."""
        for tally in self._tallies.values():
            if tally.files or tally.documents:
                yield from tally.lines()
        read, left = sum(tally.files for tally in self._tallies.values()), self._files_left.total()
        if left:
            yield f"{counted(read + left, 'files')} found = {read} read + {left} left out"
            yield from (f"  left out: {count} {reason}" for reason, count in self._files_left.most_common())
            yield from (f"    {message}" for message in self._unreadable[:_NAMED])
        if self._in_part:
            yield f"{counted(len(self._in_part), 'files')} read in part: what comes before the damage is in the corpus"
            yield from (f"    {message}" for message in self._in_part[:_NAMED])
        yield from (f"--mark {printable(shlex.quote(mark))}: stands in no text" for mark in self._not_found)
        if self._cleaned:
            yield f"control characters and other bytes that are no text: taken out of {self._cleaned} documents"

    def examples(self) -> Iterator[str]:
        """Some documents as they will be learned, shortened."""
        for text in self._examples:
            yield "a document, as it will be learned:"
            shown = text[:_BEGINNING] + "…" * (len(text) > _BEGINNING)
            yield from (f"  | {line}" for line in shown.split("\n"))

    def advice(self) -> str | None:
        """How to divide long documents that are few, or that marks part; None for others."""
        (mark, marked), *_ = [*self._marked.most_common(1), ("", 0)]
        # Dashes stand in sentences, too, and begin an option.
        dashed = "--mark=" + shlex.quote("\\n" + mark + "\\n")
        way = dashed if mark.startswith("-") else f"--mark {shlex.quote(mark)}"
        at_mark = way if marked and not self._wishes.marks else None
        if not 0 < self.documents < FEW_DOCUMENTS or self.characters < LONG_DOCUMENT * self.documents:
            return (
                f"in {counted(marked, 'documents')} lines part the text: {at_mark} divides it there"
                if at_mark
                else None
            )
        if not at_mark and not any(tally.documents and KINDS[kind].ways for kind, tally in self._tallies.items()):
            return None  # chats, which are divided where they pause
        chapters = sum(map(divide.headings, self._few))
        if self._wishes.by is None and chapters > 2 * self.documents:
            return "few documents, and long ones: with --by chapter they become more"
        return f"few documents, and long ones: with {at_mark or '--by size'} they become more"
