"""Words of texts that are compared: in lower case, without punctuation."""

from __future__ import annotations

import re
from functools import cache
from unicodedata import category

_RARE = re.compile(r"[\U00010000-\U0010ffff]")  # characters beyond the basic plane
_ASCII_ALONE = {point: " " for point in range(128) if not (chr(point).isalnum() or chr(point) == "_")}


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: letters, the marks on them, numbers and underscores."""
    text = text.lower()
    if text.isascii():
        return text.translate(_ASCII_ALONE).split()
    rare = any(category(character).startswith("M") for character in set(_RARE.findall(text)))
    return _words(0x110000 if rare else 0x10000).findall(text)


@cache
def _words(end: int) -> re.Pattern[str]:
    """What finds words where no mark is from the code point `end` on: with all marks it takes ten times as long."""
    marks = "".join(chr(point) for point in range(end) if category(chr(point)).startswith("M"))
    return re.compile(rf"[\w{marks}]+")
