"""Words as numbers: the words that a plain reading finds, and one number for each, wherever it stands."""

import re
import unicodedata
from itertools import chain

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.overlap import words
from stages.lib.overlap.words import runs_of, words_of

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


def plain_words(text):
    """By one character after the other."""
    found, before = [], None
    for one in unicodedata.normalize("NFC", "".join(set_apart(text))).lower():
        kind = "_" if one == "_" else unicodedata.category(one)[0]
        kind = {"L": "letter", "N": "letter", "_": "letter", "M": "mark"}.get(kind)
        if kind == "letter" and regex.fullmatch(UNSPACED, one):
            kind = "alone"
        if kind and (kind == "alone" or before is None or (kind == "letter" and before == "alone")):
            found.append(one)
        elif kind:
            found[-1] += one
        before = kind
    return found


def set_apart(text):
    return [one for one in text if one not in "\u00ad\u200b\u200c\u200d\u2060\ufeff"]


def check(texts):
    """Each text has the plain reading's words, by numbers that are theirs alone."""
    found, expected = words_of(texts), list(map(plain_words, texts))
    assert found.counts().tolist() == list(map(len, expected))
    pairs = set(zip(chain.from_iterable(expected), found.numbers.tolist(), strict=True))
    assert len(pairs) == len({word for word, _ in pairs}) == len({number for _, number in pairs})


def test_words_are_letters_numbers_their_marks_and_underscores():
    """For every character of Unicode, alone, within a word, and after one that is a word by itself."""
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]
    rest = map(chr, [*range(0x34000, 0xE0000), *range(0xE0200, 0x110000)])
    assert {unicodedata.category(one) for one in rest} == {"Cn", "Co"}  # not assigned, or for private use
    for start in range(0, len(points), 2**16):
        some = map(chr, points[start : start + 2**16])
        check(["\n".join([one, f"ё{one}ж", f"一{one}"]) for one in some])


def test_a_copy_is_one_however_its_letters_are_written():
    text = "Ёлки, йод и café: наша ёжиха."
    written = [unicodedata.normalize("NFD", text), text.replace("ж", "\u00adж"), f"\ufeff{text}", "\u200b".join(text)]
    for one, numbers in zip(written, list(words_of([text, *written]).of_each())[1:], strict=True):
        assert one != text
        assert np.array_equal(numbers, words_of([text]).numbers)


@given(st.lists(st.text("абВ .,_1一丁กํ\u0301İΣß\u00ad\u200d\n"), max_size=8))
def test_texts_have_the_words_of_a_plain_reading(texts):
    check(texts)


@pytest.mark.parametrize("size", [3, 7, 64])
def test_a_long_text_is_read_piece_by_piece(size, monkeypatch):
    texts = ["не жалею не зову не плачу", "всё", "", "пройдёт как с белых яблонь дым " * 9]
    whole = words_of(texts)
    monkeypatch.setattr(words, "_PIECE", size)
    words._factors.cache_clear()
    try:
        cut = words_of(texts)
        assert sum(cut.counts()) == len(cut.numbers)
        if size > max(len(word) for text in texts for word in text.split()):
            assert np.array_equal(cut.numbers, whole.numbers)
            assert np.array_equal(cut.offsets, whole.offsets)
    finally:
        words._factors.cache_clear()


def test_a_word_without_an_end_is_cut():
    length = 3 * words._PIECE
    assert words_of(["a" * length, "b"]).counts().tolist() == [3, 1]


def test_words_that_a_polynomial_takes_for_one_another_have_numbers_of_their_own():
    """The second pair for any odd factor (Thue-Morse)."""
    thue_morse = "".join("ab"[number.bit_count() % 2] for number in range(2**11))
    swapped = thue_morse.translate(str.maketrans("ab", "ba"))
    assert len(set(words_of(["вджаааавааааабавеваа", "аааежгаавагабааааааа", thue_morse, swapped]).numbers)) == 4


@given(st.lists(st.lists(st.sampled_from("абв"), max_size=9), max_size=6), st.integers(1, 5))
def test_runs_are_those_of_a_plain_walk(texts, length):
    found = runs_of(words_of([" ".join(text) for text in texts]), length)
    expected = [[tuple(text[at : at + length]) for at in range(len(text) - length + 1)] for text in texts]
    assert found.counts().tolist() == list(map(len, expected))
    assert [len(numbers) for numbers in found.of_each()][: len(texts)] == list(map(len, expected))
    pairs = set(zip(chain.from_iterable(expected), found.numbers.tolist(), strict=True))
    assert len(pairs) == len({run for run, _ in pairs}) == len({number for _, number in pairs})


def test_two_million_words_have_as_many_numbers():
    made = [f"слово{number}" for number in range(2_000_000)]
    assert len(np.unique(words_of([" ".join(made)]).numbers)) == len(made)
    assert re.fullmatch(r"слово\d+", made[-1])
