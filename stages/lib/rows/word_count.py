"""Words, counted alike for every script."""

from __future__ import annotations

import regex

from stages.lib.rows.remembered import Remembered

# From the first letter or number of a word to where Unicode's default rules end it; V1w is what regex calls those.
_WORD = regex.compile(r"(?V1ws)[\p{L}\p{N}].*?\b")
_counts = Remembered(lambda text: len(_WORD.findall(text)))


def count_words(text: str) -> int:
    """How many words the text has: between the boundaries of Unicode (UAX 29) what holds a letter or a number.

    `can't` and `3.14` are one word each. Where a script parts no words, a character counts as one: of Chinese each
    ideograph, of Japanese each hiragana, of Thai each letter.
    """
    return sum(map(_counts.__getitem__, text.split()))  # no word goes over white space
