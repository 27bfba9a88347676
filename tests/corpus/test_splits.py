"""Documents: which count as the same, which split each falls into, and what is said of them."""

import random
import re
import tracemalloc
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.corpus import duplicates, leakage, scan, splits
from stages.lib.corpus.unusual import unusual_places

key = duplicates.document_key


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


def keys_of(texts, unusual=None):
    array = pa.array(texts, pa.string())
    if unusual is None:
        unusual = [bool(len(unusual_places(np.frombuffer(text.encode(), np.uint8)))) for text in texts]
    return duplicates.keys_of(array, np.array(unusual, dtype=bool))


@given(st.lists(st.text("aЯёй 漢\n\t—«é\u00a0\u0301\u2028\r") | st.text(st.characters(codec="utf-8")), max_size=9))
def test_keys_of_many_texts_are_the_keys_of_each(texts):
    assert keys_of(texts).tobytes() == b"".join(map(key, texts))


def test_keys_stay_the_same_across_what_is_looked_at_together(monkeypatch):
    texts = [" \n".join(["слово"] * count) + "  " for count in range(1, 30)]
    expected = keys_of(texts).tobytes()
    monkeypatch.setattr(scan, "_PIECE", 7)
    assert keys_of(texts).tobytes() == expected == b"".join(map(key, texts))


def test_a_part_of_an_array_has_the_keys_of_its_own_texts():
    array = pa.array(["один", "два  слова", "три"])
    assert duplicates.keys_of(array[1:], np.zeros(2, bool)).tobytes() == key("два слова") + key("три")


# Duplicates


def test_the_first_line_of_every_key_is_found_whatever_the_batches():
    """Against a plain dictionary, with copies within a batch, across batches, and keys whose first halves are equal."""
    drawn = random.Random(0)
    heads = [drawn.randbytes(8) for _ in range(300)]
    table, plain, line = duplicates.FirstLines(), {}, 0
    for _ in range(400):
        keys, lines = [], []
        for _ in range(drawn.randrange(1, 60)):
            line += drawn.randrange(1, 3)
            keys.append(drawn.choice(heads) + bytes(5) + bytes([drawn.randrange(20)]) + b"ab")
            lines.append(line)
        expected = [plain.setdefault(one, number) for one, number in zip(keys, lines, strict=True)]
        words = np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)
        assert table.add(words, np.array(lines)).tolist() == expected
    assert len(table) == len(plain)


def test_a_document_costs_few_bytes_of_memory():
    count, batch = 400_000, 4096
    generator = np.random.default_rng(0)
    tracemalloc.start()
    table = duplicates.FirstLines()
    for start in range(0, count, batch):
        drawn = generator.integers(0, 2**64, (batch, 2), dtype=np.uint64)
        table.add(drawn, np.arange(start, start + batch))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 36 * count + 2_000_000


# Splits


def split(text, seed=0, validation_fraction=0.1, test_fraction=0.1):
    (place,) = splits.splits_of(keys_of([text]), seed, validation_fraction, test_fraction)
    return splits.SPLITS[place]


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


# What documents are like


def test_a_description_agrees_with_a_plain_count():
    drawn = random.Random(0)
    texts = ["".join(drawn.choices("абвгд abc 123,.", k=drawn.randrange(1, 900))) for _ in range(700)]
    description = splits.Description()
    for start in range(0, 700, 10):  # so few that all of them are in the sample
        description.add(pa.array(texts[start : start + 10]), np.arange(start + 1, start + 11))
    lengths = [len(text) for text in texts]
    figures = description.lengths()
    assert (figures["shortest"], figures["longest"]) == (min(lengths), max(lengths))
    assert figures["mean"] == sum(lengths) / 700
    assert figures["median"] == np.median(lengths)
    by_length = sorted(range(1, 701), key=lambda line: (lengths[line - 1], line))
    assert [one["line"] for one in description.extremes()["shortest_documents"]] == by_length[:5]
    longest = sorted(range(1, 701), key=lambda line: (-lengths[line - 1], line))[:5]
    assert [one["line"] for one in description.extremes()["longest_documents"]] == longest
    for low, high, count in description.histogram():
        assert count == sum(low <= length < high for length in lengths)
    assert sum(count for _, _, count in description.histogram()) == 700
    assert 15 <= len(description.histogram()) <= 20
    letters = [character for text in texts for character in text if character.isalpha()]
    cyrillic = sum(character in "абвгд" for character in letters) / len(letters)
    assert description.scripts() == pytest.approx({"Cyrillic": cyrillic, "Latin": 1 - cyrillic})


def test_documents_of_one_length_are_one_class():
    description = splits.Description()
    description.add(pa.array(["раз", "два", "три"]), np.arange(1, 4))
    assert description.histogram() == [(3, 4, 3)]


