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
from torch.nn.functional import log_softmax, pad, softmax

from stages.lib.model import devices
from stages.lib.model.attention import DOCUMENTS
from stages.lib.rows.packing import IGNORE

# Logits made at once. Fewer would make the matrix products slower: a chunk is some hundred tokens of GPT-2.
_LOGITS_ON_CPU = 2**25
_TENSOR_CORES = 64  # columns that a card's matrix units take without a rest


def summed_nats(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    labels: torch.Tensor,
    documents: torch.Tensor | None = None,
    predicted: torch.Tensor | None = None,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch to be minimised, and its nats: both summed over the labels, scalars in float64.

    The inputs are those of `scoring.next_token_nats`, whose sum the nats are, and what `batches.collate` has found in
    them; without, it is looked for here. With `smoothing` the loss is the cross
    entropy to a target that gives 1 - smoothing to the label and the rest to all tokens alike (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567, section 7); without, it is the nats. `dtype`: of the operands of the products
    with the output matrix.
    """
    known = {DOCUMENTS: documents} if model.config._attn_implementation == DOCUMENTS else {}
    # No attention mask and no cache: with either, transformers 5.18 lets packed documents see each other.
    hidden = model.transformer(
        input_ids=input_ids, position_ids=position_ids, use_cache=False, **known
    ).last_hidden_state
    if predicted is None:
        predicted = pad(labels[:, 1:] != IGNORE, (1, 0)).flatten().nonzero().flatten()
    rows = hidden.flatten(0, 1).index_select(0, predicted - 1)  # each predicts the token after it
    return _SummedNats.apply(
        rows.to(dtype), model.lm_head.weight, labels.flatten().index_select(0, predicted), smoothing
    )


def parts(tokens: int, vocabulary: int, device: torch.device) -> int:
    """In how many parts the logits of so many tokens are made, one after the other."""
    return max(1, math.ceil(tokens / devices.at_once(vocabulary, _LOGITS_ON_CPU, device)))


class _SummedNats(torch.autograd.Function):
    """From hidden states [tokens, width], output matrix [vocabulary, width] and targets [tokens]."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, vocabulary = len(hidden), len(weight)
        chunks = parts(tokens, vocabulary, hidden.device)
        operand = _filled(weight.to(hidden.dtype))
        of_hidden = torch.empty_like(hidden)
        of_weight = None
        nats = torch.zeros((), dtype=torch.float64, device=hidden.device)
        loss = torch.zeros_like(nats)
        for rows, target, gradient in zip(
            hidden.chunk(chunks), targets.chunk(chunks), of_hidden.chunk(chunks), strict=True
        ):
            logits = (rows @ operand.T).float()
            logits[:, vocabulary:] = -torch.inf  # no tokens
            log_p = log_softmax(logits, dim=-1)
            chunk_nats = -log_p.gather(1, target[:, None]).double().sum()
            nats += chunk_nats
            loss += (1 - smoothing) * chunk_nats
            if smoothing:
                loss -= smoothing * log_p[:, :vocabulary].double().mean(dim=-1).sum()
            del log_p
            # d loss / d logits: the probabilities less the target's.
            of_logits = softmax(logits, dim=-1)
            del logits
            of_logits[torch.arange(len(target), device=target.device), target] -= 1 - smoothing
            if smoothing:
                of_logits[:, :vocabulary] -= smoothing / vocabulary
            of_logits = of_logits.to(hidden.dtype)
            torch.mm(of_logits, operand, out=gradient)
            if of_weight is not None and hidden.dtype == weight.dtype:
                of_weight.addmm_(of_logits.T[:vocabulary], rows)
            elif ctx.needs_input_grad[1]:
                # The largest sum of a step: what comes first is not added to zeros.
                made = (of_logits.T @ rows)[:vocabulary]
                of_weight = made.to(weight.dtype) if of_weight is None else of_weight.add_(made)
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(nats)
        return loss, nats

    @staticmethod
    def backward(ctx: Any, of_loss: torch.Tensor, of_nats: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        scale = of_loss.float()
        of_hidden = (of_hidden.float() * scale).to(of_hidden.dtype)  # the scale itself is not rounded
        return of_hidden, None if of_weight is None else of_weight.mul_(scale), None, None


def _filled(matrix: torch.Tensor) -> torch.Tensor:
    """The output matrix, [vocabulary, width], on a card with rows of zeros up to what its matrix units like.

    GPT-2's 50 257 tokens are no multiple of anything; a processor takes them as they are.
    """
    return matrix if matrix.device.type == "cpu" else pad(matrix, (0, 0, 0, -len(matrix) % _TENSOR_CORES))
