"""Runs of tokens that texts share with training documents."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.evaluation import copying
from stages.lib.rows.packing import Document

BOUNDARY = 0


def document(ids):
    return Document(1, np.array([BOUNDARY, *ids, BOUNDARY]), len(ids))


def by_plain_loops(text, documents):
    """Every run of the text, looked for in every document; those within another left out."""
    letters, written = "".join(map(chr, text)), ["".join(map(chr, ids)) for ids in documents]
    spans = [(start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
    shared = [span for span in spans if any(letters[slice(*span)] in one for one in written)]
    return [
        copying.Run(start, end - start)
        for start, end in shared
        if not any(a <= start and end <= b and (a, b) != (start, end) for a, b in shared)
    ]


tokens = st.integers(1, 3)


@st.composite
def copied(draw):
    """Documents of few different tokens, and texts put together from parts of them and from other tokens."""
    documents = draw(st.lists(st.lists(tokens, min_size=10, max_size=30), min_size=1, max_size=4))
    noise = st.lists(tokens, max_size=2)
    drawn_part = st.tuples(st.sampled_from(documents), st.integers(0, 9), st.integers(4, 20), noise)
    part = drawn_part.map(lambda drawn: drawn[0][drawn[1] :][: drawn[2]] + drawn[3])
    text = st.lists(part, min_size=1, max_size=5).map(lambda parts: [token for ids in parts for token in ids])
    return draw(st.lists(text, min_size=1, max_size=4)), documents


def test_the_runs_are_those_of_plain_loops():
    held = []

    @given(copied())
    def look(drawn):
        texts, documents = drawn
        found = copying.runs([np.array(text, dtype=int) for text in texts], map(document, documents))
        assert found == [by_plain_loops(text, documents) for text in texts]
        held.append(any(found))

    look()
    assert sum(held) > 0.6 * len(held)  # or hardly anything would be tried


def test_no_run_goes_from_one_document_or_text_into_the_next():
    texts = [np.arange(1, 21), np.arange(21, 25), np.arange(25, 29)]
    found = copying.runs(texts, [document(range(1, 11)), document(range(11, 21)), document(range(21, 29))])
    assert found == [[copying.Run(0, 10), copying.Run(10, 10)], [copying.Run(0, 4)], [copying.Run(0, 4)]]
    assert copying.longest(found[0]) == 10
    assert copying.longest([]) == 0


def test_what_repeats_itself_takes_no_longer_than_anything_else():
    """A million equal tokens, and fifty texts of the same: every place of the one fits every place of the others."""
    found = copying.runs([np.full(200, 7)] * 50, [document([7] * 1_000_000)])
    assert found == [[copying.Run(0, 200)]] * 50


def test_without_texts_or_documents_nothing_is_found():
    assert copying.runs([], [document([1] * 9)]) == []
    assert copying.runs([np.ones(9, dtype=int), np.array([], dtype=int)], []) == [[], []]


def test_the_shortest_run_is_a_token():
    """So that the longest of a text is right, however short it is."""
    (found,) = copying.runs([np.array([5, 9, 6, 7])], [document([1, 5, 2, 6, 7, 3])])
    assert found == [copying.Run(0, 1), copying.Run(2, 2)]
    assert copying.longest(found) == 2
