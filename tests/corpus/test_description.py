"""What is said of the documents: lengths, scripts, and marks of other tools, each where it stands and nothing else."""

import random
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.corpus import description

ALL = [*description.PARTING, description.BYTE_ORDER_MARK]
PIECES = st.sampled_from([*ALL, *(mark[:-1] for mark in ALL), *(mark[1:] for mark in ALL), "<", "\uffff", "ё", " a"])


def described(*blocks):
    """Of blocks of texts; their lines are counted from 1."""
    made, line = description.Description(), 1
    for texts in blocks:
        lines = list(range(line, line + len(texts)))
        marked = np.array([bool(description.marks_of(text)) for text in texts])
        made.add(pa.array(texts, pa.string()), lines, marked)
        line += len(texts)
    return made


def test_a_description_agrees_with_a_plain_count():
    drawn = random.Random(0)
    texts = ["".join(drawn.choices("абвгд abc 123,.", k=drawn.randrange(1, 900))) for _ in range(700)]
    # In blocks so small that all of them are in the sample.
    made = described(*(texts[start : start + 10] for start in range(0, 700, 10)))
    lengths = [len(text) for text in texts]
    figures = made.figures()
    assert (figures["lengths"]["shortest"], figures["lengths"]["longest"]) == (min(lengths), max(lengths))
    assert figures["lengths"]["mean"] == sum(lengths) / 700
    assert figures["lengths"]["median"] == np.median(lengths)
    by_length = sorted(range(1, 701), key=lambda line: (lengths[line - 1], line))
    assert list(figures["shortest_documents"]) == by_length[:5]
    longest = sorted(range(1, 701), key=lambda line: (-lengths[line - 1], line))[:5]
    assert list(figures["longest_documents"]) == longest
    for low, high, count in made.histogram():
        assert count == sum(low <= length < high for length in lengths)
    assert sum(count for _, _, count in made.histogram()) == 700
    assert 15 <= len(made.histogram()) <= 20
    letters = [character for text in texts for character in text if character.isalpha()]
    cyrillic = sum(character in "абвгд" for character in letters) / len(letters)
    assert figures["scripts"] == pytest.approx({"Cyrillic": cyrillic, "Latin": 1 - cyrillic})


def test_documents_of_one_length_are_one_class():
    made = described(["раз", "два", "три", "сон", "дом", "кот"])
    assert made.histogram() == [(3, 4, 6)]
    for name in ("shortest_documents", "longest_documents"):
        assert made.figures()[name] == {1: 3, 2: 3, 3: 3, 4: 3, 5: 3}


def test_every_letter_counts_for_its_script():
    made = described(["Ёж, жук ҕ; e\u0301 ß ﬀ ŵ 12 漢 字 かな λ 🐈 ქ"])
    counts = {"Cyrillic": 6, "Latin": 4, "Han": 2, "Hiragana": 2, "Greek": 1, "other": 1}
    assert made.figures()["scripts"] == {name: count / 16 for name, count in counts.items()}


def test_of_each_block_the_scripts_of_its_first_texts_count():
    """Up to 16 384 bytes, and the text that reaches them to its end."""
    made = described(["ж" * 8000, "λ" * 192, "z" * 99], ["ж" * 8192, "漢" * 99], [])
    assert made.figures()["scripts"] == {"Cyrillic": 16192 / 16384, "Greek": 192 / 16384}


@given(st.lists(PIECES, max_size=6).map("".join))
def test_every_mark_is_found_in_its_text(text):
    expected = {mark: len(re.findall(re.escape(mark), text)) for mark in ALL}
    assert Counter(description.marks_of(text)) == Counter(expected)


def test_marks_are_counted_in_the_documents_that_are_kept_and_the_first_lines_named():
    texts = ["a</s>", "</s>b</s>", "dropped </s>", "none", "\ufeff", *["<s>"] * 9]
    made, lines = description.Description(), [1, 2, *range(4, 15)]
    for before in (0, 100):
        kept = [texts[line - 1] for line in lines]
        marked = np.array([bool(description.marks_of(text)) for text in kept])
        made.add(pa.array(kept), [line + before for line in lines], marked)
    figures = made.figures()
    assert figures["marks"] == {
        "<s>": {"count": 18, "documents": 18, "lines": [6, 7, 8, 9, 10]},
        "</s>": {"count": 6, "documents": 4, "lines": [1, 2, 101, 102]},
    }
    assert figures["byte_order_marks"] == {"count": 2, "documents": 2, "lines": [5, 105]}
