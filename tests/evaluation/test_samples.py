"""What the evaluation says: how sure the difference is, what samples are like, what was learned by heart."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TEXTS, make_base
from transformers import GPT2LMHeadModel

from stages.lib.common import files, scripts
from stages.lib.evaluation import comparison, copying, samples
from stages.lib.model import generation, models, scoring
from stages.lib.rows import packing, tokens
from stages.lib.rows.encoder import Encoder
from stages.lib.rows.packing import Document


def scores(nats, sizes):
    return [
        scoring.Score(line, size, size, value, 0.0) for line, (value, size) in enumerate(zip(nats, sizes, strict=True))
    ]


def document(ids):
    return Document(1, np.array(ids), len(ids))


# Base against tuned


def test_the_interval_is_that_of_the_normal_approximation():
    """Of a ratio of means, by the delta method; with many documents bootstrap and approximation agree."""
    random = np.random.default_rng(1)
    sizes = random.integers(100, 900, 400)
    base = sizes * random.normal(1.0, 0.2, 400)
    tuned = base - sizes * random.normal(0.05, 0.3, 400)
    found = comparison.compare(scores(base, sizes), scores(tuned, sizes), seed=0)
    gains = tuned - base
    ratio = gains.sum() / sizes.sum()
    error = np.std(gains - ratio * sizes, ddof=1) / math.sqrt(400) / sizes.mean()
    assert found.difference == pytest.approx(ratio / math.log(2))
    assert found.low == pytest.approx((ratio - 1.96 * error) / math.log(2), abs=0.1 * error)
    assert found.high == pytest.approx((ratio + 1.96 * error) / math.log(2), abs=0.1 * error)
    assert found.share_better == np.mean(tuned < base)


def test_the_interval_is_the_same_for_the_same_seed_and_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(2)
    held = 0
    for trial in range(100):
        sizes = random.integers(100, 900, 50)
        gains = sizes * random.normal(-0.1, 0.2, 50)
        found = comparison.compare(scores(sizes * 1.0, sizes), scores(sizes + gains, sizes), trial)
        held += found.low <= -0.1 / math.log(2) <= found.high
    assert 88 <= held <= 100  # 95 of 100 are expected, with a standard deviation of 2
    given = scores(sizes * 1.0, sizes), scores(sizes + gains, sizes)
    assert comparison.compare(*given, seed=5) == comparison.compare(*given, seed=5)
    assert comparison.compare(*given, seed=5) != comparison.compare(*given, seed=6)


@pytest.mark.parametrize("count", [2, 4, 10])
def test_the_interval_of_few_documents_is_no_narrower_than_it_says(count):
    """The percentile interval alone holds the truth in 48, 82 and 84 of a hundred cases."""
    random, held = np.random.default_rng(3), 0
    for trial in range(200):
        sizes = random.integers(100, 900, count)
        gains = sizes * random.normal(-0.1, 0.2, count)
        found = comparison.compare(scores(sizes * 1.0, sizes), scores(sizes + gains, sizes), trial)
        held += found.low <= -0.1 / math.log(2) <= found.high
    assert held >= 0.9 * 200


def test_one_document_says_nothing_of_others():
    found = comparison.compare(scores([2.0], [1]), scores([1.0], [1]), 0)
    assert (found.difference, found.low, found.high, found.share_better) == (-1 / math.log(2), None, None, 1.0)


def test_students_t_is_that_of_the_tables():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 37: 2.026, 120: 1.980, 100_000: 1.960}
    assert {freedom: round(comparison.student(freedom), 3) for freedom in table} == table


def test_without_documents_there_is_no_comparison():
    assert comparison.compare([], [], 0) is None


def test_scores_of_other_documents_are_not_compared():
    with pytest.raises(ValueError, match="different documents"):
        comparison.compare(scores([1.0, 2.0], [1, 1]), scores([1.0, 2.0], [1, 1])[::-1], 0)


def test_the_figures_of_a_run_follow_from_its_table(reproduced):
    """`logs/evaluate.json` and `logs/documents.tsv` are held against each other and against the texts."""
    figures = reproduced.json("logs/evaluate.json")
    rows = files.read_tsv(reproduced.path("logs/documents.tsv"))
    lines = reproduced.path("data/my_corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(lines[int(row["line"]) - 1])["text"] for row in rows]
    assert [int(row["bytes"]) for row in rows] == [len(text.encode()) for text in texts]
    counts = [len(re.findall(r"\w+", text)) for text in texts]  # none of these texts has a word with an apostrophe
    assert [int(row["words"]) for row in rows] == counts
    words = sum(counts)
    assert figures["words"] == words
    bits = {
        name: sum(float(row[name]) * len(text.encode()) for row, text in zip(rows, texts, strict=True))
        for name in ("base", "tuned")
    }
    for name in ("base", "tuned"):
        assert figures[name]["nats"] == pytest.approx(bits[name] * math.log(2), rel=1e-5)
        assert figures[name]["word_perplexity"] == pytest.approx(math.exp(figures[name]["nats"] / words))
        assert figures[name]["perplexity"] == pytest.approx(math.exp(figures[name]["nats"] / figures["tokens"]))
    compared = figures["comparison"]
    size = sum(len(text.encode()) for text in texts)
    assert compared["difference"] == pytest.approx((bits["tuned"] - bits["base"]) / size, rel=1e-4)
    assert compared["low"] < compared["difference"] < compared["high"]
    assert compared["share_better"] == np.mean([float(row["tuned"]) < float(row["base"]) for row in rows])


def test_the_interval_is_drawn_with_the_seed_of_the_settings(project):
    """The same draws by hand from the table of the run, which has six digits; with another seed it is another one."""
    rows = files.read_tsv(project.path("logs/documents.tsv"))
    sizes = [int(row["bytes"]) for row in rows]
    base, tuned = (
        scores([float(row[name]) * size * math.log(2) for row, size in zip(rows, sizes, strict=True)], sizes)
        for name in ("base", "tuned")
    )
    for seed in (0, 7):
        if seed:
            project.set(evaluate__seed=str(seed))
            project.ok("python", "-m", "stages.evaluate")
        found = project.json("logs/evaluate.json")["comparison"]
        expected = comparison.compare(base, tuned, seed)
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-5)
    other = comparison.compare(base, tuned, 0)
    assert (other.low, other.high) != pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_hopeless_model_has_no_perplexity_rather_than_infinity():
    assert scoring.perplexity(8000.0, 10) is None
    assert scoring.perplexity(80.0, 10) == pytest.approx(math.exp(8))
    assert scoring.perplexity(0.0, 0) is None


# Samples


def test_the_figures_of_samples_are_those_of_plain_loops():
    written = [
        generation.Continuation("a b a b c", [1, 2, 3, 1, 2, 3, 1, 2, 3], ended=True),
        generation.Continuation("c \N{REPLACEMENT CHARACTER} d", [4, 5, 6, 7, 8], ended=False),
        generation.Continuation("", [], ended=True),
    ]
    found = samples.figures(written, [[], [[0, 3]], []])
    words = Counter(["a", "b", "a", "b", "c", "c", "\N{REPLACEMENT CHARACTER}", "d"])
    pairs = Counter(["ab", "ba", "ab", "bc", "c\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}d"])
    assert found["distinct_1"] == len(words) / words.total()
    assert found["distinct_2"] == len(pairs) / pairs.total()
    # Of 1231, 2312, 3123, 1231, 2312, 3123 and 4567, 5678, three stood before.
    assert found["repetition"] == pytest.approx(3 / 8)
    assert (found["ended"], found["broken"], found["copied"]) == (2 / 3, 1 / 3, 1 / 3)


def test_without_samples_there_are_no_figures():
    assert set(samples.figures([], []).values()) == {None}


def test_copied_parts_are_where_the_text_has_them(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    copied = "Зимой почтальон ходил медленнее, зато письма успевали обдумать."
    text = f"Начало. {copied} И конец, 🐈‍⬛."
    ids = tokenizer.encode(text)
    source = Encoder(tiny_base).encode([f"Раз, {copied} два"])[0]
    found = copying.runs([np.array(ids)], [document(source)])[0]
    (part,) = samples.copied_parts(tokenizer, generation.Continuation(text, ids, ended=True), found)
    assert copied in f" {text[slice(*part)]} "
    assert len(text[slice(*part)]) < len(copied) + 4  # a token or two on either side may be the same by chance


def test_a_turn_of_phrase_is_no_copy(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    text = "Зимой почтальон ходил медленнее."
    ids = tokenizer.encode(text)
    source = Encoder(tiny_base).encode([f"Раз. {text} Два."])[0]
    found = copying.runs([np.array(ids)], [document(source)])[0]
    assert copying.longest(found) >= 5
    assert samples.copied_parts(tokenizer, generation.Continuation(text, ids, ended=True), found) == []


def test_copied_parts_leave_out_what_the_prompt_has_already(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    text = "q" * 60  # a token each
    ids = tokenizer.encode(f" {text}")
    written = generation.Continuation(text, ids, ended=True, repeated=1)
    assert samples.copied_parts(tokenizer, written, [copying.Run(0, len(ids))]) == [[0, 60]]
    assert samples.copied_parts(tokenizer, written, [copying.Run(len(ids) - 55, 55)]) == [[5, 60]]


@pytest.mark.parametrize("size", [49, 50])
def test_a_copy_is_fifty_characters_or_more(tiny_base, size):
    tokenizer = tokens.Tokenizer(tiny_base)
    text = "q" * size  # a token each
    written = generation.Continuation(text + "!", tokenizer.encode(text + "!"), ended=True)
    assert samples.copied_parts(tokenizer, written, [copying.Run(0, size)]) == ([[0, 50]] if size == 50 else [])


@pytest.mark.parametrize("length", [49, 50])
def test_a_copy_is_fifty_tokens_or_more(length):
    figures = samples.copy_figures([[copying.Run(0, 7), copying.Run(9, length)], [copying.Run(2, 5)]])
    assert figures["share_copied"] == (0.5 if length == 50 else 0.0)
    assert (figures["prompts"], figures["longest_run"], figures["mean_longest_run"]) == (2, length, (length + 5) / 2)


def test_overlapping_copies_are_one_part(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    text = "а" * 200
    ids = tokenizer.encode(text)
    half = len(ids) // 2
    found = [copying.Run(0, half + 2), copying.Run(half - 2, len(ids) - half + 2)]
    assert samples.copied_parts(tokenizer, generation.Continuation(text, ids, ended=True), found) == [[0, 200]]


@pytest.mark.parametrize(("count", "wanted"), [(0, 3), (1, 3), (3, 3), (10, 3), (10, 1), (7, 0)])
def test_evenly_takes_as_many_as_there_are(count, wanted):
    places = samples.evenly(count, wanted)
    assert len(places) == min(count, wanted)
    assert places <= set(range(count))
    if count > 1 and wanted > 1:
        assert {0, count - 1} <= places


@pytest.mark.parametrize(("count", "wanted"), [(0, 5), (3, 5), (5, 5), (9, 5), (10, 5), (11, 5), (500, 5), (12, 0)])
def test_beginnings_are_of_documents_far_apart(count, wanted):
    long = [document([0, *range(number, number + 70), 0]) for number in range(1, 1 + count)]
    short = document([0, 9999, 0])
    found = samples.beginnings([each for one in long for each in (short, one)], wanted)
    assert len(found) == min(count, wanted)
    assert all(ids == [0, *range(ids[1], ids[1] + samples.COPY_PROMPT)] for ids in found)
    places = [ids[1] for ids in found]
    assert places == sorted(set(places))
    if count >= wanted > 1:
        assert np.diff(places).min() >= count // (4 * wanted)
        assert places[-1] - places[0] >= count // 2


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("tokens_of_text", [65, 66])
def test_a_document_counts_from_the_length_on_at_which_it_can_show_a_copy(whole, tokens_of_text):
    """A prompt of 16 tokens, and then the 50 of a copy, all of the document's own text."""
    text = np.arange(1, tokens_of_text + 1)
    one = Document(1, np.array([0, *text, 0][: None if whole else -1]), 1, whole)
    found = samples.beginnings([one], 5)
    written = [text[len(ids) - 1 :] for ids in found]
    figures = samples.copy_figures(copying.runs(written, [one]))
    assert (figures["prompts"], figures["share_copied"]) == ((1, 1.0) if tokens_of_text >= 66 else (0, None))


