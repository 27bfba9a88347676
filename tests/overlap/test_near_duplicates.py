"""Near-duplicates: found as a comparison of all pairs finds them, and nothing else is taken for one."""

import random
from itertools import combinations

import numpy as np
import pytest
from conftest import many_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.overlap import near_duplicates
from stages.lib.overlap.near_duplicates import Bands, Pair
from stages.lib.overlap.words import words_of

# Ways to write the same text once more.
EDITS = {
    "another word": lambda words, rnd: [*words[: (at := rnd.randrange(len(words)))], "иначе", *words[at + 1 :]],
    "a word less": lambda words, rnd: [*words[: (at := rnd.randrange(len(words)))], *words[at + 1 :]],
    "a line in front": lambda words, rnd: ["Перепечатано", "из", "газеты", *words],
    "letters and marks": lambda words, rnd: [word.upper() + "!" for word in words],
}


def plain_shingles(text):
    """By hand, for words with blanks between them and marks at their ends."""
    words = [word.strip("!.,:;?—«»\"'()").lower() for word in text.split()]
    words = [word for word in words if word]
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def all_pairs(texts, similarity):
    """The plain way: every text with every other."""
    sets = [plain_shingles(text) for text in texts]
    found = {}
    for (one, mine), (other, others) in combinations(enumerate(sets), 2):
        share = len(mine & others) / len(mine | others)
        if share >= similarity:
            found[one, other] = share
    return found


def found_pairs(texts, similarity=0.8):
    signed = near_duplicates.signatures(words_of(texts), Bands.of(similarity))
    return list(near_duplicates.pairs(signed, texts.__getitem__, similarity))


def written_anew(count, rnd):
    """Texts of some hundred words, a third of them edited copies of others, in any order."""
    vocabulary = sorted({word for text in many_texts(60) for word in text.split()})
    texts = [" ".join(rnd.choices(vocabulary, k=rnd.randrange(40, 200))) for _ in range(2 * count // 3)]
    for original in rnd.choices(texts, k=count - len(texts)):
        words = original.split()
        for _ in range(rnd.randrange(1, 4)):
            words = EDITS[rnd.choice(list(EDITS))](words, rnd)
        texts.append(" ".join(words))
    rnd.shuffle(texts)
    return texts


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.95])
def test_the_pairs_are_those_of_comparing_all_with_all(similarity):
    texts = written_anew(600, random.Random(similarity))
    expected = all_pairs(texts, similarity)
    found = {(pair.first, pair.second): pair.similarity for pair in found_pairs(texts, similarity)}
    assert len(expected) > 50
    assert len(found.keys() & expected.keys()) >= 0.99 * len(expected)
    assert found == {pair: pytest.approx(expected[pair]) for pair in found}  # each is one, and as similar as is said


@pytest.mark.parametrize("edit", EDITS)
def test_each_edit_of_a_long_text_is_found(edit):
    rnd = random.Random(edit)
    text = " ".join(f"слово{n}" for n in range(150))
    (pair,) = found_pairs(["совсем другое", text, " ".join(EDITS[edit](text.split(), rnd))])
    assert (pair.first, pair.second) == (1, 2)


def test_short_texts_are_compared_whole():
    texts = ["Да.", "да!", "Нет.", "Ни да, ни нет", "ни да ни нет..."]
    assert found_pairs(texts) == [Pair(0, 1, 1.0), Pair(3, 4, 1.0)]


def test_texts_without_words_are_like_no_other():
    assert found_pairs(["...", "!!!", "а", "👍", "", "А", "😀"] + ["?"] * 200) == [Pair(2, 5, 1.0)]


