"""Messages into documents: what one person wrote, or exchanges with names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple

from stages.lib.common.cli import UserError, printable
from tools.collect.documents import Document, Found, Left, Speakers, Wishes, named
from tools.collect.template import Template

TURN = "{name}: {text}"
_LONG = 100_000  # characters of an exchange: one that never pauses is divided
_SHOWN, _NAME = 12, 40  # names, and characters of each


class Message(NamedTuple):
    """What somebody wrote in a chat. `when` is None where the export does not say it so that it can be read."""

    who: str
    when: datetime | None
    text: str


def moment(year: int, month: int, day: int, hour: int, minute: int, half: str | None = None) -> datetime | None:
    """That minute, None where there is no such one. `half` is "a" or "p" where hours are counted up to 12."""
    if half:
        hour = hour % 12 + 12 * (half in "pP")
    try:
        return datetime(year, month, day, hour, minute)
    except ValueError:
        return None


def documents(messages: Iterable[Message | Left], wishes: Wishes, name: str) -> Found:
    """The documents of one chat, as wished. Raises UserError, with the names of who writes, where nothing is."""
    messages = list(messages)
    names = Counter(one.who for one in messages if isinstance(one, Message))
    if not wishes.mine and not wishes.dialogue:
        raise UserError(
            f"{name} is a chat: --mine NAME takes what one person wrote, --dialogue takes exchanges; "
            f"in it write {listed(names)}"
        )
    yield Speakers(names)
    yield from (one for one in messages if isinstance(one, Left))
    told = [one for one in messages if isinstance(one, Message)]
    yield from _mine(told, wishes) if wishes.mine else _exchanges(told, wishes)


def listed(names: Counter[str]) -> str:
    """Names, with how much each wrote, the most first."""
    shown = ", ".join(f"{named(name, _NAME)} ({count})" for name, count in names.most_common(_SHOWN))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "nobody"


@cache  # of the few names that a chat has, for each of its messages
def is_same(name: str, wished: str) -> bool:
    """Whether a name is the one that is meant, or is shown so: letters' case and outer spaces do not count."""
    written = (name, printable(name), printable(name, _NAME))
    return wished.strip().casefold() in {one.strip().casefold() for one in written}


def _mine(messages: Iterable[Message], wishes: Wishes) -> Found:
    """One document of messages that follow each other with nobody else's between them, and no pause."""
    for run in _runs(messages, wishes.pause):
        for who, turn in _turns(run):
            if is_same(who, wishes.mine or ""):
                yield Document("\n".join(turn), "", len(turn))
            else:
                yield Left("messages by others", len(turn))


def _exchanges(messages: Iterable[Message], wishes: Wishes) -> Found:
    template = Template(wishes.template or TURN)
    for run in _runs(messages, wishes.pause):
        turns = list(_turns(run))
        if len(turns) < 2:
            yield Left("messages without an answer", len(run))
        else:
            lines = (template.fill({"name": who, "text": "\n".join(turn)}) for who, turn in turns)
            yield Document("\n".join(lines), "", len(run))


def _runs(messages: Iterable[Message], pause: float) -> Iterator[list[Message]]:
    """Messages that no pause of so many hours parts."""
    run: list[Message] = []
    length = 0
    for one in messages:
        if run and (_apart(run[-1], one, pause) or length > _LONG):
            yield run
            run, length = [], 0
        run.append(one)
        length += len(one.text)
    if run:
        yield run


def _apart(one: Message, other: Message, pause: float) -> bool:
    return one.when is not None and other.when is not None and (other.when - one.when) / timedelta(hours=1) > pause


def _turns(run: Iterable[Message]) -> Iterator[tuple[str, list[str]]]:
    """Who wrote, and the messages until somebody else did."""
    who, turn = None, []
    for one in run:
        if turn and one.who != who:
            yield who, turn
            turn = []
        who = one.who
        turn.append(one.text)
    if turn:
        yield who, turn
