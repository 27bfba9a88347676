"""Words, counted by Unicode's word boundaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.rows.word_count import count_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # The example of the standard itself.
        ("The quick (“brown”) fox can’t jump 32.3 feet, right?", 9),
        ("— Дед, а рыба спит?\n— Спит, пока ты её не спросишь.", 10),
        ("红军是谁。你好世界", 8),
        ("カタカナ ひらがな 漢字", 7),
        ("한국어 단어", 2),
        ("e\u0301te\u0301 a_b don't", 3),
        ('שנה ש"ח', 2),
        ("🐈‍⬛ … — !", 0),
        ("", 0),
    ],
)
def test_words_are_what_unicode_says(text, words):
    assert count_words(text) == words


@given(st.lists(st.text("abcж", min_size=1)))
def test_words_between_blanks_are_counted(words):
    assert count_words(" ".join(words)) == len(words)


@given(st.text("一二三。！ "))
def test_every_ideograph_counts(text):
    assert count_words(text) == sum(character in "一二三" for character in text)
