"""Telegram Desktop's export in JSON: one chat, or all of an account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from stages.lib.common.cli import printable
from tools.collect import chats, records
from tools.collect.chats import Message
from tools.collect.documents import Document, Found, Left, Unreadable, Wishes
from tools.collect.sources import File

_ONE = re.compile(r'\{\s*(?:"name":.{0,2000}?)?"type":\s*"\w+",\s*"id":\s*-?\d+,\s*"messages":\s*\[', re.DOTALL)
_ALL = re.compile(r'\{\s*"(?:about|personal_information)":')


def begins(start: str) -> bool:
    """Whether a file that begins like this is such an export."""
    return bool(_ONE.match(start) or _ALL.match(start))


def read(file: File, wishes: Wishes) -> Found:
    """The documents of all chats."""
    value, note = records.load(file, wishes)
    yield note
    found = _chats(value)
    if not found:
        raise Unreadable(f"{file.name} looks like Telegram's export, but has no chats: tick them when you export")
    for chat in found:
        name = chat.get("name") or chat.get("type") or chat.get("id")
        for one in chats.documents(_messages(chat["messages"]), wishes, file.name):
            yield one._replace(place=printable(str(name), 80)) if isinstance(one, Document) else one


def _chats(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    parts = [value.get("chats"), value.get("left_chats")]
    inner = [chat for part in parts if isinstance(part, dict) for chat in part.get("list") or []]
    return [chat for chat in [value, *inner] if isinstance(chat, dict) and isinstance(chat.get("messages"), list)]


def _messages(messages: list[Any]) -> Iterator[Message | Left]:
    for one in messages:
        if not isinstance(one, dict) or one.get("type") != "message":
            yield Left("service messages")
        elif "forwarded_from" in one:
            yield Left("forwarded messages")
        elif "via_bot" in one:
            yield Left("messages made by bots")
        elif not (text := _text(one.get("text"))).strip():
            yield Left("media without words")
        else:
            yield Message(one.get("from") or "Deleted Account", _when(one.get("date")), text)


def _text(text: Any) -> str:
    """A string, or strings among objects that say how theirs is shown."""
    parts = text if isinstance(text, list) else [text]
    return "".join(str(part.get("text") or "") if isinstance(part, dict) else str(part or "") for part in parts)


def _when(date: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(date).replace(tzinfo=None)
    except (TypeError, ValueError):
        return None