def test_documents_that_were_truncated_are_tried_too(tmp_path):
    documents = [document([0, *range(number, number + 100), 0]) for number in range(1, 4)]
    rows = packing.pack((packing.shorten(one, 80, "truncate") for one in documents), 80)
    tokens.write_rows(tmp_path / "train.arrow", rows)
    back = packing.documents_of(tokens.read_rows(tmp_path / "train.arrow"), 0)
    assert samples.beginnings(back, 5) == [one.ids[:17].tolist() for one in documents]


def test_beginnings_are_spread_over_all_of_the_documents():
    """Of 1000 documents five: every 128th is kept, which makes eight, and the five are spread over those."""
    documents = (document([0, *range(number, number + 70), 0]) for number in range(1000))
    assert [ids[1] for ids in samples.beginnings(documents, 5)] == [0, 128, 384, 640, 896]


# Learned by heart


def test_likeliest_takes_what_transformers_holds_for_likeliest(tiny_base):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    boundary = tokenizer.closing
    prompts = [[boundary, *tokenizer.encode(text)[:7]] for text in TEXTS[:5]]
    plain = GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    for prompt, written in zip(prompts, generation.likeliest(model, boundary, prompts, 20), strict=True):
        ids = list(prompt)
        for _ in range(20):
            with torch.no_grad():
                ids.append(plain(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] == boundary:
                ids.pop()
                break
        assert written == ids[len(prompt) :]


def test_what_was_learned_by_heart_shows_in_training_documents_and_not_in_held_out_ones(tmp_path):
    make_base(tmp_path / "base", context=160)
    model, tokenizer = models.load(tmp_path / "base"), tokens.Tokenizer(tmp_path / "base")
    words = " ".join(TEXTS).split()
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 60)) for _ in range(4)]
    documents = [document(ids[:150]) for ids in Encoder(tmp_path / "base").encode(texts)]
    training, held_out = documents[:3], documents[3:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        for one in training:
            ids = torch.tensor([one.ids.tolist()])
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    shares = {}
    for name, split in (("training", training), ("held-out", held_out)):
        prompts = samples.beginnings(split, 5)
        written = generation.likeliest(model, tokenizer.closing, prompts, samples.COPY_LENGTH)
        found = copying.runs([np.array(ids) for ids in written], training)
        shares[name] = samples.copy_figures(found)
        assert shares[name]["prompts"] == len(split)
    assert shares["training"]["share_copied"] == 1.0
    assert shares["training"]["longest_run"] == samples.COPY_LENGTH
    assert shares["held-out"]["share_copied"] == 0.0


def test_the_usual_prompts_are_in_the_script_they_stand_for():
    assert {name: scripts.main_script(prompts) for name, prompts in samples.USUAL_PROMPTS.items()} == {
        name: name for name in samples.USUAL_PROMPTS
    }
