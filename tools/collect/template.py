"""How the fields of a record, or the turns of a dialogue, become one text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_FIELD = re.compile(r"\{(\w[\w .-]*)\}")
TURN = "{role}: {content}"
_SPEAKERS = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}  # as ShareGPT has them


class Template:
    """Text with the names of fields in braces; `\\n` and `\\t` stand for a line end and a tab."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        # Text, name, text, name, …, text
        self._parts = _FIELD.split(pattern.replace("\\n", "\n").replace("\\t", "\t"))
        self.fields = self._parts[1::2]

    def fill(self, record: Mapping[str, Any]) -> str:
        """The text of a record. What stands before a field that is empty goes with it."""
        text = ""
        for before, name in zip(self._parts[::2], self.fields, strict=False):
            if (value := _shown(record.get(name))) != "":
                text += before + value
        return text + self._parts[-1] if text else ""


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)


def turns(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of a chat with a model, in OpenAI's form or ShareGPT's, each with `role` and `content`; else none."""
    for value in record.values():
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            found = [_turn(one) for one in value]
            if all(turn is not None for turn in found):
                return found
    return []


def _turn(one: dict[str, Any]) -> dict[str, str] | None:
    role = one.get("role", one.get("from"))
    content = one.get("content", one.get("value"))
    if not isinstance(role, str) or not {"content", "value"} & one.keys():
        return None
    if isinstance(content, list):  # text among pictures
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return {"role": _SPEAKERS.get(role, role), "content": content if isinstance(content, str) else ""}
