"""What passes between the readers, who know the files, and the account, which knows what became of everything."""

from __future__ import annotations

import importlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from stages.lib.common.cli import UserError, command, printable

REQUIREMENTS = "tools/collect_requirements.txt"


class Document(NamedTuple):
    """A text that will be learned.

    `place` says where in its file it stands, "" for all of it. `parts` is how many of the things that its kind counts
    (messages, rows, chapters) it holds: 0 for every piece but the first of one that was divided. `divided` is one that
    its reader divided as wished already.
    """

    text: str
    place: str = ""
    parts: int = 1
    divided: bool = False


def numbered(pieces: Iterable[str], whole: Document) -> Iterator[Document]:
    """Pieces of a document as documents, at its place and from 1 on; what it counts is counted with the first one."""
    for number, piece in enumerate(pieces, 1):
        place = f"{whole.place}.{number}" if whole.place else str(number)
        yield whole._replace(text=piece, place=place, parts=whole.parts if number == 1 else 0)


class Left(NamedTuple):
    """So many things that become no document, and why."""

    reason: str
    count: int = 1


class Note(NamedTuple):
    """What was found out about a file, or decided, that its owner should read."""

    text: str


class Speakers(NamedTuple):
    """Who wrote how many messages in a chat."""

    names: Counter[str]


Found = Iterator[Document | Left | Note | Speakers]


class Unreadable(UserError):
    """A file that is damaged, or nothing that can be read. Among others it is left out; alone it is an error."""


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for. `size` counts characters, `pause` hours; None where nothing is asked."""

    by: str | None = None
    marks: tuple[str, ...] = ()
    size: int = 4000
    column: str | None = None
    template: str | None = None
    mine: str | None = None
    dialogue: bool = False
    pause: float = 3.0
    encoding: str | None = None


def named(name: str, limit: int = 200) -> str:
    """What others called something, as a message may show it and a command line take it: in quotes if it has blanks."""
    shown = printable(name, limit)
    if any(mark in shown for mark in '"$`\\'):
        return shlex.quote(shown)
    return f'"{shown}"' if " " in shown else shown


def package(module: str, name: str, what: str) -> ModuleType:
    """A module that only some kinds of files need. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"{printable(name)} is {what}, which takes one more package: "
            + command(f"python -m pip install -r {REQUIREMENTS}")
        ) from None
