"""Word for word: which runs of tokens a text shares with the documents the model was trained on.

The texts become a suffix automaton (Blumer et al. 1985), which the training tokens go through once, one document after
the other. The time grows with the tokens of both and with nothing else, however often they repeat themselves: some
10 seconds for 100 MB of training text. The memory is that of the texts alone, some kilobyte a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stages.lib.rows.packing import Document

_SEPARATOR = -1  # between texts; equal to no token


@dataclass(frozen=True)
class Run:
    """`length` tokens of a text, from index `start` on, that follow each other in a training document too."""

    start: int
    length: int


def runs(texts: Sequence[np.ndarray], documents: Iterable[Document]) -> list[list[Run]]:
    """For each text, given as token ids, its runs of tokens that stand in one of `documents` too.

    Only the longest runs are listed: none lies within another.
    """
    automaton = _Automaton(token for text in texts for token in [*text.tolist(), _SEPARATOR])
    shared = automaton.shared_with(document.ids.tolist() for document in documents)
    found = []
    ends = iter(shared)
    for text in texts:
        lengths = [next(ends) for _ in range(len(text) + 1)]  # that of the separator is 0
        found.append([Run(end - lengths[end - 1], lengths[end - 1]) for end in _whole(lengths)])
    return found


def longest(found: list[Run]) -> int:
    """The tokens of the longest run, 0 if there is none."""
    return max((run.length for run in found), default=0)


def _whole(lengths: list[int]) -> Iterator[int]:
    """The ends of runs that go on no further, from the length of the run that ends with each token."""
    for end, (length, after) in enumerate(pairwise(lengths), 1):
        if length and after != length + 1:
            yield end


class _Automaton:
    """The suffix automaton of a sequence of tokens: each run of tokens in it leads from state 0 to one state.

    The runs that lead to a state end at the same places. The longest of them has `_lengths[state]` tokens; the longest
    of its endings that leads elsewhere leads to `_links[state]`.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._links, self._lengths = [-1], [0]
        self._states = []  # reached after each token
        for token in tokens:
            self._states.append(self._add(token, self._states[-1] if self._states else 0))

    def _new(self, length: int, following: dict[int, int], link: int) -> int:
        self._next.append(following)
        self._links.append(link)
        self._lengths.append(length)
        return len(self._next) - 1

    def _add(self, token: int, last: int) -> int:
        """Append a token to the sequence that led to state `last`; return the state to which the new one leads."""
        added = self._new(self._lengths[last] + 1, {}, 0)
        state = last
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = added
            state = self._links[state]
        if state >= 0:
            self._links[added] = self._split(state, token)
        return added

    def _split(self, state: int, token: int) -> int:
        """The state that `token` leads to from `state`, made one for the runs that come from there alone."""
        target = self._next[state][token]
        if self._lengths[target] == self._lengths[state] + 1:
            return target
        part = self._new(self._lengths[state] + 1, dict(self._next[target]), self._links[target])
        self._links[target] = part
        while state >= 0 and self._next[state].get(token) == target:
            self._next[state][token] = part
            state = self._links[state]
        return part

    def shared_with(self, sequences: Iterable[list[int]]) -> Iterator[int]:
        """For each token the length of the longest run that ends with it and stands in one of `sequences` too."""
        met = self._met(sequences)
        order = sorted(range(1, len(met)), key=self._lengths.__getitem__)
        for state in reversed(order):  # the endings of what was met were met too
            if met[state] and (link := self._links[state]) > 0:
                met[link] = self._lengths[link]
        for state in order:  # of what was not met, perhaps an ending was
            met[state] = met[state] or met[self._links[state]]
        return (met[state] for state in self._states)

    def _met(self, sequences: Iterable[list[int]]) -> list[int]:
        """For each state the length of the longest run that leads to it and stands in a sequence."""
        following, links, lengths = self._next, self._links, self._lengths
        met = [0] * len(following)
        for sequence in sequences:
            state = length = 0
            for token in sequence:
                while state and token not in following[state]:
                    state = links[state]
                    length = lengths[state]
                if (target := following[state].get(token)) is not None:
                    state, length = target, length + 1
                    if length > met[state]:
                        met[state] = length
        return met
