"""The licence of a base model, as it states it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stages.lib.common import plain_yaml

_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LONGEST = 100  # characters


def stated(folder: str | Path) -> str | None:
    """The licence that the folder's model card (README.md) states, if any."""
    card = Path(folder) / "README.md"
    if not card.is_file():
        return None
    with open(card, "rb") as file:
        header = _HEADER.match(file.read(plain_yaml.LARGEST))
    if header is None:
        return None
    try:
        described = plain_yaml.parse(header[1])
    except plain_yaml.Refused:
        return None  # a README that is no model card
    return named(described.get("license")) if isinstance(described, dict) else None


def named(value: Any) -> str | None:
    """A licence as others wrote it, if it is the short name that a licence has."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST else None