@pytest.mark.parametrize(("shared", "changed", "least"), [(0.7, 1, 0.99), (0.7, 8, 0.95), (0.75, 8, 0.75)])
def test_copies_are_found_among_many_texts_that_share_half_of_theirs(shared, changed, least):
    """A form that everybody filled in: any two texts have a similarity of `shared`, too little for a pair."""
    drawn, length, count = random.Random(0), 200, 50
    common = round(2 * length * shared / (1 + shared)) + 4
    form = [f"f{number}" for number in range(common)]

    def filled_in():
        return [*form, *(f"w{drawn.randrange(50_000)}" for _ in range(length - common))]

    originals, between, edited = [filled_in() for _ in range(count)], [filled_in() for _ in range(1500)], []
    for original in originals:
        start = length - changed - 5
        edited.append([*original[:start], *(f"e{drawn.random()}" for _ in range(changed)), *original[-5:]])
    texts = [" ".join(words) for words in (*originals, *between, *edited)]
    found = {(pair.first, pair.second) for pair in found_pairs(texts)}
    planted = {(number, count + 1500 + number) for number in range(count)}
    assert found <= planted | {(number, other) for number, other in found if number >= count}
    assert len(found & planted) >= least * count


def test_of_a_chain_of_versions_each_is_compared_with_what_it_is_a_copy_of():
    """A thousand texts between them: those that are looked at are all copies themselves."""
    text = [f"слово{number}" for number in range(100)]
    texts = [" ".join([*text, str(number)]) for number in range(1000)]
    pairs = found_pairs(texts)
    copies = set()
    for pair in pairs:
        if pair.first not in copies:
            copies.add(pair.second)
    assert copies == set(range(1, 1000))


def test_where_no_blanks_part_words_each_character_is_one():
    chinese = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"
    thai = "กาลครั้งหนึ่งนานมาแล้วมีชายชราคนหนึ่งอาศัยอยู่ริมทะเลกับภรรยาของเขาในกระท่อมเก่าๆ"
    other = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望明月低头思故乡白日依山尽"
    texts = [chinese, other, chinese[:-1] + "山", thai, "ก" + thai]
    assert [(pair.first, pair.second) for pair in found_pairs(texts)] == [(0, 2), (3, 4)]


def test_many_copies_of_one_text_are_one_group_and_take_no_square_of_time():
    texts = [f"{' '.join(f'строка{n}' for n in range(60))} {number}" for number in range(3000)]
    found = found_pairs(texts)
    assert len(found) < 12 * len(texts)
    assert set(near_duplicates.firsts(len(texts), found)) == {0}


def test_documents_that_are_alike_by_way_of_others_have_the_same_first():
    pairs = [Pair(3, 4, 1.0), Pair(1, 4, 1.0), Pair(0, 6, 1.0), Pair(4, 6, 1.0)]
    assert near_duplicates.firsts(8, pairs).tolist() == [0, 0, 2, 0, 0, 5, 0, 7]


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)).filter(lambda pair: pair[0] < pair[1])))
def test_firsts_are_those_of_a_plain_walk(edges):
    neighbours = {place: {place} for place in range(30)}
    for one, other in edges:
        neighbours[one].add(other)
        neighbours[other].add(one)

    def reached(place):
        seen, queue = set(), [place]
        while queue:
            at = queue.pop()
            if at not in seen:
                seen.add(at)
                queue += neighbours[at]
        return seen

    found = near_duplicates.firsts(30, [Pair(*edge, 1.0) for edge in edges])
    assert found.tolist() == [min(reached(place)) for place in range(30)]


@given(st.lists(st.text("абв .,一丁", max_size=40), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_texts_signed_together_are_signed_as_each_by_itself(texts):
    bands = Bands.of(0.8)
    together = near_duplicates.signatures(words_of(texts), bands)
    assert together.shape == (len(texts), bands.count)
    alone = [near_duplicates.signatures(words_of([text]), bands) for text in texts]
    assert np.array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_miss_one_in_a_hundred_of_the_least_similar_pairs_at_most(similarity):
    bands = Bands.of(similarity)
    assert (1 - similarity**bands.rows) ** bands.count <= 0.01
    assert bands.count <= 16
