"""One scorer for everything: training's loss, validation during training, and the final evaluation.

All of them rest on `next_token_nats`. A document is scored by itself, after the token that opens a text; one longer
than the model's context is read in overlapping windows, each token scored once. Nats are added up in float64.

Bits per byte = nats of the document's own tokens / (ln 2 x UTF-8 bytes of its text). The token that closes a
text is not in it and stands apart. The figure compares models with different tokenizers, which perplexity does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from stages.lib.model import devices
from stages.lib.processes.group import ALONE, Group
from stages.lib.rows.packing import IGNORE, Document
from stages.lib.rows.tokens import text_tokens

# Logits made at once, and tokens (padding included) that go through the model at once: as many as are fastest.
_LOGITS_ON_CPU = 2**22
_TOKENS_ON_CPU, _TOKENS_ON_GPU = 2**11, 2**15
_BUFFER = 256  # documents that are sorted by length together, so that batches need little padding


def next_token_nats(
    model: PreTrainedModel, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The negative log-likelihood of each label given the tokens before it, in nats.

    All three inputs have the shape [rows, length]. `labels` equals `input_ids` where the token is to be predicted and
    `IGNORE` elsewhere; the first column is never predicted. Position ids that start again at 0 keep the documents of
    a row apart. Returns float32, shape [rows, length - 1], 0 where the label is `IGNORE`.
    """
    # No attention mask and no cache: with either, transformers 5.18 lets packed documents see each other.
    hidden = model.transformer(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    predicted = labels[:, 1:] != IGNORE
    nats = torch.zeros(predicted.shape, device=labels.device)
    # Logits are by far the largest thing here: only those that are needed, and only some at a time.
    at_once = devices.at_once(model.config.vocab_size, _LOGITS_ON_CPU, labels.device)
    nats[predicted] = torch.cat(
        [
            cross_entropy(model.lm_head(some).float(), targets, reduction="none")
            for some, targets in zip(
                hidden[:, :-1][predicted].split(at_once), labels[:, 1:][predicted].split(at_once), strict=True
            )
        ]
    )
    return nats


@dataclass(frozen=True)
class Score:
    """What a model gives one document: nats over its own tokens, and over the token that closes it."""

    line: int
    size: int  # UTF-8 bytes of the text
    tokens: int  # the document's own, without those that open and close it
    nats: float
    end_of_text_nats: float


@dataclass(frozen=True)
class Total:
    """Scores added up over documents."""

    documents: int
    size: int
    tokens: int
    nats: float
    end_of_text_nats: float

    @property
    def bits_per_byte(self) -> float | None:
        """None without documents."""
        return self.nats / (math.log(2) * self.size) if self.size else None

    @property
    def perplexity(self) -> float | None:
        """exp(nats per token); None without documents, and where it is beyond what a float holds."""
        return perplexity(self.nats, self.tokens)


def perplexity(nats: float, units: int) -> float | None:
    """exp(nats per token, word or other unit); None without any, and where it is beyond what a float holds."""
    return math.exp(nats / units) if units and nats / units < 700 else None


def total(scores: Iterable[Score]) -> Total:
    """Add scores up, exactly rounded, so that the order of the documents does not matter."""
    scores = list(scores)
    return Total(
        documents=len(scores),
        size=sum(score.size for score in scores),
        tokens=sum(score.tokens for score in scores),
        nats=math.fsum(score.nats for score in scores),
        end_of_text_nats=math.fsum(score.end_of_text_nats for score in scores),
    )


@dataclass(frozen=True)
class _Window:
    document: int  # its place in the buffer
    ids: np.ndarray
    first: int  # index in `ids` of the first token that no earlier window has scored


def _windows(document: int, ids: np.ndarray, context: int, stride: int) -> Iterator[_Window]:
    scored = 1  # tokens of `ids` that need no score any more; the opening one never does
    for start in range(0, len(ids), stride):
        window = ids[start : start + context]
        yield _Window(document, window, scored - start)
        scored = start + len(window)
        if scored == len(ids):
            return


@torch.no_grad()
def score_documents(
    model: PreTrainedModel,
    documents: Iterable[Document],
    stride: int | None = None,
    batch_tokens: int | None = None,
    check: Callable[[], None] = lambda: None,
    group: Group = ALONE,
) -> Iterator[Score]:
    """Yield the score of each document, in order. Raises ValueError for one that is not whole: it has no end to score.

    `stride`: by how many tokens the window moves on over a document longer than the context; each token then has at
    least context - stride tokens before it. Half the context by default. `batch_tokens`: tokens, padding included,
    that go through the model at once. `check` is called before each batch, and may raise. The processes of `group`
    take turns with the batches, each making as many passes as the others, and each yields all scores. The model is
    scored in evaluation mode and handed back in the mode it was in.
    """
    context = model.config.n_positions
    if stride is None:
        stride = context // 2
    if batch_tokens is None:
        batch_tokens = _TOKENS_ON_CPU if model.device.type == "cpu" else _TOKENS_ON_GPU
    if not 0 < stride < context:
        raise ValueError(f"stride {stride} must be at least 1 and below the model's context of {context} tokens")
    training = model.training
    model.eval()
    try:
        documents = iter(documents)
        while buffer := list(islice(documents, _BUFFER)):
            yield from _score_buffer(model, buffer, context, stride, batch_tokens, check, group)
    finally:
        model.train(training)


def _score_buffer(
    model: PreTrainedModel,
    buffer: list[Document],
    context: int,
    stride: int,
    batch_tokens: int,
    check: Callable[[], None],
    group: Group,
) -> Iterator[Score]:
    if not all(document.whole for document in buffer):
        raise ValueError("only whole documents can be scored")
    windows = [w for place, document in enumerate(buffer) for w in _windows(place, document.ids, context, stride)]
    windows.sort(key=lambda window: -len(window.ids))
    of_windows = np.zeros((2, len(windows)))  # nats of the document's own tokens, and of the one that closes it
    at, turn = 0, 0
    while at < len(windows):
        batch = windows[at : at + max(1, batch_tokens // len(windows[at].ids))]
        if turn % group.size == group.rank:
            check()
            for place, (window, row) in enumerate(zip(batch, _score_batch(model, batch), strict=True), at):
                ends = window.ids[-1] == buffer[window.document].ids[-1]
                of_windows[:, place] = (row[:-1].sum(), row[-1]) if ends else (row.sum(), 0)
        at, turn = at + len(batch), turn + 1
    if 0 < turn % group.size <= group.rank:
        _score_batch(model, batch)  # once more: a sharded model takes all processes, and others wait in any case
    nats, end_of_text_nats = np.zeros((2, len(buffer)))
    for window, own, end in zip(windows, *group.sum(of_windows), strict=True):
        nats[window.document] += own
        end_of_text_nats[window.document] += end
    for place, document in enumerate(buffer):
        yield Score(
            document.line, document.size, text_tokens(document), float(nats[place]), float(end_of_text_nats[place])
        )


def _score_batch(model: PreTrainedModel, batch: list[_Window]) -> list[np.ndarray]:
    """The nats (float64) of each window's tokens from `first` on."""
    # Padding stands at the end, where causal attention keeps it out of sight of every real token.
    length = len(batch[0].ids)
    input_ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), IGNORE)
    for row, window in enumerate(batch):
        ids = torch.from_numpy(window.ids.astype(np.int64))
        input_ids[row, : len(ids)] = ids
        labels[row, window.first : len(ids)] = ids[window.first :]
    positions = torch.arange(length).expand_as(input_ids)
    inputs = (tensor.to(model.device) for tensor in (input_ids, positions, labels))
    nats = next_token_nats(model, *inputs).double().cpu().numpy()
    return [nats[row, window.first - 1 : len(window.ids) - 1] for row, window in enumerate(batch)]
