"""Training's loss, without ever holding the logits of a whole batch.

GPT-2's 50 257 logits a token, and the copies that a loss makes of them, are by far the largest thing in a training
step: 8 rows of 512 tokens come to 0.8 GB a copy. Here they are made, turned into gradients and dropped some rows at a
time, in the forward pass already: the gradient of a sum needs to know nothing of what comes after. The cost is one
gradient of the output matrix that is held until the backward pass; no operation is done twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import log_softmax, softmax

from stages.lib.rows.packing import IGNORE

# Logits made at once. Fewer would make the matrix products slower: a chunk is some hundred tokens of GPT-2.
_LOGITS_ON_CPU, _LOGITS_ON_GPU = 2**25, 2**28


def summed_nats(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch to be minimised, and its nats: both summed over the labels, scalars in float64.

    The inputs are those of `scoring.next_token_nats`, whose sum the nats are. With `smoothing` the loss is the cross
    entropy to a target that gives 1 - smoothing to the label and the rest to all tokens alike (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567, section 7); without, it is the nats. `dtype`: of the operands of the products
    with the output matrix.
    """
    # No attention mask and no cache: with either, transformers 5.18 lets packed documents see each other.
    hidden = model.transformer(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    predicted = labels[:, 1:] != IGNORE
    return _SummedNats.apply(
        hidden[:, :-1][predicted].to(dtype), model.lm_head.weight, labels[:, 1:][predicted], smoothing
    )


class _SummedNats(torch.autograd.Function):
    """From hidden states [tokens, width], output matrix [vocabulary, width] and targets [tokens]."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, vocabulary = len(hidden), len(weight)
        at_once = max(1, (_LOGITS_ON_CPU if hidden.device.type == "cpu" else _LOGITS_ON_GPU) // vocabulary)
        chunks = max(1, math.ceil(tokens / at_once))
        operand = weight.to(hidden.dtype)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        nats = torch.zeros((), dtype=torch.float64, device=hidden.device)
        loss = torch.zeros_like(nats)
        for rows, target, gradient in zip(
            hidden.chunk(chunks), targets.chunk(chunks), of_hidden.chunk(chunks), strict=True
        ):
            logits = (rows @ operand.T).float()
            log_p = log_softmax(logits, dim=-1)
            chunk_nats = -log_p.gather(1, target[:, None]).double().sum()
            nats += chunk_nats
            loss += (1 - smoothing) * chunk_nats
            if smoothing:
                loss -= smoothing * log_p.double().mean(dim=-1).sum()
            del log_p
            # d loss / d logits: the probabilities less the target's.
            of_logits = softmax(logits, dim=-1)
            del logits
            of_logits[torch.arange(len(target), device=target.device), target] -= 1 - smoothing
            if smoothing:
                of_logits -= smoothing / vocabulary
            of_logits = of_logits.to(hidden.dtype)
            torch.mm(of_logits, operand, out=gradient)
            if of_weight is not None and hidden.dtype == weight.dtype:
                of_weight.addmm_(of_logits.T, rows)
            elif of_weight is not None:
                of_weight += of_logits.T @ rows
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(nats)
        return loss, nats

    @staticmethod
    def backward(ctx: Any, of_loss: torch.Tensor, of_nats: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        scale = of_loss.float()
        of_hidden = (of_hidden.float() * scale).to(of_hidden.dtype)  # the scale itself is not rounded
        return of_hidden, None if of_weight is None else of_weight.mul_(scale), None, None
