"""WhatsApp's export of a chat as text, as iPhones and Android write it, in their owners' ways to write dates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, islice

from tools.collect import chats, decoding
from tools.collect.chats import Message
from tools.collect.documents import Found, Left, Note, Wishes
from tools.collect.sources import File

_STAMP = re.compile(
    r"""[\u200e\u200f\u202a-\u202e]*(?P<bracket>\[)?
    (\d{1,4})[./-](\d{1,2})[./-](\d{1,4}),?[ ](?:à[ ])?
    (\d{1,2})[:.](\d{2})(?:[:.]\d{2})?(?:[\s\u202f]*([AaPp])\.?\s?[Mm]\.?)?
    (?(bracket)\][ ]|[ ]-[ ])""",
    re.VERBOSE,
)
_MARK = "\u200e"  # an iPhone puts it before whatever nobody typed
# Android has no such mark: what stands for media, in any language, and what a few languages have besides.
_MEDIA = re.compile(r"<[^<>]{3,60}>|null|(?:location|Местоположение): https?://\S+")
_ATTACHED = re.compile(r"\S.{0,200} \((?:file attached|файл добавлен)\)")
_EDITED = ("<This message was edited>", "<Сообщение изменено>")
# What an iPhone adds to what somebody typed, and what it puts around names of others.
_ADDED = re.compile(r"\u200e\s*<[^<>\n]{3,60}>|[\u2066-\u2069]")
_POLL = re.compile(r"\u200e?(?:POLL|ОПРОС):\s")
_SERVICE = {
    "This message was deleted",
    "You deleted this message",
    "Данное сообщение удалено",
    "Вы удалили данное сообщение",
    "Missed voice call",
    "Missed video call",
    "Пропущенный аудиозвонок",
    "Пропущенный видеозвонок",
    "Пропущенный групповой аудиозвонок",
    "Пропущенный групповой видеозвонок",
    "Missed group voice call",
    "Missed group video call",
    "Waiting for this message. This may take a while",
    "Ожидание сообщения. Это может занять некоторое время",
}
_LOOKED_AT = 1000  # lines by which it is told whether the day or the month comes first


def begins(start: str) -> bool:
    """Whether a file that begins like this is such an export."""
    first, *others = start.split("\n")
    return bool(_STAMP.match(first)) and (not any(others) or any(map(_STAMP.match, others)))


def read(file: File, wishes: Wishes) -> Found:
    """The documents of the chat. Forwarded messages look like all others here, and are kept."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    yield Note(f"encoding {encoding.said}")
    yield from chats.documents(_messages(decoding.lines(file, encoding)), wishes, file.name)


def _messages(lines: Iterable[str]) -> Iterator[Message | Left]:
    lines = iter(lines)
    sample = list(islice(lines, _LOOKED_AT))
    month_first = _month_first(sample)
    stamp: re.Match[str] | None = None
    text = ""
    for line in chain(sample, lines):
        if found := _STAMP.match(line):
            if stamp:
                yield _message(stamp, text, month_first)
            stamp, text = found, line[found.end() :]
        else:  # a message goes on
            text += line
    if stamp:
        yield _message(stamp, text, month_first)


def _message(stamp: re.Match[str], text: str, month_first: bool) -> Message | Left:
    who, colon, text = text.partition(": ")
    if not colon or _in_quotation(who):  # a group's name may have a colon
        return Left("service messages")
    if _POLL.match(text):
        return Left("polls")
    text = text.rstrip()
    for edited in _EDITED:
        text = text.removesuffix(edited)
    first, _, rest = text.partition("\n")
    if first.startswith(_MARK) or _ATTACHED.fullmatch(first) or _MEDIA.fullmatch(first):
        first = ""  # what follows is the caption
    if first.rstrip(".") in _SERVICE:
        return Left("service messages")
    text = _ADDED.sub("", f"{first}\n{rest}").replace(_MARK, "").strip()
    if not text:
        return Left("media, and notes of WhatsApp's")
    return Message(who.strip("\u200e\u202a\u202c "), _when(stamp, month_first), text)


def _in_quotation(text: str) -> bool:
    """Whether a text ends in the midst of one."""
    return text.count('"') % 2 == 1 or text.count("«") > text.count("»")


def _month_first(lines: Iterable[str]) -> bool:
    """Whether dates are American: by a number above 12, else by the hours that are counted twice."""
    stamps = [found for line in lines if (found := _STAMP.match(line))]
    if any(int(found[2]) > 12 for found in stamps):
        return False
    return any(int(found[3]) > 12 for found in stamps) or any("/" in found[0] and found[7] for found in stamps)


def _when(stamp: re.Match[str], month_first: bool) -> datetime | None:
    day, month, year, hour, minute = (int(part) for part in stamp.groups()[1:6])
    if day > 31:
        day, year = year, day
    elif month_first:
        day, month = month, day
    return chats.moment(year + 2000 * (year < 100), month, day, hour, minute, stamp[7])
