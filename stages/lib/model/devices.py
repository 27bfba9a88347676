"""The machine the model runs on: which device, and how its memory is handled."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from stages.lib.common import params
from stages.lib.common.cli import UserError
from stages.lib.model import processor
from stages.lib.model.attention import DOCUMENTS, works_on

_STEPS_WORTH_COMPILING = 1000  # it takes about a minute
# What torch.compile looks for: for a processor, and (by way of Triton) for a card.
_COMPILERS = {"cpu": ("g++", "clang++", "cl"), "cuda": ("cc", "gcc", "clang")}
_MOST_LOGITS, _BYTES_A_LOGIT = 2**28, 14  # of a loss: three copies in float32, one in bfloat16
_SHARE_FOR_LOGITS = 16  # one part in so many of a card's memory
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4  # glibc's <malloc.h>


def choose() -> torch.device:
    """The GPU if there is a CUDA one, else the CPU. Apple's MPS is not used: it was never tried with this project.

    float32 means float32 from here on: some containers ask for TF32 in its place by a variable of the environment.
    """
    torch.set_float32_matmul_precision("highest")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def repeat_exactly(device: torch.device, wanted: bool) -> None:
    """Take only kernels that give the same bytes every time, if that is `wanted`. Before CUDA is used."""
    if device.type == "cuda" and wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's own condition for repeatable sums
        torch.use_deterministic_algorithms(True)


@contextmanager
def any_kernel() -> Iterator[None]:
    """Take whatever kernel there is: drawing a token has none on a card that repeats exactly (torch 2.13, cumsum)."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def at_once(vocabulary: int, on_cpu: int, device: torch.device) -> int:
    """Of how many tokens to make the logits at once: `on_cpu` logits, or as many as a card has memory for."""
    if device.type == "cpu":
        return max(1, on_cpu // vocabulary)
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, min(_MOST_LOGITS, memory // _SHARE_FOR_LOGITS // _BYTES_A_LOGIT) // vocabulary)


@dataclass(frozen=True)
class Speed:
    """How a training step is computed, and why so."""

    precision: str
    attention: str
    compile: bool
    loader_workers: int
    reasons: str

    @property
    def deciding(self) -> dict[str, Any]:
        """What of it decides the bytes of a run's weights."""
        return {"precision": self.precision, "attention": self.attention, "compile": self.compile}


def choose_speed(settings: params.Train, device: torch.device, steps: int, width: int = 64) -> Speed:
    """What `auto` comes to on this device, for a run of so many steps; and what was given instead.

    `width` is that of an attention head. Raises UserError where torch.compile is asked for and cannot work, or dropout
    or the card's kernel where there is none.
    """
    in_hardware = computes_in_bfloat16(device)
    by_document = not settings.dropout and _attends_to_documents(settings, device, width)
    choices = {
        "precision": (
            settings.precision,
            precision(settings, device),
            "the hardware multiplies in it" if in_hardware else "the hardware is no faster in bfloat16",
        ),
        "attention": (
            settings.attention,
            DOCUMENTS if by_document else "sdpa",
            "what a document cannot see is not computed" if by_document else "fused",
        ),
        "compile": (settings.compile, *_compiling(settings, device, steps)),
        "loader_workers": (settings.loader_workers, 0, "rows are read from mapped memory"),
    }
    values = {name: auto if given == "auto" else given for name, (given, auto, _) in choices.items()}
    reasons = ", ".join(
        f"{name.replace('_', ' ')} {str(values[name]).lower()} ({reason if given == 'auto' else 'as set'})"
        for name, (given, _, reason) in choices.items()
    )
    if values["compile"] and not _compiler(device):
        raise UserError(f"train.compile: true needs a compiler here, one of {', '.join(_COMPILERS[device.type])}")
    return Speed(**values, reasons=reasons)


def _compiling(settings: params.Train, device: torch.device, steps: int) -> tuple[bool, str]:
    """Whether torch.compile pays, and why so."""
    # Nobody has seen what it gains beside the exchange of a sharded model.
    if device.type == "cpu" or steps < _STEPS_WORTH_COMPILING or settings.sharding != "none":
        return False, "pays in long runs on a GPU"
    return (True, "a long run on a GPU") if _compiler(device) else (False, "a C compiler is missing")


def _compiler(device: torch.device) -> bool:
    return any(map(shutil.which, _COMPILERS[device.type]))


def _attends_to_documents(settings: params.Train, device: torch.device, width: int) -> bool:
    """Whether attention over documents is the faster one, and works.

    What is compiled on a processor takes any lengths, and so the mask over whole rows.
    """
    if device.type == "cpu":
        return settings.compile is not True
    return precision(settings, device) == "bfloat16" and works_on(device, width)


def precision(settings: params.Train, device: torch.device) -> str:
    """What `train.precision` comes to on this device: bfloat16 where the hardware has it, unless it was given."""
    if settings.precision != "auto":
        return settings.precision
    return "bfloat16" if computes_in_bfloat16(device) else "float32"


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16, and so faster than in float32.

    GPUs do since NVIDIA's Ampere, processors with AMX, and AMD's with AVX512-BF16. Intel's have that too, but where a
    virtual machine hides their AMX, products in bfloat16 take twice as long as in float32 (seen on a Xeon of 2023). On
    others torch emulates it, and is slower.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return processor.has("amx_bf16") or (processor.has("avx512_bf16") and processor.vendor() != "GenuineIntel")


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
    _mallopt({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28})


def return_freed_memory() -> None:
    """Make glibc hand every large block back to the kernel once it is freed, and leave no gaps in its heap.

    It does so by itself only with blocks that are larger than any it has freed before, up to 32 MiB. Takes a quarter
    less memory than `keep_freed_memory` with 124 M parameters. Does nothing where the C library is another one.
    """
    _mallopt({_M_MMAP_THRESHOLD: 2**20})


def _mallopt(options: dict[int, int]) -> None:
    if sys.platform == "linux" and (set_one := getattr(ctypes.CDLL(None), "mallopt", None)):
        for option, value in options.items():
            set_one(option, value)
