"""The scorer, against a slow and obvious reference: one document at a time, no packing, no batches, float64."""

import math

import numpy as np
import pytest
import torch
from conftest import TEXTS
from transformers import GPT2LMHeadModel

from stages.lib.model import models, scoring
from stages.lib.rows import packing
from stages.lib.rows.encoder import Encoder
from stages.lib.rows.packing import Document

LONG = " ".join(TEXTS * 4)  # several times the tiny model's context of 64 tokens
EVERYTHING = [*TEXTS, LONG, "a", "Ё", LONG[:300]]


@pytest.fixture(scope="module")
def documents(tiny_base):
    encoded = Encoder(tiny_base).encode(EVERYTHING)
    return [
        Document(line, ids, len(text.encode()))
        for line, (text, ids) in enumerate(zip(EVERYTHING, encoded, strict=True), 1)
    ]


def reference_nats(folder, ids, stride):
    """The nats of each token after the first: token by token, in the window that `stride` gives it."""
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    context = model.config.n_positions
    nats = []
    for place in range(1, len(ids)):
        start = 0
        while start + context <= place:  # the first window that holds the token
            start += stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place].tolist()])).logits[0, -1]
        nats.append(-torch.log_softmax(logits, -1)[ids[place]].item())
    return nats


@pytest.mark.parametrize("stride", [1, 13, 32, 63])
def test_nats_equal_the_reference(tiny_base, documents, stride):
    if stride == 1:
        documents = documents[:3] + documents[-1:]
    scores = list(scoring.score_documents(models.load(tiny_base), documents, stride, batch_tokens=200))
    assert [score.line for score in scores] == [document.line for document in documents]
    for score, document in zip(scores, documents, strict=True):
        expected = reference_nats(tiny_base, document.ids, stride)
        assert score.nats == pytest.approx(math.fsum(expected[:-1]), rel=1e-5)
        assert score.end_of_text_nats == pytest.approx(expected[-1], rel=1e-5)
        assert score.tokens == len(document.ids) - 2


def test_a_window_moves_on_by_half_the_context_by_default(tiny_base, documents):
    (score,) = scoring.score_documents(models.load(tiny_base), [documents[-1]])
    assert len(documents[-1].ids) > 2 * 64
    expected = reference_nats(tiny_base, documents[-1].ids, 32)
    assert score.nats == pytest.approx(math.fsum(expected[:-1]), rel=1e-6)


def test_bits_per_byte_equals_the_reference(tiny_base, documents):
    total = scoring.total(scoring.score_documents(models.load(tiny_base), documents, 32))
    nats = sum(math.fsum(reference_nats(tiny_base, document.ids, 32)[:-1]) for document in documents)
    size = sum(len(text.encode("utf-8")) for text in EVERYTHING)
    assert total.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert total.perplexity == pytest.approx(math.exp(nats / sum(len(d.ids) - 2 for d in documents)), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_batches_change_nothing(tiny_base, documents, batch_tokens):
    model = models.load(tiny_base)
    once = scoring.total(scoring.score_documents(model, documents))
    again = scoring.total(scoring.score_documents(model, documents, batch_tokens=batch_tokens))
    assert again.nats == pytest.approx(once.nats, rel=1e-6)


def test_many_documents_come_back_in_order(tiny_base, documents):
    many = [Document(line, documents[line % 8].ids, 1) for line in range(600)]
    scores = list(scoring.score_documents(models.load(tiny_base), many))
    assert [score.line for score in scores] == list(range(600))
    assert scores[8].nats == pytest.approx(scores[0].nats, rel=1e-5)


def test_a_total_is_a_total_over_a_total():
    scores = [scoring.Score(1, 10, 5, 1.0, 0.5), scoring.Score(2, 1000, 500, 900.0, 0.25)]
    total = scoring.total(scores)
    assert total.bits_per_byte == 901.0 / (math.log(2) * 1010)
    assert total.perplexity == math.exp(901.0 / 505)
    assert total.end_of_text_nats == 0.75


def test_nothing_to_score_has_no_figures():
    total = scoring.total([])
    assert (total.documents, total.bits_per_byte, total.perplexity) == (0, None, None)


def test_scoring_leaves_model_and_random_state_as_they_were(tiny_base, documents):
    model = models.load(tiny_base, dropout=0.5).train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = scoring.total(scoring.score_documents(model, documents))
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert scoring.total(scoring.score_documents(model, documents)) == first


@pytest.mark.parametrize("stride", [0, -1, 64])
def test_a_stride_that_would_leave_no_context_is_refused(tiny_base, documents, stride):
    with pytest.raises(ValueError, match="stride"):
        list(scoring.score_documents(models.load(tiny_base), documents, stride))


def test_a_document_that_was_cut_short_is_not_scored(tiny_base, documents):
    cut = packing.shorten(documents[-1], 20, "truncate")
    with pytest.raises(ValueError, match="whole"):
        list(scoring.score_documents(models.load(tiny_base), [documents[0], cut]))


def test_windows_score_each_token_once():
    for length in range(2, 60):
        for stride in range(1, 10):
            scored = []
            for window in scoring._windows(0, np.arange(length), 10, stride):
                scored.extend(window.ids[window.first :].tolist())
                assert window.first >= 1
            assert scored == list(range(1, length))
