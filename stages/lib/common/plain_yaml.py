"""YAML that may come from anywhere: plain values only, read in bounded time and memory.

That is YAML 1.2, as DVC writes it: there `5e-05` is a number, which PyYAML would read as text. Aliases are refused, as
a few lines of them can stand for gigabytes, and so are nesting and numbers beyond all use.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from stages.lib.common.cli import printable

LARGEST, DEEPEST = 2**18, 10  # bytes of a file, and values within values
_LONG_NUMBER = re.compile(r"[-+]?(0[xo])?[\d._a-fA-F]{100,}")


class Refused(Exception):
    """Content that is not read. Its text says where and why, in a few words."""


def parse(content: bytes) -> Any:
    """What the YAML in `content` stands for. Raises Refused."""
    if len(content) > LARGEST:
        raise Refused(f"it has more than {LARGEST} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Refused(f"line {line}: it is not UTF-8: save it as UTF-8 in your editor") from None
    try:
        _look_over(text)
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise Refused(where + printable(problem)) from None
    # Of a date that is none, for example; and where a value is not what its tag says (`!!int ""`).
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refused(f"a value cannot be read: {printable(str(error))}") from None


@cache
def of_ours(path: Path) -> Any:
    """What stands in a file that ships with the code: read once, as it stays the same."""
    return parse(path.read_bytes())


def _look_over(text: str) -> None:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        where = f"line {event.start_mark.line + 1}: "
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise Refused(f"{where}more than {DEEPEST} values within each other")
        if isinstance(event, AliasEvent):
            raise Refused(f"{where}an alias (*{printable(event.anchor, 40)}): write the value itself")
        if isinstance(event, ScalarEvent) and event.style is None and _LONG_NUMBER.fullmatch(event.value):
            raise Refused(f"{where}a number of {len(event.value)} digits")
