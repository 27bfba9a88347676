"""Where something is in a long array of bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_PIECE = 2**19  # bytes that are looked at together: what is computed from them stays in the processor's cache


def places(condition: Callable[[np.ndarray], np.ndarray], values: np.ndarray, overlap: int = 0) -> np.ndarray:
    """The places in `values` (uint8) where an elementwise condition holds, in order (int64).

    `condition` is given `values` piece by piece, with `overlap` more elements of the next piece, and returns a bool for
    each element but those.
    """
    found = [
        np.flatnonzero(condition(values[start : start + _PIECE + overlap])) + start
        for start in range(0, len(values), _PIECE)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)
