"""Packing: no token is lost, documents stay in order, and rows are as full as can be."""

from collections import Counter
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.model import scoring
from stages.lib.rows import batches, packing, tokens

E = 0  # the boundary's id in the made-up documents

documents = st.lists(
    st.lists(st.integers(1, 50), min_size=1, max_size=80).map(lambda ids: np.array([E, *ids, E], dtype=np.int32)),
    max_size=30,
).map(lambda lists: [packing.Document(line, ids, 3 * len(ids)) for line, ids in enumerate(lists, 1)])
lengths = st.integers(8, 40)


def predicted(rows):
    """Every (document, context token, predicted token) of the rows: all but the first token of each segment."""
    return Counter(
        (segment.line, int(before), int(token))
        for row in rows
        for segment in row
        for before, token in zip(segment.ids[:-1], segment.ids[1:], strict=True)
    )


@given(documents, lengths)
def test_every_token_is_predicted_exactly_once(given_documents, max_length):
    rows = list(packing.pack(given_documents, max_length))
    expected = Counter(
        (document.line, int(before), int(token))
        for document in given_documents
        for before, token in zip(document.ids[:-1], document.ids[1:], strict=True)
    )
    assert predicted(rows) == expected
    assert all(sum(len(segment.ids) for segment in row) <= max_length for row in rows)


@given(documents, lengths, st.sampled_from(["split", "truncate"]))
def test_documents_come_back_from_rows_whole_or_as_they_were_cut(given_documents, max_length, overlong):
    kept = [packing.shorten(document, max_length, overlong) for document in given_documents]
    back = list(packing.documents_of(packing.pack(kept, max_length), E))
    assert len(back) == len(kept)
    back.sort(key=lambda document: document.line)
    for document, original in zip(back, kept, strict=True):
        assert document.ids.tolist() == original.ids.tolist()
        assert (document.line, document.size, document.whole) == (original.line, original.size, original.whole)
        assert document.whole == (document.ids[-1] == E)


@given(documents, lengths, st.sampled_from(["split", "truncate"]))
def test_documents_come_back_in_the_row_in_which_they_end(given_documents, max_length, overlong):
    """So that no more of them are in memory than go on in a later row."""
    rows = list(packing.pack((packing.shorten(one, max_length, overlong) for one in given_documents), max_length))
    read = []

    def reading():
        for row in rows:
            read.append(row)
            yield row

    last_rows = {segment.line: number for number, row in enumerate(rows, 1) for segment in row}
    for document in packing.documents_of(reading(), E):
        assert len(read) == last_rows[document.line]


@given(documents, lengths)
def test_no_two_rows_could_have_been_one(given_documents, max_length):
    fills = [sum(len(segment.ids) for segment in row) for row in packing.pack(given_documents, max_length)]
    smallest = sorted(fills)[:2]
    assert len(smallest) < 2 or sum(smallest) > max_length


@given(documents, lengths)
def test_windows_change_where_documents_stand_but_lose_none(given_documents, max_length):
    whole = predicted(packing.pack(given_documents, max_length))
    window, packing.WINDOW = packing.WINDOW, 100
    try:
        rows = list(packing.pack(given_documents, max_length))
    finally:
        packing.WINDOW = window
    assert predicted(rows) == whole
    assert len(list(packing.documents_of(rows, E))) == len(given_documents)


@given(documents, lengths)
def test_labels_leave_out_what_is_context_only(given_documents, max_length):
    rows = list(packing.pack(given_documents, max_length))
    if not rows:
        return
    batch = batches.collate(
        [
            {"input_ids": np.concatenate([s.ids for s in row]), "lengths": np.array([len(s.ids) for s in row])}
            for row in rows
        ]
    )
    labels, ids, positions = (batch[name].numpy() for name in ("labels", "input_ids", "position_ids"))
    # A position predicts its token when, and only when, it is not the first of its segment.
    assert ((labels != scoring.IGNORE) == (positions > 0)).all()
    assert (labels[labels != scoring.IGNORE] == ids[labels != scoring.IGNORE]).all()
    assert (labels != scoring.IGNORE).sum() == predicted(rows).total()
    for index, row in enumerate(rows):
        expected = [place for segment in row for place in range(len(segment.ids))]
        assert positions[index].tolist() == expected + [0] * (positions.shape[1] - len(expected))


