"""Documents: which count as the same, which split each falls into, and what is said of them."""

import random
import tracemalloc
import unicodedata

import numpy as np
import pyarrow as pa
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


def met_first(met, keys, lines):
    return documents.first_lines(documents.Documents(keys=keys, lines=lines), met)


def test_the_first_line_of_every_key_is_found_whatever_the_blocks():
    """With copies within a block, across blocks, and keys whose first halves are equal."""
    drawn = random.Random(0)
    heads = [drawn.randbytes(8) for _ in range(300)]
    met, seen, line = {}, [], 0
    for _ in range(200):
        keys, lines = [], []
        for _ in range(drawn.randrange(1, 60)):
            line += drawn.randrange(1, 3)
            keys.append(drawn.choice(heads) + bytes([drawn.randrange(20)]) + bytes(7))
            lines.append(line)
        seen += zip(keys, lines, strict=True)
        firsts = {}
        for key, number in reversed(seen):
            firsts[key] = number
        assert met_first(met, keys, lines) == [firsts[key] for key in keys]


def test_a_document_costs_few_bytes_of_memory():
    count, block = 400_000, 4096
    drawn = random.Random(0)
    tracemalloc.start()
    met = {}
    for start in range(0, count, block):
        met_first(met, [drawn.randbytes(16) for _ in range(block)], list(range(start, start + block)))
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 150 * count
    assert peak < 190 * count


# Splits


def split(text, seed=0, validation_fraction=0.1, test_fraction=0.1):
    return splits.SPLITS[splits.split_of(key(text), seed, validation_fraction, test_fraction)]


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


def test_a_split_follows_from_the_key_by_splitmix64():
    """Against the words that SplitMix64's authors give for the seed 1234567, and a division by hand."""
    state, made = 1234567, []
    for _ in range(3):
        made.append(splits._mixed(state))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert made == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    place = (splits._mixed(7 ^ splits._mixed(3)) >> 11) / 2**53
    word = (7).to_bytes(8, "little") + bytes(8)
    assert splits.SPLITS[splits.split_of(word, 3, 0.0, place)] == "train"
    assert splits.SPLITS[splits.split_of(word, 3, 0.0, place + 2**-53)] == "test"
    assert splits.SPLITS[splits.split_of(word, 3, place + 2**-53, 0.0)] == "validation"


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
