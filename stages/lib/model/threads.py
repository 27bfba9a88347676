"""The same bytes on any number of threads.

Threads that share one sum, or one tensor, make its last digits depend on how many they are. Three things do so in a
GPT-2 on the processor, and each is mended here: matrix products, which MKL divides as it likes unless told not to;
the gradients of layer norms, summed by each thread for itself; and activations, whose fast form for many numbers at
once differs from the form for the few that are left over at the end of each thread's share.

Products in bfloat16 are oneDNN's, which divides the longest sums among threads where the processor has AMX, and has no
setting against it: `matter` says where the number of threads still decides the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from transformers import GPT2LMHeadModel

from stages.lib.common import cli
from stages.lib.model import processor

# As far as torch 2.13 goes: an activation of up to so many numbers is one thread's, and no share has fewer...
_ONE_THREAD, _SHARE = 2**14, 2**15
# ... and shares of a multiple of so many numbers leave nothing over: two registers of AVX-512, in bfloat16.
_AT_ONCE = 64


def matter(device: torch.device, precision: str, memory: str = "usual") -> bool:
    """Whether the number of threads changes the bytes of what a model computes on `device` in this precision.

    With `memory: small` it does: Adafactor takes the mean over all rows of the embedding as one sum.
    """
    divided = memory == "small" or (precision == "bfloat16" and processor.has("amx_bf16"))
    known_not_to = _mkl_branch() and not divided
    return device.type == "cpu" and not known_not_to


def share_alike(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """Make a model compute the same bytes on any number of threads, on the processor; returns it, with its weights."""
    if branch := _mkl_branch():
        # MKL reads it at its first product. A named branch, as an automatic one may differ between processors.
        os.environ["MKL_CBWR"] = f"{branch},STRICT"
    for block in model.transformer.h:
        block.ln_1, block.ln_2 = _LayerNorm.of(block.ln_1), _LayerNorm.of(block.ln_2)
        block.mlp.act = _Activation(block.mlp.act)
    model.transformer.ln_f = _LayerNorm.of(model.transformer.ln_f)
    return model


def _mkl_branch() -> str | None:
    """The name that MKL has for this processor's instructions, where it can keep the order of sums for them."""
    if not torch.backends.mkl.is_available() or processor.vendor() != "GenuineIntel":
        return None
    return {"AVX2": "AVX2", "AVX512": "AVX512"}.get(torch.backends.cpu.get_cpu_capability())


class _LayerNorm(torch.nn.LayerNorm):
    @classmethod
    def of(cls, given: torch.nn.LayerNorm) -> _LayerNorm:
        made = cls(given.normalized_shape, given.eps, device="meta")
        made.weight, made.bias = given.weight, given.bias
        return made.train(given.training)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.device.type != "cpu":
            return super().forward(hidden)
        return _Normalised.apply(hidden, self.weight, self.bias, self.eps)


class _Normalised(torch.autograd.Function):
    """Layer norm of hidden states [..., width]. torch's own, but for the gradients of weight and bias: those are sums
    over all tokens, taken here one column a thread.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        normalised, mean, scale = torch.native_layer_norm(hidden, weight.shape, weight, bias, epsilon)
        ctx.save_for_backward(hidden, weight, bias, mean, scale)
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, mean, scale = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_hidden, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, hidden, weight.shape, mean, scale, weight, bias, [ctx.needs_input_grad[0], False, False]
        )
        of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            normalised = (hidden - mean).mul_(scale).mul_(gradient)
            of_weight, of_bias = normalised.flatten(0, -2).sum(0), gradient.flatten(0, -2).sum(0)
        return of_hidden, of_weight, of_bias, None


class _Activation(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        pieces = _pieces(values.numel(), torch.get_num_threads()) if values.device.type == "cpu" else None
        if pieces is None:
            return self._function(values)
        return torch.cat([self._function(piece) for piece in values.flatten().split(pieces)]).view_as(values)


def _pieces(numbers: int, threads: int) -> list[int] | int | None:
    """How to divide so many numbers for an element-wise function, each piece being divided evenly among the threads.

    None: they need not be divided.
    """
    if numbers <= _ONE_THREAD or threads == 1:
        return None
    if numbers < threads * _SHARE:
        return _ONE_THREAD
    left_over = numbers % (_AT_ONCE * threads)
    return [numbers - left_over, left_over] if left_over else None


def keep(begun_with: int | None) -> int:
    """Compute with as many threads as a run began with, whatever there are now; return how many that are."""
    now = torch.get_num_threads()
    count = begun_with or now
    if count != now:
        cli.say(f"train: {count} threads, as the run began with, not {now}: for the same bytes")
        torch.set_num_threads(count)
    return count
