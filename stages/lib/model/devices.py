"""The machine the model runs on: which device, and how its memory is handled."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.lib.common import params
from stages.lib.common.cli import UserError

_STEPS_WORTH_COMPILING = 1000  # it takes about a minute
_COMPILERS = ("g++", "clang++", "cl")  # that torch.compile looks for
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's <malloc.h>


def choose() -> torch.device:
    """The GPU if there is a CUDA one, else the CPU. Apple's MPS is not used: it was never tried with this project."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Speed:
    """How a training step is computed, and why so."""

    precision: str
    attention: str
    compile: bool
    loader_workers: int
    reasons: str


def choose_speed(settings: params.Train, device: torch.device, steps: int) -> Speed:
    """What `auto` comes to on this device, for a run of so many steps; and what was given instead.

    Raises UserError where torch.compile is asked for and cannot work.
    """
    in_hardware = computes_in_bfloat16(device)
    worth_compiling = device.type == "cuda" and steps >= _STEPS_WORTH_COMPILING
    choices = {
        "precision": (
            settings.precision,
            "bfloat16" if in_hardware else "float32",
            "the hardware multiplies in it" if in_hardware else "the hardware has no bfloat16",
        ),
        "attention": (settings.attention, "sdpa", "fused"),
        "compile": (
            settings.compile,
            worth_compiling,
            "a long run on a GPU" if worth_compiling else "pays in long runs on a GPU",
        ),
        "loader_workers": (settings.loader_workers, 0, "rows are read from mapped memory"),
    }
    values = {name: auto if given == "auto" else given for name, (given, auto, _) in choices.items()}
    reasons = ", ".join(
        f"{name.replace('_', ' ')} {str(values[name]).lower()} ({reason if given == 'auto' else 'as set'})"
        for name, (given, _, reason) in choices.items()
    )
    if values["compile"] and device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise UserError(f"train.compile: true needs a C++ compiler here, one of {', '.join(_COMPILERS)}")
    return Speed(**values, reasons=reasons)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16, and so faster than in float32.

    GPUs do since NVIDIA's Ampere. Processors do with AVX512-BF16 or AMX; on others torch emulates it, and is slower.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    described = Path("/proc/cpuinfo")
    flags = described.read_text(encoding="utf-8") if described.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


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
