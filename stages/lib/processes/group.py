"""What the processes that train one model tell each other.

They add up in one fixed order, whoever has which part: so the result has the same bytes on one process and on many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

T = TypeVar("T")

_AT_ONCE = 2**23  # numbers that are sent at a time: each takes a buffer on both sides


class Lost(Exception):
    """Another process is gone, or has not answered for too long."""


class Group:
    """This process among those that work together: number `rank` of `size`, counted from 0."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files, and speaks to the user."""
        return self.rank == 0

    def told(self, value: T) -> T:
        """What the first process has for `value`. Raises Lost, as all that follow, when a process is gone."""
        values = [value]
        if self.size > 1:
            with losses():
                distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def any(self, fact: bool) -> bool:
        """Whether it is so in one of the processes."""
        return bool(self.sum(np.array([fact], dtype=np.float64))[0])

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        """The sum over the processes, in float64, any shape. Exact where each number is 0 in all but one of them."""
        if self.size == 1:
            return numbers
        summed = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float64))
        with losses():
            distributed.all_reduce(summed)
        return summed.numpy()

    def add_up(self, gradients: Sequence[torch.Tensor], in_order: bool) -> None:
        """Sum each tensor over the processes, in place.

        `in_order`: 2^k processes add in pairs, those in pairs again, and so on, which is the tree of
        `gradients.GradientSum`; otherwise, and where their number is no power of two, in the library's own order.
        """
        if self.size == 1:
            return
        in_pairs = in_order and self.size & (self.size - 1) == 0
        with losses():
            for some in _portions(gradients):
                flat = torch.cat([part.reshape(-1) for part in some])
                if in_pairs:
                    self._add_in_pairs(flat)
                else:
                    distributed.all_reduce(flat)
                for part, summed in zip(some, flat.split([part.numel() for part in some]), strict=True):
                    part.copy_(summed.view_as(part))

    def _add_in_pairs(self, numbers: torch.Tensor) -> None:
        other = torch.empty_like(numbers)
        apart = 1
        while apart < self.size:
            partner = self.rank ^ apart
            exchange = [
                distributed.P2POp(distributed.isend, numbers, partner),
                distributed.P2POp(distributed.irecv, other, partner),
            ]
            for transfer in distributed.batch_isend_irecv(exchange):
                transfer.wait()
            numbers += other  # the same bytes on both sides: a + b is b + a
            apart *= 2


ALONE = Group()


def _portions(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors, large ones in pieces that share their memory, as lists of some `_AT_ONCE` numbers."""
    some: list[torch.Tensor] = []
    for tensor in tensors:
        for piece in tensor.view(-1).split(_AT_ONCE):
            if some and sum(part.numel() for part in some) + piece.numel() > _AT_ONCE:
                yield some
                some = []
            some.append(piece)
    if some:
        yield some


@contextmanager
def losses(among_others: bool = False) -> Iterator[None]:
    """Turn what gloo and NCCL raise where another process does not answer, of several classes, into Lost.

    `among_others`: where what is raised may be about something else.
    """
    try:
        yield
    except RuntimeError as error:
        if among_others and not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise Lost(str(error)) from error
