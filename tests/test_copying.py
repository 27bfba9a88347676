"""Runs of tokens that texts share with training documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import copying
from stages.lib.packing import Document

BOUNDARY = 0


def document(ids):
    return Document(1, np.array([BOUNDARY, *ids, BOUNDARY]), len(ids))


def by_plain_loops(text, documents):
    """Every maximal run, by comparing every index with every other."""
    longest = {}
    for ids in documents:
        for here in range(len(text)):
            for there in range(len(ids)):
                if here and there and text[here - 1] == ids[there - 1]:
                    continue
                length = 0
                while (
                    here + length < len(text)
                    and there + length < len(ids)
                    and text[here + length] == ids[there + length]
                ):
                    length += 1
                if length >= copying.SHORTEST:
                    longest[here] = max(length, longest.get(here, 0))
    return [copying.Run(start, length) for start, length in sorted(longest.items())]


few_tokens = st.lists(st.integers(1, 3), max_size=40)


@given(st.lists(few_tokens, max_size=4), st.lists(few_tokens, max_size=6), st.integers(1, 60))
def test_the_runs_are_those_of_plain_loops(texts, documents, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_BLOCK", block)
        found = copying.runs([np.array(text, dtype=int) for text in texts], map(document, documents))
    assert found == [by_plain_loops(text, documents) for text in texts]


def test_no_run_goes_from_one_document_into_the_next():
    (found,) = copying.runs([np.arange(1, 21)], [document(range(1, 11)), document(range(11, 21))])
    assert found == [copying.Run(0, 10), copying.Run(10, 10)]
    assert copying.longest(found) == 10
    assert copying.longest([]) == 0


def test_equal_hashes_of_different_tokens_are_no_run(monkeypatch):
    monkeypatch.setattr(copying, "_FACTORS", np.zeros(copying.SHORTEST, dtype=np.uint64))
    assert copying.runs([np.arange(1, 9)], [document(range(20, 40))]) == [[]]
    assert copying.runs([np.arange(1, 9)], [document(range(1, 40))]) == [[copying.Run(0, 8)]]


@pytest.mark.parametrize("shared", [4, 5])
def test_a_run_has_five_tokens_or_more(shared):
    (found,) = copying.runs([np.arange(10, 10 + shared)], [document(range(10, 10 + shared))])
    assert found == ([copying.Run(0, 5)] if shared == 5 else [])
