"""Leakage: which held-out documents share a run of 13 words with training documents, and how much of them."""

import random
import re
from itertools import product

import pyarrow as pa
import pytest

from stages.lib.overlap import leakage
from stages.lib.overlap.words import words_of


def measure(held_out, training, limit=leakage.LIMIT, block=7):
    """As the stage does it, some training documents at a time."""
    found = leakage.HeldOut(held_out, limit)
    for start in range(0, len(training), block):
        texts = training[start : start + block]
        found.look_through(pa.array(texts), leakage.parts_of(words_of(texts)))
    return found.leakage()


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
    found = measure(held_out, training)
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
            assert measure([(1, held_out)], [held_out.replace(one, other)]).leaks == []
            assert len(measure([(1, held_out)], [held_out]).leaks) == 1


def test_a_run_ends_with_its_text():
    run = " ".join(map(str, range(13)))
    assert measure([(1, run)], [run[:9], run[9:]]).leaks == []
    assert measure([(1, run[:9]), (2, run[9:])], [run]).examined == 0


def test_of_a_large_corpus_a_part_of_the_held_out_documents_is_examined(monkeypatch):
    monkeypatch.setattr(leakage, "_GROUP", 1)
    text = " ".join(map(str, range(112)))  # 100 runs
    found = measure([(line, text) for line in range(1, 51)], [text], limit=1000)
    assert (found.examined, len(found.leaks)) == (10, 10)


def test_without_runs_there_is_nothing_to_examine():
    assert measure([(1, "слишком коротко")], ["слишком коротко"]) == leakage.Leakage(0, [])
    assert measure([], ["текст"]).examined == 0


@pytest.mark.parametrize("size", [12, 13, 14, 20, 21, 30])
def test_a_run_is_found_wherever_it_stands(size):
    """Against a plain comparison, for a stretch of words that begins and ends anywhere between two parts."""
    shared = [f"общее{number}" for number in range(size)]
    held_out = " ".join(["начало", *shared, "конец", *"бвгдежзийклмно"])
    for before, after in product(range(8), range(16)):
        training = " ".join([*(f"б{n}" for n in range(before)), *shared, *(f"в{n}" for n in range(after))])
        runs = plain_runs(held_out)
        share = len(runs & plain_runs(training)) / len(runs)
        assert measure([(1, held_out)], [training]).leaks == [leakage.Leak(1, share)] * (share > 0)


def test_where_two_parts_have_one_slot_they_are_still_told_apart(monkeypatch):
    monkeypatch.setattr(leakage, "_SLOTS", 1)
    text = " ".join(map(str, range(40)))
    assert measure([(1, text)], [text[::-1]]).leaks == []
    assert measure([(1, text)], [text]).leaks == [leakage.Leak(1, 1.0)]


def test_texts_may_be_part_of_a_larger_array():
    texts = [" ".join(f"{name}{number}" for number in range(20)) for name in "абвг"]
    found = leakage.HeldOut([(1, texts[2])])
    parts = leakage.parts_of(words_of(texts))
    found.look_through(pa.array(texts)[:2], parts[:2])
    assert found.leakage().leaks == []
    found.look_through(pa.array(texts)[1:], parts[1:])
    assert found.leakage().leaks == [leakage.Leak(1, 1.0)]