def test_every_letter_counts_for_its_script():
    description = splits.Description()
    description.add(pa.array(["Ёж, жук ҕ; e\u0301 ß ﬀ ŵ 12 漢 字 かな λ 🐈 ქ"]), np.array([1]))
    counts = {"Cyrillic": 6, "Latin": 4, "Han": 2, "Hiragana": 2, "Greek": 1, "other": 1}
    assert description.scripts() == {name: count / 16 for name, count in counts.items()}


# Leakage


def plain_runs(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + 13]) for at in range(len(words) - 12)}


def test_leakage_agrees_with_a_plain_comparison_of_runs():
    drawn = random.Random(0)
    vocabulary = ["дом", "Лес", "река,", "мост", "снег!", "кот"]
    training = [" ".join(drawn.choices(vocabulary, k=drawn.randrange(5, 60))) for _ in range(60)]
    held_out = []
    for number in range(40):
        own = drawn.choices(vocabulary, k=drawn.randrange(3, 30))
        taken = drawn.choice(training).split()[: drawn.randrange(0, 40)] if number % 2 else []
        held_out.append((number + 1, " ".join(own[:10] + taken + own[10:])))
    known = set().union(*map(plain_runs, training))
    expected = {}
    for line, text in held_out:
        words = re.findall(r"\w+", text.lower())
        runs = [tuple(words[at : at + 13]) for at in range(len(words) - 12)]
        if share := sum(run in known for run in runs):
            expected[line] = share / len(runs)
    found = leakage.measure(held_out, training)
    assert found.examined == sum(bool(plain_runs(text)) for _, text in held_out)
    assert {leak.line: leak.share for leak in found.leaks} == expected
    assert [leak.share for leak in found.leaks] == sorted(expected.values(), reverse=True)
    assert len(expected) > 5


def test_other_words_never_pass_for_the_same():
    """Words that a polynomial modulo 2^64 takes for one another: the second pair for any odd factor (Thue-Morse)."""
    thue_morse = "".join("ab"[number.bit_count() % 2] for number in range(2**11))
    swapped = thue_morse.translate(str.maketrans("ab", "ba"))
    rest = " один два три четыре пять шесть восемь девять десять ещё и ещё"
    for one, other in (("вджаааавааааабавеваа", "аааежгаавагабааааааа"), (thue_morse, swapped)):
        for held_out in (one + rest, rest + " " + one):
            assert leakage.measure([(1, held_out)], [held_out.replace(one, other)]).leaks == []
            assert len(leakage.measure([(1, held_out)], [held_out]).leaks) == 1


def test_a_run_ends_with_its_text():
    run = " ".join(map(str, range(13)))
    assert leakage.measure([(1, run)], [run[:9], run[9:]]).leaks == []
    assert leakage.measure([(1, run[:9]), (2, run[9:])], [run]).examined == 0


def test_what_has_no_run_takes_no_memory():
    run = " ".join(map(str, range(13)))
    words, counts = leakage.Numbering().of(["ни слова больше", f"{run} {run}", "и здесь", run], learn=True)
    assert len(words.numbers) == 39
    assert set(words.numbers.tolist()) == set(range(1, 14))
    assert words.firsts.tolist() == [*range(14), 26]
    assert counts.tolist() == [0, 14, 0, 1]


def test_keys_in_one_slot_are_told_apart():
    """Against a plain dictionary; of the keys many share a slot, and the last slots are full, so that it goes round."""
    index = leakage._Index(np.arange(1, 1001, dtype=np.uint64))
    drawn = np.random.default_rng(0).integers(1, 2**64, 400_000, dtype=np.uint64)
    slots = index._slots(drawn)
    keys = np.unique(np.concatenate([drawn[slots == slots.max()], drawn[slots == slots[0]], drawn[:300]]))
    index = leakage._Index(keys)
    asked = np.concatenate([keys, drawn])
    numbers = {key: number for number, key in enumerate(keys.tolist(), 1)}
    assert index.find(asked).tolist() == [numbers.get(key, 0) for key in asked.tolist()]


def test_of_a_large_corpus_a_part_of_the_held_out_documents_is_examined(monkeypatch):
    monkeypatch.setattr(leakage, "_GROUP", 1)
    text = " ".join(map(str, range(112)))  # 100 runs
    found = leakage.measure([(line, text) for line in range(1, 51)], [text], limit=1000)
    assert (found.examined, len(found.leaks)) == (10, 10)


def test_without_runs_there_is_nothing_to_examine():
    assert leakage.measure([(1, "слишком коротко")], ["слишком коротко"]) == leakage.Leakage(0, [])
    assert leakage.measure([], ["текст"]).examined == 0
