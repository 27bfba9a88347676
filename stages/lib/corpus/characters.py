"""What kinds of characters texts are made of, for whole arrays of characters at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

# Parts texts that are looked at together: as half of a surrogate pair it stands in no text.
SEPARATOR = "\ud800"


def joined(texts: Iterable[str]) -> str:
    """The texts in one, each followed by `SEPARATOR`."""
    return "".join(text + SEPARATOR for text in texts)


def code_points(text: str) -> np.ndarray:
    """The characters of a text as code points (uint32)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Kinds:
    """Tells the kind of every character in an array; each character is looked at once, when it is first met."""

    def __init__(self, kind_of: Callable[[str], int]) -> None:
        """`kind_of` gives the kind of a character, from 1 to 255."""
        self._kind_of = kind_of
        self._known = np.zeros(0x110000, np.uint8)  # 0: not met yet

    def of(self, points: np.ndarray) -> np.ndarray:
        """The kinds (uint8) of the characters with these code points (uint32)."""
        kinds = self._known[points]
        if not kinds.all():
            for point in np.unique(points[kinds == 0]).tolist():
                self._known[point] = self._kind_of(chr(point))
            kinds = self._known[points]
        return kinds
