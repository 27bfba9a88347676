"""Attention over documents, not over rows: what a document cannot see is not computed.

transformers keeps the documents of a row apart by a mask over the whole row, under which everything is computed and
most of it thrown away. Here the row is cut where the positions start again. On a processor each document is computed by
itself, or together with neighbours of the same length; on a card torch's kernel for packed rows (FlashAttention,
`varlen`) takes all at once. transformers takes it under the name `documents`; where there is a mask or a cache, as in
generation, that is `sdpa`.

Where documents begin is a tensor as that kernel has it (`cu_seqlens`): int32, [documents + 1], counted through the rows
one after the other, and in the end how many tokens there are. Batches bring it along; from positions alone it has to be
looked for, for which a card would be waited for.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, GPT2LMHeadModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

DOCUMENTS = "documents"
# Scores computed at once in the backward pass: some megabytes, near the processor's caches.
_SCORES = 2**20
# Lengths are filled up to a multiple of this there: for every new shape oneDNN makes, in milliseconds, a kernel anew.
_FILLED = 32
_CAUSAL_WINDOW = (-1, 0)  # all that comes before, nothing that comes after


def find_documents(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """Have a model whose attention is `documents` look for them once in every input; returns it."""
    if model.config._attn_implementation == DOCUMENTS:
        model.transformer.register_forward_pre_hook(_with_documents, with_kwargs=True)
    return model


def documents_in(position_ids: torch.Tensor) -> torch.Tensor:
    """Where the documents in rows of positions, [rows, length], begin, and where the last one ends: [documents + 1].

    A document starts with a row, and wherever a position is not the one after its neighbour's.
    """
    starts = torch.ones_like(position_ids, dtype=torch.bool)
    starts[:, 1:] = position_ids.diff() != 1
    return pad(starts.flatten().nonzero().flatten(), (0, 1), value=position_ids.numel()).int()


def works_on(device: torch.device, width: int) -> bool:
    """Whether torch's kernel for packed rows does on this card what it should, with heads so wide: it is tried."""
    drawn = torch.Generator().manual_seed(0)
    given = [torch.randn(1, 2, 5, width, generator=drawn).bfloat16() for _ in range(3)]
    documents, outcome = torch.tensor([0, 2, 5], dtype=torch.int32), []
    try:
        for place in (torch.device("cpu"), device):
            states = [one.to(place, copy=True).requires_grad_() for one in given]
            seen, _ = _attend(None, *states, None, width**-0.5, documents=documents.to(place))
            outcome.append([seen.cpu(), *(one.cpu() for one in torch.autograd.grad(seen.square().sum(), states))])
    except torch.OutOfMemoryError:  # says nothing of the kernel
        raise
    except RuntimeError:
        return False
    return all(torch.allclose(one, other, rtol=0.05, atol=0.05) for one, other in zip(*outcome, strict=True))


def _with_documents(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positions = given.get("position_ids")
    if positions is None or given.get("attention_mask") is not None or given.get("past_key_values") is not None:
        return args, given
    documents = given.get(DOCUMENTS)
    if documents is None:
        documents = documents_in(positions)
    # A mask of four dimensions is taken for a finished one. Without any the library would look for documents too.
    return args, given | {DOCUMENTS: documents, "attention_mask": positions.new_empty(0, 0, 0, 0)}


def _attend(
    module: torch.nn.Module | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    documents: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers asks for it: from [rows, heads, length, width] to [rows, length, heads, width]."""
    if documents is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    rows, _, length, _ = query.shape
    tokens = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    if _in_one_kernel(query):
        # No document is longer than a row. Its true length would have to be fetched from the card.
        attended = varlen_attn(*tokens, documents, documents, length, length, scale=scaling, window_size=_CAUSAL_WINDOW)
    else:
        attended = _one_by_one(*tokens, documents, scaling, dropout)
    return attended.unflatten(0, (rows, length)), None


def _in_one_kernel(query: torch.Tensor) -> bool:
    return query.device.type == "cuda" and query.dtype == torch.bfloat16


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: torch.Tensor,
    scaling: float,
    dropout: float,
) -> torch.Tensor:
    """From tokens [tokens, heads, width] to the same shape: neighbours of one length are computed at once."""
    alike = [(len(list(same)), length) for length, same in groupby(documents.diff().tolist())]
    sizes = [count * length for count, length in alike]
    own_gradient = query.dtype == torch.bfloat16 and query.device.type == "cpu" and not dropout
    attended = []
    for some, *parts in zip(alike, *(states.split(sizes) for states in (query, key, value)), strict=True):
        states = [part.unflatten(0, some).transpose(1, 2) for part in parts]
        if own_gradient:
            seen = _Causal.apply(*states, scaling)
        else:
            seen = scaled_dot_product_attention(*states, dropout_p=dropout, is_causal=True, scale=scaling)
        attended.append(seen.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)


class _Causal(torch.autograd.Function):
    """Causal attention of [documents, heads, length, width]. torch's own, but for the gradient: in bfloat16 torch 2.13
    computes that two to three times as slow on the processor as these products do.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *outer_shape, length, _ = gradient.shape
        # What is filled up comes later than all else, so that nothing sees it; and nothing comes back from it.
        filling = (0, 0, 0, -length % _FILLED)
        given = [pad(states, filling).contiguous().flatten(0, 1) for states in (*ctx.saved_tensors, gradient)]
        made = [torch.empty_like(given[0]) for _ in range(3)]
        length += filling[-1]
        unseen = torch.full((length, length), -torch.inf, dtype=gradient.dtype).triu_(1)
        some = (states.split(max(1, _SCORES // length**2)) for states in (*given, *made))
        for query, key, value, outer, of_query, of_key, of_value in zip(*some, strict=True):
            scaled = query * ctx.scaling
            weights = torch.baddbmm(unseen, scaled, key.mT).softmax(-1)
            of_weights = torch.bmm(outer, value.mT)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            torch.bmm(of_scores, key, out=of_query).mul_(ctx.scaling)
            torch.bmm(of_scores.mT, scaled, out=of_key)
            torch.bmm(weights.mT, outer, out=of_value)
        return *(states.unflatten(0, outer_shape)[:, :, : gradient.shape[2]] for states in made), None


AttentionInterface.register(DOCUMENTS, _attend)
AttentionMaskInterface.register(DOCUMENTS, sdpa_mask)
