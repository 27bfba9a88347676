"""What is left of the base model: against a plain loop in float64, and against the divergence itself."""

import math

import numpy as np
import pytest
import torch
from tiny_training import train

from stages.lib.evaluation import retention
from stages.lib.model import generation, models
from stages.lib.rows.tokens import Tokenizer


@pytest.fixture(scope="module")
def tuned(tiny_base, rows, tmp_path_factory):
    return train(tiny_base, rows, tmp_path_factory.mktemp("tuned"), epochs=10, learning_rate=3e-3).model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def test_texts_are_scored_as_token_by_token_in_float64(tiny_base):
    model, tokenizer = models.load(tiny_base), Tokenizer(tiny_base)
    whole = [*tokenizer.encode("Кот."), tokenizer.closing]
    texts = [tokenizer.encode("Жил-был"), tokenizer.encode("Once upon a time there was"), whole, [tokenizer.closing]]
    for place, (ids, score) in enumerate(zip(texts, retention.scored(model, tokenizer, texts), strict=True)):
        seen, nats = [tokenizer.opening], 0.0
        for token in ids:
            nats -= torch.log_softmax(logits(model, seen)[-1], 0)[token].item()
            seen.append(token)
        assert score.nats == pytest.approx(nats, rel=1e-5)
        text = ["Жил-был", "Once upon a time there was", "Кот.", ""][place]
        assert (score.line, score.tokens, score.size) == (place, len(ids), len(text.encode()))


def test_a_model_that_was_not_tuned_has_lost_nothing(tiny_base):
    base, tokenizer = models.load(tiny_base), Tokenizer(tiny_base)
    found = retention.figures(base, models.load(tiny_base), tokenizer, 8, seed=3)
    assert found["texts"] == 8
    assert found["base"] == found["tuned"] > 0
    assert found["difference"] == found["low"] == found["high"] == 0


def test_what_is_lost_is_the_divergence_from_the_base(tiny_base, tuned, monkeypatch):
    """Of texts of one token it can be computed over the whole vocabulary."""
    base, tokenizer = models.load(tiny_base), Tokenizer(tiny_base)
    before, after = (torch.log_softmax(logits(one, [tokenizer.opening])[-1], 0) for one in (base, tuned))
    chances = before.exp()
    divergence = (chances * (before - after)).sum().item()
    monkeypatch.setattr(retention, "LENGTH", 1)
    found = retention.figures(base, tuned, tokenizer, 4000, seed=0)
    assert found["texts"] == 4000
    size = found["bytes"] / found["texts"]
    spread = math.sqrt((chances * ((before - after) - divergence) ** 2).sum().item() / found["texts"])
    assert spread < divergence / 4
    assert found["difference"] * size * math.log(2) == pytest.approx(divergence, abs=4 * spread)
    assert found["low"] < found["difference"] < found["high"]


def test_the_base_draws_from_all_that_it_holds_possible(tiny_base):
    """Nothing is favoured: the first tokens are as frequent as the model says."""
    base, tokenizer = models.load(tiny_base), Tokenizer(tiny_base)
    anything = generation.Sampling(1, temperature=1.0, top_p=1.0)
    wanted = 5000 * torch.softmax(logits(base, [tokenizer.opening])[-1], 0).numpy()
    drawn = generation.by_itself(base, tokenizer, 5000, anything, lambda: None)
    counts = np.bincount([one.ids[0] if one.ids else tokenizer.closing for one in drawn], minlength=len(wanted))
    assert np.abs(counts - wanted).max() < 5 * math.sqrt(wanted.max())
    frequent = wanted > 10
    assert ((counts - wanted)[frequent] ** 2 / wanted[frequent]).sum() < 1.5 * frequent.sum()


def test_a_model_that_has_unlearned_to_end_texts_has_lost_something(tiny_base):
    """As one does that was trained on texts without an end; what else it writes is as likely as before."""
    base, tokenizer = models.load(tiny_base), Tokenizer(tiny_base)

    def with_ends(shift):
        model = models.load(tiny_base)
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(model.lm_head.weight)))
        model.lm_head.bias.data[tokenizer.closing] += shift
        return model

    base, tuned = with_ends(8.0), with_ends(2.0)
    found = retention.figures(base, tuned, tokenizer, 200, seed=0)
    assert found["low"] > 0
    assert retention.figures(tuned, base, tokenizer, 200, seed=0)["low"] > 0


def test_without_texts_there_is_nothing_to_say(tiny_base):
    base, tokenizer = models.load(tiny_base), Tokenizer(tiny_base)
    assert retention.figures(base, base, tokenizer, 0, seed=0) is None
