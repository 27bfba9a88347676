"""How far the trained weights go back towards the base: a mean of the two may do better than either.

Weights on the straight line between a model and what fine-tuning made of it do well on texts of both kinds, and on new
ones of the same kind better than those at its end, where training has learned more than there was to learn (Wortsman
et al. 2022, https://arxiv.org/abs/2109.01903). Where on the line is for validation to say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import GPT2LMHeadModel

from stages.lib.common import cli

LOOKS = 4  # validations at most
_NEAR = 0.03  # shares that are no further apart are taken for the same


def choose(
    setting: float | str, kept: dict[int, float | None], base: float | None, ask: Callable[[int, float], float]
) -> tuple[int, float, float | None]:
    """The step whose weights are handed over, the share of `train.toward_base`, and the validation there.

    `kept` has the validation of the steps whose weights there are, None without documents for it, the one to keep
    first. `auto` takes whichever does best on its way to the base: a few documents may like an early step by chance,
    and what a later one has learned too much is taken back on that way. `base` and `ask` are as in `best_share`.
    """
    step, trained = next(iter(kept.items()))
    if setting == 0 or (setting == "auto" and (trained is None or base is None)):
        return step, 0.0, trained
    if setting != "auto":
        bits = None if trained is None else ask(step, float(setting))
        way = f"{100 * float(setting):.3g}% of the way back towards the base, as train.toward_base says"
        cli.say(f"train: {way}" if bits is None else f"train: {way}, validation {bits:.4f} bits per byte")
        return step, float(setting), bits
    found = {one: best_share(bits, base, partial(ask, one)) for one, bits in kept.items()}
    step, (share, bits) = min(found.items(), key=lambda way: way[1][1])
    if share == 1:
        cli.say("warning: nothing that was learned does better on the validation documents: the base is kept as it is")
    elif share:
        cli.say(f"train: {share:.0%} of the way back towards the base, validation {bits:.4f} bits per byte")
    if step != next(iter(kept)):
        cli.say(f"train: from step {step} on, which does better there")
    return step, share, bits


def best_share(trained: float, base: float, ask: Callable[[float], float]) -> tuple[float, float]:
    """The share of the way from the trained weights, 0, to the base, 1, where validation is lowest, and its figure.

    `trained` and `base` are the figures at both ends; `ask` tells the one of a share, and is called `LOOKS` times at
    most. By successive parabolic interpolation (Brent 1973, chapter 5): the first look is in the middle, each other one
    where the parabola through the lowest point so far and its neighbours is lowest, or halfway to an end that is the
    lowest. Shares have two digits.
    """
    known = {0.0: trained, 1.0: base}
    share = 0.5
    for _ in range(LOOKS):
        known[share] = ask(share)
        share = _vertex(known)
        if min(share, 1 - share) <= _NEAR:
            share = 0.25 if share < 0.5 else 0.75
        if min(abs(share - other) for other in known) <= _NEAR:
            break
    return min(known.items(), key=lambda found: (found[1], found[0]))


def _vertex(known: dict[float, float]) -> float:
    """Where the parabola through the lowest point and those beside it is lowest; that point itself if nowhere."""
    shares = sorted(known)
    lowest = min(shares, key=lambda share: known[share])
    middle = min(max(shares.index(lowest), 1), len(shares) - 2)
    left, at, right = shares[middle - 1 : middle + 2]
    before, after = (known[at] - known[left]) / (at - left), (known[right] - known[at]) / (right - at)
    if after <= before:
        return lowest
    bend = (after - before) / (right - left)
    return round(min(max((left + at) / 2 - before / (2 * bend), 0.0), 1.0), 2)


def towards(model: GPT2LMHeadModel, base: Path, share: float) -> GPT2LMHeadModel:
    """`model`, its weights gone a share of the way to those of the model in the folder `base`; changed in place."""
    with safe_open(base / "model.safetensors", framework="pt") as weights:
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                parameter.lerp_(weights.get_tensor(name).to(parameter), share)
    return model
