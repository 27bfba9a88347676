"""Documents: which count as the same, which split each falls into, and what is said of them."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.corpus import documents, splits

key = documents.key_of


def test_white_space_and_composition_make_no_new_document():
    written = "Ёж  и\tй"
    assert key(written) == key(unicodedata.normalize("NFD", "Ёж и й\n"))
    assert key(written) != key("ёж и й")


@given(st.text(), st.text())
def test_keys_are_the_same_exactly_when_the_normalised_texts_are(one, other):
    def normalised(text):
        return unicodedata.normalize("NFC", text).split()

    for text in (
        other,
        one + " ",
        f"\n{one}",
        one.replace(" ", "\u00a0\t"),
        one.replace(" ", ""),
        unicodedata.normalize("NFD", one),
    ):
        assert (key(one) == key(text)) == (normalised(one) == normalised(text))


# Splits


def split_of(word, *how):
    (place,) = splits.splits_of(np.array([word], np.uint64), *how)
    return splits.SPLITS[place]


def split(text, seed=0, validation_fraction=0.1, test_fraction=0.1):
    return split_of(int.from_bytes(key(text)[:8], "little"), seed, validation_fraction, test_fraction)


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.integers(0, 2**32 - 1), st.randoms())
def test_other_documents_never_move_a_document(texts, seed, drawn):
    before = {text: split(text, seed) for text in texts[: len(texts) // 2 + 1]}
    shuffled = drawn.sample(texts, len(texts))
    after = {text: split(text, seed) for text in shuffled}
    assert {text: after[text] for text in before} == before


@given(st.text(min_size=1), st.integers(0, 2**32 - 1))
def test_more_validation_takes_from_training_only(text, seed):
    if split(text, seed) != "train":
        assert split(text, seed, 0.3) == split(text, seed)


def test_the_splits_have_the_sizes_asked_for():
    count = 20_000
    splits = [split(str(number), 0, 0.1, 0.05) for number in range(count)]
    # Five standard deviations of a binomial with these sizes.
    assert abs(splits.count("validation") - 2000) < 5 * (count * 0.1 * 0.9) ** 0.5
    assert abs(splits.count("test") - 1000) < 5 * (count * 0.05 * 0.95) ** 0.5


def test_another_seed_divides_the_documents_differently():
    texts = list(map(str, range(1000)))
    assert [split(text, 0, 0.5, 0) for text in texts] != [split(text, 1, 0.5, 0) for text in texts]


def plainly_mixed(word):
    """SplitMix64, with Python's numbers."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) % 2**64
    return word ^ word >> 31


def test_numbers_are_mixed_as_by_splitmix64():
    """Against the words that its authors give for the seed 1234567."""
    states = np.array([(1234567 + step * 0x9E3779B97F4A7C15) % 2**64 for step in range(3)], np.uint64)
    assert splits._mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("word", [7, 0, 2**64 - 1])
def test_a_split_follows_from_the_key_by_a_division_by_hand(word):
    place = (plainly_mixed(word ^ plainly_mixed(3)) >> 11) / 2**53
    assert split_of(word, 3, 0.0, place) == "train"
    assert split_of(word, 3, 0.0, place + 2**-53) == "test"
    assert split_of(word, 3, place + 2**-53, 0.0) == "validation"


# On disk


def test_a_batch_on_disk_stays_small_however_long_its_documents(tmp_path):
    text = "слово " * 300_000  # some 3 MB
    with splits.Writer(tmp_path) as writer:
        for number in range(10):
            writer.add(pa.array([f"{number} {text}"]), np.array([number]), np.array([0]))
    batches = list(splits.read_documents(tmp_path, "train"))
    assert sum(batch.num_rows for batch in batches) == splits.count_documents(tmp_path, "train") == 10
    assert splits.count_bytes(tmp_path, "train") == 10 * (2 + len(text.encode()))
    assert max(batch.nbytes for batch in batches) < 4 * splits.BATCH_BYTES


def test_documents_come_back_from_disk_as_they_went(tmp_path):
    texts = [f"текст {n}" for n in range(2500)]
    with splits.Writer(tmp_path) as writer:
        for start in range(0, 2500, 400):
            lines = np.arange(start, min(start + 400, 2500)) + 1
            writer.add(pa.array(texts[start : start + 400]), lines, np.where(lines % 2, 0, 2))
    read = {
        split: [row for batch in splits.read_documents(tmp_path, split) for row in batch.to_pylist()]
        for split in splits.SPLITS
    }
    assert [row["text"] for row in read["train"]] == texts[::2]
    assert [row["line"] for row in read["test"]] == list(range(2, 2501, 2))
    assert read["validation"] == []
    assert {row["split"] for row in read["test"]} == {"test"}
    assert writer.documents == {"train": 1250, "validation": 0, "test": 1250}
    assert writer.characters["train"] == sum(map(len, texts[::2]))
    assert writer.sizes["train"] == sum(len(text.encode()) for text in texts[::2])
