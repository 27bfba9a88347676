"""The machine the model runs on: which device, and how its memory is handled."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stages.lib.cli import UserError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's <malloc.h>


def choose() -> torch.device:
    """The GPU if there is a CUDA one, else the CPU. Apple's MPS is not used: it was never tried with this project."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def memory_errors(message: str) -> Iterator[None]:
    """Turn "out of memory", as torch says it on any device, into a UserError with `message`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On the CPU torch has no class of its own for it.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise UserError(message) from None
        raise


def keep_freed_memory() -> None:
    """Make glibc keep large blocks for reuse instead of handing each one back to the kernel.

    A training step on the CPU frees and asks again for the same few large tensors; without this the kernel clears
    every page of them anew each time. Seen on 2 cores with a model of 5.4 M parameters and batches of 8 x 512: 1.02 s
    a step instead of 1.43 s. Does nothing where the C library is another one.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**28)
