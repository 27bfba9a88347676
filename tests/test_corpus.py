"""The corpus: what counts as a document, and which split it falls into."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import corpus


def line(**record):
    return json.dumps(record, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "text",
    [
        "Просто текст",
        "  spaces stay  \n",
        "tab\tand\r\nline ends",
        "<|endoftext|> is text like any other",
        "\u2028 is no line end",
        "é composed, e\u0301 not",
        "🐈 beyond the basic plane",
        '"text": "in text"',
    ],
)
def test_text_stays_as_it_was_written(text):
    assert corpus.parse_line(line(text=text), "text") == text


@pytest.mark.parametrize("blank", [b"", b"   ", b"\t"])
def test_a_line_with_nothing_on_it_is_blank(blank):
    assert corpus.parse_line(blank, "text") is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"text": "\xcf\xf0\xe8\xe2\xe5\xf2"}', "byte 11 (0xcf) is not UTF-8"),
        (b'\xef\xbb\xbf{"text": "a"}', "byte order mark"),
        (b'{"text": "a"', "not JSON at column 13"),
        (b"{'text': 'a'}", "not JSON at column 2"),
        (b'{"text": "a"} tail', "not JSON at column 15"),
        (b'{"txt": "a", "id": 1}', 'no field "text" (fields: txt, id)'),
        (b"{}", 'no field "text" (fields: none)'),
        (b'{"text": null}', "is a JSON null"),
        (b'{"text": 3.5}', "is a JSON number"),
        (b'{"text": true}', "is a JSON boolean"),
        (b'{"text": ["a"]}', "is a JSON array"),
        (b'{"text": {"a": 1}}', "is a JSON object"),
        (b'{"text": " \\n "}', "is empty"),
        (b'["text", "a"]', "a JSON array, not an object"),
        (b'"text"', "a JSON string, not an object"),
        (b'{"text": "a", "text": "b"}', "stands twice"),
        (b'{"text": "a", "score": NaN}', "NaN is not JSON"),
        (b'{"text": "a\\u0000b"}', "U+0000 at character 2"),
        (b'{"text": "a\\ud83d"}', "surrogate pair at character 2"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "not JSON that can be read"),
        (b'{"\\ud83d": 1}', "(fields: \\ud83d)"),
    ],
)
def test_a_bad_line_says_what_is_wrong_with_it(bad, reason):
    with pytest.raises(corpus.BadLine) as caught:
        corpus.parse_line(bad, "text")
    assert reason in str(caught.value)


def test_another_field_can_hold_the_text():
    assert corpus.parse_line(line(body="here", text=1), "body") == "here"


def test_white_space_and_composition_make_no_new_document():
    written = "Ёж  и\tй"
    assert corpus.document_key(written) == corpus.document_key(unicodedata.normalize("NFD", "Ёж и й\n"))
    assert corpus.document_key(written) != corpus.document_key("ёж и й")


@given(st.text(min_size=1), st.integers(0, 2**32 - 1))
def test_more_validation_takes_from_training_only(text, seed):
    key = corpus.document_key(text)
    if corpus.split_of(key, seed, 0.1, 0.1) != "train":
        assert corpus.split_of(key, seed, 0.3, 0.1) == corpus.split_of(key, seed, 0.1, 0.1)


def test_the_splits_have_the_sizes_asked_for():
    count = 20_000
    splits = [corpus.split_of(corpus.document_key(str(n)), 0, 0.1, 0.05) for n in range(count)]
    # Five standard deviations of a binomial with these sizes.
    assert abs(splits.count("validation") - 2000) < 5 * (count * 0.1 * 0.9) ** 0.5
    assert abs(splits.count("test") - 1000) < 5 * (count * 0.05 * 0.95) ** 0.5


def test_another_seed_divides_the_documents_differently():
    keys = [corpus.document_key(str(n)) for n in range(1000)]
    assert [corpus.split_of(key, 0, 0.5, 0) for key in keys] != [corpus.split_of(key, 1, 0.5, 0) for key in keys]


def test_a_batch_on_disk_stays_small_however_long_its_documents(tmp_path):
    text = "слово " * 300_000  # some 3 MB
    with corpus.Writer(tmp_path) as writer:
        sizes = [writer.add(f"{number} {text}", number, "train") for number in range(10)]
    batches = list(corpus.read_documents(tmp_path, "train"))
    assert sum(batch.num_rows for batch in batches) == corpus.count_documents(tmp_path, "train") == 10
    assert max(batch.nbytes for batch in batches) < corpus.BATCH_BYTES + 2 * max(sizes)


def test_documents_come_back_from_disk_as_they_went(tmp_path):
    texts = [f"текст {n}" for n in range(2500)]
    with corpus.Writer(tmp_path) as writer:
        for number, text in enumerate(texts, 1):
            writer.add(text, number, "train" if number % 2 else "test")
    read = {
        split: [row for batch in corpus.read_documents(tmp_path, split) for row in batch.to_pylist()]
        for split in corpus.SPLITS
    }
    assert [row["text"] for row in read["train"]] == texts[::2]
    assert [row["line"] for row in read["test"]] == list(range(2, 2501, 2))
    assert read["validation"] == []
