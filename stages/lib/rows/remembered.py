"""Results that are computed once and looked up from then on, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

MOST, LONGEST = 2**18, 64  # texts that are remembered at most, and the characters of the longest


class Remembered(dict[str, Result]):
    """What a function gives for each short text: asked for one not in it, the dictionary calls the function.

    When it is full it forgets everything: what is frequent is soon back.
    """

    def __init__(self, function: Callable[[str], Result]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> Result:
        result = self._function(text)
        if len(text) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[text] = result
        return result
