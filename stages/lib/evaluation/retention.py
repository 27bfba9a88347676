"""How much of what the base model could write the tuned one has lost.

It takes no texts from elsewhere, whatever the language: the base model writes some by itself, drawn from all that it
holds possible, and both models are scored on them, on the end of those that end as well. The mean of the differences
estimates the Kullback-Leibler divergence of the tuned from the base model (Cover and Thomas 2006, chapter 2.3): 0 where
nothing is lost, never below it but by chance, and more the less likely the tuned model finds what the base writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from stages.lib.evaluation import comparison
from stages.lib.model import generation, scoring
from stages.lib.rows.tokens import Tokenizer

LENGTH = 100  # tokens of a text at most


def figures(
    base: GPT2LMHeadModel,
    tuned: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    count: int,
    seed: int,
    written: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Bits per byte of both models on `count` texts of the base, and their difference with its 95 % interval.

    None without two texts at least. `written` is called before each of the `LENGTH` tokens.
    """
    # Of what the model holds possible nothing is favoured.
    anything = generation.Sampling(LENGTH, temperature=1.0, top_p=1.0)
    drawn = generation.by_itself(base, tokenizer, count, anything, written, seed)
    texts = [[*one.ids, tokenizer.closing] if one.ended else one.ids for one in drawn]
    scores = {name: scored(model, tokenizer, texts) for name, model in (("base", base), ("tuned", tuned))}
    compared = comparison.compare(scores["base"], scores["tuned"], seed)
    if compared is None or compared.low is None or not sum(score.size for score in scores["base"]):
        return None
    totals = {name: scoring.total(some) for name, some in scores.items()}
    return {
        "texts": len(texts),
        "bytes": totals["base"].size,
        **{name: total.bits_per_byte for name, total in totals.items()},
        "difference": compared.difference,
        "low": compared.low,
        "high": compared.high,
    }


@torch.no_grad()
def scored(model: GPT2LMHeadModel, tokenizer: Tokenizer, texts: Sequence[Sequence[int]]) -> list[scoring.Score]:
    """The scores of texts that begin a context, of all their tokens: one that is whole ends with the closing one."""
    scores = []
    for place, ids in enumerate(texts):
        row = torch.tensor([[tokenizer.opening, *ids]], device=model.device)
        nats = scoring.next_token_nats(model, row, torch.arange(row.shape[1], device=row.device)[None], row)
        own = [token for token in ids if token != tokenizer.closing]
        size = len(tokenizer.decode(own).encode())
        scores.append(scoring.Score(place, size, len(ids), nats.double().sum().item(), 0.0))
    return scores
