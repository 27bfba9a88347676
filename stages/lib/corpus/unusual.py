"""The few characters of a text that need a second look, found in all of it at once."""

from __future__ import annotations

import numpy as np

from stages.lib.corpus import scan

_NEWLINE, _RETURN, _SPACE, _DELETE = b"\n\r \x7f"


def unusual_places(text: np.ndarray) -> np.ndarray:
    """The places in UTF-8 (bytes, uint8) of characters that need a second look.

    That are control characters, white space beyond ASCII, and all that Unicode's composition (NFC) could change or
    that was not thought of here. A text without them is its own NFC, and its white space is ASCII's.
    """
    places = scan.places(_suspect, text)
    if not len(places):
        return places
    padded = np.concatenate([text, np.zeros(2, np.uint8)])
    first, second, third = padded[places], padded[places + 1], padded[places + 2]
    ordinary = (
        ((first == _RETURN) & (second == _NEWLINE))  # a line end of Windows
        | ((first == 0xC2) & (second > 0xA0))  # U+00A1 to U+00BF: guillemets and the like
        | ((first == 0xCE) & (second != 0x87))  # Greek, but for one dot
        | ((first == 0xD2) & (second >= 0x8A))  # Cyrillic from U+048A
        # Dashes, quotation marks, dots.
        | ((first == 0xE2) & (second == 0x80) & ((third >= 0x90) & (third < 0xA8) | (third >= 0xB0)))
        | ((first == 0xE2) & (second == 0x82) & (third == 0xBD))  # the rouble
        | ((first == 0xE2) & (second == 0x82) & (third == 0xAC))  # the euro
        | ((first == 0xE2) & (second == 0x84) & (third == 0x96))  # №
        | ((first == 0xF0) & (second == 0x9F))  # emoji
    )
    return places[~ordinary]


def are_control(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which of the unusual places hold a control character (bool)."""
    first, second = values[places], values[np.minimum(places + 1, len(values) - 1)]
    return (first < _SPACE) | (first == _DELETE) | ((first == 0xC2) & (second < 0xA0))


def _suspect(text: np.ndarray) -> np.ndarray:
    """Which bytes of UTF-8 may begin an unusual character (bool).

    Ordinary whatever follows are: ASCII from the space on; bytes that go on with a character; those that begin letters
    from U+00C0 to U+02FF, Greek from U+03C0, Cyrillic U+0400 to U+047F and U+04C0 to U+04FF, and Chinese.
    """
    # Comparisons with all bytes are quicker than a look into a table.
    suspect = (text < _SPACE) & (text != _NEWLINE)
    suspect |= text == _DELETE
    suspect |= text == 0xC2
    suspect |= text - np.uint8(0xCC) < 3
    suspect |= text == 0xD2
    suspect |= (text >= 0xD4) & (text - np.uint8(0xE4) >= 6)
    return suspect
