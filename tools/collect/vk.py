"""The messages in the archive that VK makes of an account: a folder a chat, pages of HTML, the newest first."""

from __future__ import annotations

import re
from datetime import datetime
from html.parser import HTMLParser
from pathlib import PurePosixPath

from tools.collect import chats, decoding
from tools.collect.chats import Message
from tools.collect.documents import Document, Found, Left, Note, Wishes
from tools.collect.sources import File

_MONTHS = ("янв", "фев", "мар", "апр", "мая", "июн", "июл", "авг", "сен", "окт", "ноя", "дек")
_ENGLISH = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_RUSSIAN_DATE = re.compile(r"(?P<day>\d+) (?P<month>\w{3})\w* (?P<year>\d{4}) в (?P<hour>\d+):(?P<minute>\d+)")
_ENGLISH_DATE = re.compile(
    r"at (?P<hour>\d+):(?P<minute>\d+)(?::\d+)? (?P<half>[ap])m on (?P<day>\d+) (?P<month>\w{3})\w* (?P<year>\d{4})"
)
_FORWARDED = re.compile(r"прикреплённ|attached message")


def read(file: File, wishes: Wishes) -> Found:
    """The documents of one chat."""
    encoding = decoding.encoding_of(file, wishes.encoding)
    yield Note(f"encoding {encoding.said}")
    page = _Page()
    for line in decoding.lines(file, encoding):
        page.feed(line)
    page.close()
    for one in chats.documents(reversed(page.messages), wishes, file.name):
        yield one._replace(place=PurePosixPath(file.name).parent.name) if isinstance(one, Document) else one


class _Page(HTMLParser):
    """The messages of a page, as they stand there.

    A message is a `div` with one for who and when, and one for the text, which ends where the `div` of what is attached
    to it begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message | Left] = []
        self._inside: list[str] = []  # the classes of the open divs
        self._parts: dict[str, str] = {}  # what stands in each
        self._service = self._aside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = (dict(attrs).get("class") or "").partition(" ")[0]
        if tag == "div":
            if kind == "message":
                self._parts, self._service = {}, False
            self._inside.append(kind or ("text" if self._inside[-1:] == ["message"] else ""))
        elif tag == "br":
            self.handle_data("\n")
        self._service |= kind == "im_srv_lnk"
        self._aside |= kind == "message-edited"

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._aside = False
        if tag == "div" and self._inside and self._inside.pop() == "message":
            self.messages.append(self._message())

    def handle_data(self, data: str) -> None:
        if self._inside and not self._aside:
            self._parts[self._inside[-1]] = self._parts.get(self._inside[-1], "") + data

    def _message(self) -> Message | Left:
        who, _, date = self._parts.get("message__header", "").strip().rpartition(", ")
        text = self._parts.get("text", "").strip()
        if self._service:
            return Left("service messages")
        if text:
            return Message(who, _when(date), text)
        forwarded = _FORWARDED.search(self._parts.get("attachment__description", ""))
        return Left("forwarded messages" if forwarded else "media without words")


def _when(date: str) -> datetime | None:
    found = _RUSSIAN_DATE.search(date) or _ENGLISH_DATE.search(date)
    if not found or found["month"].lower() not in _MONTHS + _ENGLISH:
        return None
    month = (_MONTHS + _ENGLISH).index(found["month"].lower()) % 12 + 1
    year, day, hour, minute = (int(found[name]) for name in ("year", "day", "hour", "minute"))
    return chats.moment(year, month, day, hour, minute, found.groupdict().get("half"))
