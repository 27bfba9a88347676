"""What a search may change, and what it tries next."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.common import params
from stages.lib.common.cli import UserError, printable

Changes = dict[str, Any]  # settings by their names in params.yaml, "train.epochs", that are not the committed ones

_RATE, _LENGTH = 8, 3  # how many times higher and lower than the committed ones learning rate and length may be
_STEP = 0.7  # standard deviation of a change, of the logarithm: about a half or the double
_DIGITS = 2  # of a number that is tried: one that a person can read and type
_OFTEN = 3  # how many times as often as others the learning rate is changed
_TRIES = 100


@dataclass(frozen=True)
class Scale:
    """A number that counts by how many times larger it is than another one."""

    low: float
    high: float
    whole: bool = False

    def another(self, value: float, chance: random.Random) -> float:
        """A number not far from `value`."""
        found = min(self.high, max(self.low, value * math.exp(chance.gauss(0, _STEP))))
        return max(1, round(found)) if self.whole else float(f"{found:.{_DIGITS}g}")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def another(self, value: Any, chance: random.Random) -> Any:
        """Another one of them."""
        return chance.choice([one for one in self.values if one != value] or [value])


def shown(changes: Changes) -> str:
    """Changes as people read them."""
    return " ".join(f"{name}={value}" for name, value in changes.items())


def length_name(settings: params.Train) -> str:
    """The setting that says how long a run is."""
    return "train.max_steps" if settings.max_steps else "train.epochs"


def length(settings: params.Train) -> float:
    """How long a run is, in the unit of that setting."""
    return settings.max_steps or settings.epochs


def space(settings: params.Train, rate: float) -> dict[str, Scale | Choice]:
    """What may be changed, and how far; `rate` is the peak learning rate in use.

    A batch never takes more memory than the committed one: larger steps come from more batches in a step.
    """
    batches = settings.gradient_accumulation_steps
    long = length(settings)
    found: dict[str, Scale | Choice] = {
        "train.learning_rate": Scale(rate / _RATE, min(1.0, rate * _RATE)),
        length_name(settings): Scale(long / _LENGTH, long * _LENGTH, settings.max_steps is not None),
        "train.batch_size": Choice(tuple(sorted({max(1, settings.batch_size // part) for part in (1, 2, 4)}))),
        "train.gradient_accumulation_steps": Choice(tuple(batches * times for times in (1, 2, 4, 8))),
        "train.scheduler": Choice(("cosine", "linear", "constant")),
        "train.warmup_fraction": Choice((0.0, 0.05, 0.1, 0.2)),
        "train.weight_decay": Choice((0.0, 0.01, 0.1, 0.3)),
        "train.dropout": Choice((0.0, 0.05, 0.1, 0.2)),
    }
    if settings.lora_rank:
        ranks = {max(1, settings.lora_rank // 2), *(settings.lora_rank * times for times in (1, 2, 4))}
        found["train.lora_rank"] = Choice(tuple(sorted(ranks)))
        found["train.lora_alpha"] = Scale(settings.lora_alpha / 4, settings.lora_alpha * 4)
    return found


def only(names: str | None, settings: params.Train) -> list[str]:
    """The names that a search is confined to, all by default. Raises UserError for one that it does not know."""
    known = list(space(settings, 1.0))
    wanted = known if names is None else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"--only: {printable(unknown[0])} is nothing that a search changes: {', '.join(known)}")
    return wanted


def propose(
    parents: Sequence[Changes],
    tried: Iterable[Changes],
    settings: params.Train,
    rate: float,
    names: Sequence[str],
    number: int,
) -> Changes | None:
    """Settings that were not tried yet: those of one of `parents`, with one to three of `names` changed.

    The same for the same arguments. None where nothing new was found.
    """
    chance = random.Random(number)
    may_change = {name: one for name, one in space(settings, rate).items() if name in names}
    committed = {name: rate if name == "train.learning_rate" else _committed(settings, name) for name in may_change}
    weights = [_OFTEN if name == "train.learning_rate" else 1 for name in may_change]
    known = list(tried)
    for _ in range(_TRIES):
        changes = dict(chance.choice(parents))
        for name in chance.choices(list(may_change), weights, k=chance.randint(1, 3)):
            changes[name] = may_change[name].another(changes.get(name, committed[name]), chance)
        changes = {name: value for name, value in changes.items() if value != _committed(settings, name)}
        if changes and changes not in known:
            return changes
    return None


def _committed(settings: params.Train, name: str) -> Any:
    return getattr(settings, name.removeprefix("train."))
