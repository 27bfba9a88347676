"""The gradients of the batches of a step, added up in an order that does not depend on who computed which.

Sums of floating-point numbers depend on their order. The batches of a step, in the order of the rows, are halved and
halved again while their number is even; each of the parts is added from left to right, then the two parts of each
half, and so on up: a tree that stays the same when 2, 4 or 8 processes have a half, a quarter or an eighth of it each.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from stages.lib.processes.group import Group


def share(group: Group, batches: int) -> range:
    """The batches of a step of so many that are this process's. Raises ValueError where they cannot be shared alike."""
    if batches % group.size:
        raise ValueError(f"{batches} batches cannot be shared alike by {group.size} processes")
    own = batches // group.size
    return range(group.rank * own, (group.rank + 1) * own)


def passes_missing(own: range, batches: int) -> int:
    """How many batches fewer than the first process the one with the share `own` has of a step that ended early."""
    return min(len(own), batches) - sum(batch < batches for batch in own)


class GradientSum:
    """Adds up what backward passes leave in `grad`, for steps of so many batches.

    With more than two batches in a part of the tree it holds further copies of the gradients: one for 4 batches a
    process, two for 8. Without `in_order` none, and the order is that in which they come.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], batches: int, in_order: bool) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._in_order = in_order
        self._part = part_of(batches)
        self._held: list[tuple[int, list[torch.Tensor]]] = []  # parts of the tree: how many batches, and their sum

    def took(self, batch: int) -> None:
        """Note that the backward pass of this batch of the step is done."""
        if self._in_order and (batch + 1) % self._part == 0:
            self._hold()
            while len(self._held) > 1 and self._held[-2][0] == self._held[-1][0]:
                self._join()

    def finish(self, group: Group) -> None:
        """Leave in `grad` the sum over all batches of the step, of this process and of the others."""
        if self._held:
            if any(parameter.grad is not None for parameter in self._parameters):
                self._hold()  # an epoch may end within a part
            while len(self._held) > 1:
                self._join()
            for parameter, summed in zip(self._parameters, self._held.pop()[1], strict=True):
                parameter.grad = summed
        if group.size > 1:
            for parameter in self._parameters:
                if parameter.grad is None:  # the epoch's last step has no batch for this process
                    parameter.grad = torch.zeros_like(parameter)
            group.add_up([parameter.grad for parameter in self._parameters], self._in_order)

    def _hold(self) -> None:
        self._held.append((self._part, [parameter.grad for parameter in self._parameters]))
        for parameter in self._parameters:
            parameter.grad = None

    def _join(self) -> None:
        count, added = self._held.pop()
        before, summed = self._held.pop()
        torch._foreach_add_(summed, added)
        self._held.append((before + count, summed))


def part_of(batches: int) -> int:
    """How many batches are added from left to right: two are added alike either way."""
    while batches % 2 == 0 and batches > 2:
        batches //= 2
    return batches
