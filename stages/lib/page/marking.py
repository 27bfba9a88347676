"""Texts with what stands in the corpus marked."""

from __future__ import annotations

from collections.abc import Iterator


def pieces(text: str, copied: list[list[int]]) -> Iterator[tuple[str, bool]]:
    """`text` cut where copies begin and end, each piece with whether it is one.

    `copied` has each as [from, to] in characters, one after the other.
    """
    at = 0
    for start, end in copied:
        yield text[at:start], False
        yield text[start:end], True
        at = end
    yield text[at:], False
