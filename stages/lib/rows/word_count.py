"""Words, counted alike for every script."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import regex

# From the first letter or number of a word to where Unicode's default rules end it; V1w is what regex calls those.
_WORD = regex.compile(r"(?V1ws)[\p{L}\p{N}].*?\b")
_REMEMBERED = 64  # characters of the longest text whose words are remembered


def count_words(text: str) -> int:
    """How many words the text has: between the boundaries of Unicode (UAX 29) what holds a letter or a number.

    `can't` and `3.14` are one word each. Where a script parts no words, a character counts as one: of Chinese each
    ideograph, of Japanese each hiragana, of Thai each letter.
    """
    return count_words_of_all(pa.array([text]))


def count_words_of_all(texts: pa.StringArray) -> int:
    """How many words several texts have together."""
    # No word goes over white space, and most of what stands between it comes again and again.
    found = pc.value_counts(pc.utf8_split_whitespace(texts).flatten())
    counts = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    return sum(count * (_in_short(text) if len(text) <= _REMEMBERED else _in(text)) for text, count in counts)


def _in(text: str) -> int:
    return len(_WORD.findall(text))


_in_short = lru_cache(2**18)(_in)
