"""Marks of other tools in texts: each is found where it stands, and nothing else is taken for one."""

import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.corpus import marks

ALL = [*marks.PARTING, marks.BYTE_ORDER_MARK]
PIECES = st.sampled_from([*ALL, *(mark[:-1] for mark in ALL), *(mark[1:] for mark in ALL), "<", "\uffff", "ё", " a"])


@given(st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=9), st.integers(0, 2))
def test_every_mark_is_found_in_its_text(texts, offset):
    """Against re, text by text."""
    found = marks.find(pa.array(texts, pa.string())[offset:])
    expected = [
        (number, place)
        for number, mark in enumerate(ALL)
        for place, text in enumerate(texts[offset:])
        for _ in re.finditer(re.escape(mark), text)
    ]
    assert sorted(zip(found.marks.tolist(), found.texts.tolist(), strict=True)) == expected


def test_halves_of_a_mark_in_two_texts_are_none():
    halves = [half for mark in marks.PARTING for half in (mark[:2], mark[2:])]
    assert len(marks.find(pa.array(halves)).marks) == 0


def test_marks_are_counted_in_the_documents_that_are_kept_and_the_first_lines_named():
    texts = ["a</s>", "</s>b</s>", "dropped </s>", "none", "\ufeff", *["<s>"] * 9]
    counted, kept = marks.Marks(), np.array([True] * 14)
    kept[2] = False
    for before in (0, 100):
        counted.add(marks.find(pa.array(texts)), np.arange(1, 15) + before, kept)
    assert counted.figures() == {
        "marks": [
            {"mark": "<s>", "count": 18, "documents": 18, "lines": [6, 7, 8, 9, 10]},
            {"mark": "</s>", "count": 6, "documents": 4, "lines": [1, 2, 101, 102]},
        ],
        "byte_order_marks": {"count": 2, "documents": 2, "lines": [5, 105]},
    }
