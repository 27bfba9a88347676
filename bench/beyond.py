"""What a search tries and the stage `train` cannot be told: Muon, a rate for each layer, a mean over the last steps.

The stage itself does the rest: it is handed another optimizer, in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

NOTHING = {"optimizer": "adamw", "layer_decay": 1.0, "averaged": 0.0}  # what the stage does


class Optimizer(torch.optim.Optimizer):
    """AdamW or, for the matrices of the blocks, Muon; in the end the weights are their mean over the last steps.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) is PyTorch's, its steps as long as AdamW's, in
    float32: many a processor is slow in bfloat16.
    `layer_decay`: the rate of a layer is so many times that of the layer above, the embeddings being the lowest (Howard
    & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2). `averaged`: the mean is over so great a share of the
    steps (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407). `place` tells how many steps have been taken, and
    how many there will be.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        decayed: list[str],
        rate: float,
        weight_decay: float,
        place: Callable[[], tuple[int, int]],
        optimizer: str,
        layer_decay: float,
        averaged: float,
    ) -> None:
        groups: dict[tuple[bool, int, bool], list[torch.nn.Parameter]] = {}
        layers = model.config.n_layer
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                above = _layers_above(name, layers)
                by_muon = optimizer == "muon" and parameter.ndim == 2 and bool(_BLOCK.search(name))
                groups.setdefault((by_muon, above, name in decayed), []).append(parameter)
        ordered = sorted(groups.items(), key=lambda group: group[0][:2])  # AdamW's first, and the top layers
        super().__init__(
            [
                {
                    "params": parameters,
                    "lr": rate * layer_decay**above,
                    "weight_decay": weight_decay if decays else 0.0,
                }
                for (_, above, decays), parameters in ordered
            ],
            {},
        )
        adamw = [group for group, (key, _) in zip(self.param_groups, ordered, strict=True) if not key[0]]
        self._ours = {torch.optim.AdamW: len(adamw), torch.optim.Muon: len(ordered) - len(adamw)}
        self._parts: list[tuple[torch.optim.Optimizer, slice]] = []
        self._place, self._averaged, self._mean, self._counted = place, averaged, None, 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take a step; after the last one, put the mean in the place of the weights."""
        if not self._parts:  # not sooner: accelerate puts other groups in the place of those it was given
            self._parts = list(self._made())
        for part, where in self._parts:
            for own, given in zip(part.param_groups, self.param_groups[where], strict=True):
                own["lr"] = given["lr"]  # as the schedule has it
            part.step()
        done, of = self._place()
        if done + 1 <= of * (1 - self._averaged):
            return
        weights = [parameter for group in self.param_groups for parameter in group["params"]]
        self._mean = self._mean or [torch.zeros_like(weight) for weight in weights]
        self._counted += 1
        for mean, weight in zip(self._mean, weights, strict=True):
            mean.lerp_(weight, 1 / self._counted)
            if done + 1 == of:
                weight.copy_(mean)

    def _made(self) -> Iterator[tuple[torch.optim.Optimizer, slice]]:
        options: dict[Any, dict[str, Any]] = {
            torch.optim.AdamW: {"fused": True},
            torch.optim.Muon: {"adjust_lr_fn": "match_rms_adamw"},
        }
        start = 0
        for kind, count in self._ours.items():
            where = slice(start, start := start + count)
            taken = ("params", "lr", "weight_decay")
            if own := [{name: group[name] for name in taken} for group in self.param_groups[where]]:
                yield kind(own, **options[kind]), where


def _orthogonal(
    gradient: torch.Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> torch.Tensor:
    """PyTorch's Newton-Schulz iteration of Muon for a matrix, which it has in bfloat16 alone, in the matrix's type."""
    of_length, of_cube, of_fifth = coefficients
    wide = gradient.T if len(gradient) > gradient.shape[1] else gradient
    wide = wide / wide.norm().clamp(min=epsilon)
    for _ in range(steps):
        square = wide @ wide.T
        wide = of_length * wide + (of_cube * square + of_fifth * square @ square) @ wide
    return wide.T if len(gradient) > gradient.shape[1] else wide


_BLOCK = re.compile(r"\bh\.(\d+)\.")


def _layers_above(name: str, layers: int) -> int:
    """How many layers are above the one that a weight belongs to."""
    if block := _BLOCK.search(name):
        return layers - 1 - int(block[1])
    return 0 if "ln_f" in name else layers


def train(tried: dict[str, Any]) -> None:
    """The stage `train` in this folder, with its optimizer in another's place where `tried` is not NOTHING."""
    from stages import train
    from stages.lib.training.trainer import Trainer

    def create(trainer: Trainer, model: Any = None) -> Optimizer:
        arguments, decayed = trainer.args, trainer.get_decay_parameter_names(trainer.model)
        trainer.optimizer = Optimizer(
            trainer.model,
            decayed,
            arguments.learning_rate,
            arguments.weight_decay,
            lambda: (trainer.state.global_step, trainer.state.max_steps),
            **tried,
        )
        return trainer.optimizer

    if tried != NOTHING:
        torch.optim._muon._zeropower_via_newtonschulz = _orthogonal
        Trainer.create_optimizer = create  # type: ignore[method-assign]
    train.main()
