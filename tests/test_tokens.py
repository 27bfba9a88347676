"""Tokens: packing loses none, keeps documents in order, and text never turns into a special token."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from stages.lib import batches, packing, scoring, tokens
from stages.lib.cli import UserError

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


@given(documents, lengths)
def test_documents_come_back_whole_from_rows(given_documents, max_length):
    back = list(packing.documents_of(packing.pack(given_documents, max_length), E))
    assert len(back) == len(given_documents)
    back.sort(key=lambda document: document.line)
    for document, original in zip(back, given_documents, strict=True):
        assert document.ids.tolist() == original.ids.tolist()
        assert (document.line, document.size) == (original.line, original.size)


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
        assert [(s.line, s.size, s.ids.tolist()) for s in read] == [(s.line, s.size, s.ids.tolist()) for s in row]


TRICKY = [
    "<|endoftext|>",
    "до <|endoftext|> и после",
    "<|endoftext|><|endoftext|>",
    "<|endoftext|",
    " <|ENDOFTEXT|> ",
    "Ёлка — ёлкой; don't  stop\n\n\t…",
    "🐈‍⬛ and e\u0301",
]


def test_text_never_turns_into_a_special_token(tiny_base):
    tokenizer = tokens.load_tokenizer(tiny_base)
    boundary = tokens.boundary_id(tokenizer)
    for text, ids in zip(TRICKY, tokens.encode(tokenizer, TRICKY), strict=True):
        assert ids[0] == ids[-1] == boundary
        assert boundary not in ids[1:-1]
        assert tokenizer.decode(ids[1:-1].tolist(), skip_special_tokens=False) == text


def test_ids_equal_those_of_the_hugging_face_tokenizer(tiny_base):
    reference = AutoTokenizer.from_pretrained(tiny_base)
    for text, ids in zip(TRICKY, tokens.encode(tokens.load_tokenizer(tiny_base), TRICKY), strict=True):
        assert ids[1:-1].tolist() == reference(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="run dvc repro"):
        tokens.load_tokenizer(tmp_path)
