"""Hashes of 64 bits for many things at once, in arrays."""

from __future__ import annotations

import numpy as np

_FACTOR = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing
_INVERSE = pow(_FACTOR, -1, 2**64)


def mixed(words: np.ndarray) -> np.ndarray:
    """Words (uint64) to words in which every bit depends on all of theirs: SplitMix64 (Steele et al. 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def segment_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A hash (uint64) of the values from each of `starts` to before each of `ends`, the same wherever they stand.

    That is the polynomial of Rabin and Karp (1987), modulo 2^64: the sum of (values[start + i] + 1) F^i. It is a
    difference of two running sums over all the values, taken back to i = 0.
    """
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum((values + np.uint64(1)) * _powers(_FACTOR, len(values)), out=sums[1:])
    return (sums[ends] - sums[starts]) * _powers(_INVERSE, len(values) + 1)[starts]


def _powers(base: int, count: int) -> np.ndarray:
    """The powers 0 ... count - 1 of a number, modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)
