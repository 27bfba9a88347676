"""The words of texts that are compared: in lower case, without punctuation, each as a number.

Letters are composed (NFC), and what is not seen, such as a soft hyphen, is no end of a word: neither makes a copy
another text.

A word is letters, the marks on them, numbers and underscores. In scripts that put no space between words each character
is one, with its marks. Numbers are compared in the place of words, for some ten times the speed of strings; of two
million words two have the same with a probability of one in a hundred thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple
from unicodedata import category, normalize

import numpy as np
import regex

_PIECE = 2**17  # characters looked at together, so that all that is made of them stays in the processor's cache
_OTHER, _LETTER, _MARK, _ALONE = range(4)  # kinds of characters
_OF_CATEGORY = {"L": _LETTER, "N": _LETTER, "M": _MARK}
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")  # hyphens, spaces and joiners of no width
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits all over


class Words(NamedTuple):
    """Of each text some numbers: those of all, one after the other (uint64), and where each text's begin.

    `offsets` has one more than there are texts: the end of all (int64).
    """

    numbers: np.ndarray
    offsets: np.ndarray

    def counts(self) -> np.ndarray:
        """How many each text has."""
        return np.diff(self.offsets)

    def of_each(self) -> Iterator[np.ndarray]:
        """Yield those of one text after the other."""
        yield from np.split(self.numbers, self.offsets[1:-1])


def words_of(texts: Sequence[str]) -> Words:
    """The words of the texts, each as a number that is the same wherever it stands, in any process.

    In a text without any space a word ends after `_PIECE` characters, whatever comes.
    """
    lowered = [_composed(text).lower() for text in texts]
    whole = "\n".join(lowered)
    numbers, begins, start = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    while start < len(whole):
        end = start + _PIECE
        if end < len(whole):
            end = whole.rfind(" ", start, end) + 1 or end
        of_piece, begin = _words(whole[start:end])
        numbers.append(of_piece)
        begins.append(begin + start)
        start = end
    bounds = np.cumsum([0, *(len(text) + 1 for text in lowered)])
    return Words(np.concatenate(numbers), np.searchsorted(np.concatenate(begins), bounds))


def runs_of(words: Words, length: int) -> Words:
    """Every run of so many words that follow each other in one text, as a number. A text with fewer words has none."""
    runs = np.zeros(max(len(words.numbers) - length + 1, 0), np.uint64)
    for place in range(length):
        runs = runs * _FACTOR + words.numbers[place : place + len(runs)]
    counts = words.counts()
    within = np.arange(len(runs)) + length <= np.repeat(words.offsets[1:], counts)[: len(runs)]
    return Words(runs[within], np.cumsum([0, *np.maximum(counts - length + 1, 0)]))


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers (uint64) whose low bits depend on all those of the ones given, one by one."""
    numbers = (numbers ^ numbers >> np.uint64(32)) * _FACTOR
    return numbers ^ numbers >> np.uint64(32)


def _composed(text: str) -> str:
    """The text as it looks, however it is written."""
    return text if text.isascii() else normalize("NFC", _UNSEEN.sub("", text))


def _words(piece: str) -> tuple[np.ndarray, np.ndarray]:
    """The words in some text, as numbers, and the places of their first characters.

    A word's number is the sum of its characters' code points, each times a factor of its place in the word: multilinear
    hashing (Lemire and Kaser 2014).
    """
    codes = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
    kinds = _kinds()[codes]
    before = np.concatenate([[_OTHER], kinds[:-1]])
    begins = np.flatnonzero(
        (kinds == _ALONE) | (kinds != _OTHER) & (before == _OTHER) | (kinds == _LETTER) & (before == _ALONE)
    )
    if not len(begins):
        return np.empty(0, np.uint64), begins
    places = np.arange(begins[0], len(codes)) - np.repeat(begins, np.diff(begins, append=len(codes)))
    weighted = codes[begins[0] :] * _factors()[places]
    weighted[kinds[begins[0] :] == _OTHER] = 0
    return mixed(np.add.reduceat(weighted, begins - begins[0])), begins


@cache
def _kinds() -> np.ndarray:
    """The kind of every character of Unicode (uint8)."""
    kinds = np.full(0x110000, _OTHER, np.uint8)
    for point in (*range(0x34000), *range(0xE0000, 0xE0200)):  # no others are assigned, but for private use
        kinds[point] = _OF_CATEGORY.get(category(chr(point))[0], _OTHER)
    kinds[ord("_")] = _LETTER
    for match in _UNSPACED.finditer("".join(map(chr, np.flatnonzero(kinds == _LETTER).tolist()))):
        kinds[ord(match[0])] = _ALONE
    return kinds


@cache
def _factors() -> np.ndarray:
    """Odd numbers without a pattern, one a place in a word."""
    return np.random.PCG64(0).random_raw(_PIECE) | np.uint64(1)
