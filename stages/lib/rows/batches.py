"""Rows of tokens into the tensors a model trains on.

Three tensors of the shape [rows, length]: `input_ids`; `position_ids`, which start again at 0 with every segment and
so keep the documents of a row apart; and `labels`, which are the ids again, but `IGNORE` on the first token of every
segment (context only) and on padding. Padding stands at the end of a row, each pad token a segment of its own.

Two more say what follows from these, counted through the rows one after the other, so that a card, on which it could be
looked for, need not be waited for: `documents`, where each segment begins and the last one ends, int32 [segments + 1];
and `predicted`, where there are labels, int64 [tokens].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from stages.lib.rows.packing import IGNORE

# With dropout in attention, torch 2.13 computes the gradient of a softmax to the same bytes on any number of threads
# only where rows fill its registers, of 16 numbers. Tensor cores like that, too.
_FILLED = 16


def open_rows(folder: str | Path, split: str) -> Dataset:
    """The packed rows of a split, memory-mapped: nothing is read before a row is asked for."""
    return Dataset.from_file(str(Path(folder) / f"{split}.arrow")).with_format("numpy", ["input_ids", "lengths"])


def longest(rows: Dataset) -> int:
    """The tokens of the longest of `rows`; 0 without any."""
    return pc.max(pc.list_value_length(rows.data.column("input_ids"))).as_py() or 0


def collate(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Make one batch of rows (each with `input_ids` and `lengths`), padded to the next multiple of 16."""
    ids = [torch.tensor(row["input_ids"], dtype=torch.int64) for row in rows]
    positions = [torch.cat([torch.arange(length) for length in row["lengths"].tolist()]) for row in rows]
    labels = [torch.where(places > 0, tokens, IGNORE) for places, tokens in zip(positions, ids, strict=True)]
    batch = {"input_ids": _padded(ids), "position_ids": _padded(positions), "labels": _padded(labels, IGNORE)}
    length = batch["input_ids"].shape[1]
    sizes = [size for row in rows for size in (*row["lengths"].tolist(), *[1] * (length - len(row["input_ids"])))]
    return batch | {
        "documents": torch.tensor([0, *accumulate(sizes)], dtype=torch.int32),
        "predicted": (batch["labels"].flatten() != IGNORE).nonzero().flatten(),
    }


def _padded(rows: Sequence[torch.Tensor], value: int = 0) -> torch.Tensor:
    batch = pad_sequence(rows, batch_first=True, padding_value=value)
    return pad(batch, (0, -batch.shape[1] % _FILLED), value=value)