def test_rows_on_disk_open_with_datasets_and_with_pyarrow(tmp_path):
    given_documents = [
        packing.Document(n, np.array([E, *[n] * (n % 20 + 1), E], dtype=np.int32), n) for n in range(1, 3000)
    ]
    rows = list(packing.pack(given_documents, 24))
    path = tmp_path / "train.arrow"
    count, segments, total = tokens.write_rows(path, rows)
    assert (count, segments) == (len(rows), sum(map(len, rows)))
    assert total == sum(len(segment.ids) for row in rows for segment in row)
    flat = [np.concatenate([segment.ids for segment in row]).tolist() for row in rows]
    assert Dataset.from_file(str(path))["input_ids"][:] == flat
    with pa.memory_map(str(path)) as source:
        assert pa.ipc.open_stream(source).read_all()["input_ids"].to_pylist() == flat
    for read, row in zip(tokens.read_rows(path), rows, strict=True):
        for ours, theirs in zip(read, row, strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()
            assert (ours.line, ours.size, ours.last) == (theirs.line, theirs.size, theirs.last)


def rows_by_trying_all(sizes, max_length):
    """The lines of each row, by trying all that could go on with it."""
    waiting = sorted(((size, -line) for line, size in enumerate(sizes, 1)), reverse=True)
    rows = []
    while waiting:
        rows.append([waiting.pop(0)])
        while chosen := best_by_trying_all(
            [size for size, _ in waiting], max_length - sum(size for size, _ in rows[-1])
        ):
            for length in chosen:
                rows[-1].append(next(one for one in waiting if one[0] == length))
                waiting.remove(rows[-1][-1])
    return sorted((sorted(-line for _, line in row) for row in rows), key=max)


def best_by_trying_all(sizes, room):
    """Of the sizes (falling), those that fill the room best: the fewest, two as even, three as uneven as can be."""
    options = {some for count in (1, 2, 3) for some in combinations(sizes, count) if sum(some) <= room}
    longest = max((some[0] for some in options), default=0)
    if room > 3 * longest > 0:
        return (longest,)
    even = {1: lambda some: 0, 2: lambda some: -some[0], 3: lambda some: some[0] - some[1] / 1000}
    return max(options, key=lambda some: (sum(some), -len(some), even[len(some)](some)), default=())


@given(st.one_of(st.lists(st.integers(2, most), max_size=16) for most in (8, 25, 40)), st.sampled_from([40, 41, 64]))
def test_a_row_takes_what_fills_it_best(sizes, max_length):
    given_documents = [packing.Document(line, np.zeros(size, np.int32), 1) for line, size in enumerate(sizes, 1)]
    rows = packing.pack(given_documents, max_length)
    assert [[segment.line for segment in row] for row in rows] == rows_by_trying_all(sizes, max_length)


def rows_by_best_fit(sizes, max_length):
    """The usual way to pack: the longest first, each into the row with the least room for it."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else max_length) - size)
    return len(rooms)


@pytest.mark.parametrize(
    ("typical", "spread", "least"), [(160, 50, 0.97), (45, 15, 0.99), (128, 16, 0.98), (256, 90, 0.9)]
)
def test_rows_are_filled_better_than_by_best_fit(typical, spread, least):
    """For documents of all kinds of lengths, some of which suit a row badly."""
    sizes = np.random.default_rng(0).normal(typical, spread, 1500).clip(8, 512).astype(int).tolist()
    given_documents = [packing.Document(line, np.zeros(size, np.int32), 1) for line, size in enumerate(sizes, 1)]
    rows = list(packing.pack(given_documents, 512))
    assert sorted(segment.line for row in rows for segment in row) == list(range(1, 1501))
    assert len(rows) <= rows_by_best_fit(sizes, 512)
    assert sum(sizes) / (512 * len(rows)) >= least


@given(documents, lengths)
def test_overlong_documents_are_cut_or_left_out_as_asked(given_documents, max_length):
    for document in given_documents:
        whole, cut, left = (
            packing.shorten(document, max_length, overlong) for overlong in ("split", "truncate", "drop")
        )
        fits = len(document.ids) <= max_length
        assert whole is document
        assert cut.ids.tolist() == document.ids[:max_length].tolist()
        assert (whole.whole, cut.whole) == (True, fits)
        assert left is (document if fits else None)
