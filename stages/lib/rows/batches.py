"""Rows of tokens into the tensors a model trains on.

Three tensors of the shape [rows, length]: `input_ids`; `position_ids`, which start again at 0 with every segment and
so keep the documents of a row apart; and `labels`, which are the ids again, but `IGNORE` on the first token of every
segment (context only) and on padding. Padding stands at the end of a row, each pad token a segment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from stages.lib.rows.packing import IGNORE


def open_rows(folder: str | Path, split: str) -> Dataset:
    """The packed rows of a split, memory-mapped: nothing is read before a row is asked for."""
    return Dataset.from_file(str(Path(folder) / f"{split}.arrow")).with_format("numpy", ["input_ids", "lengths"])


def collate(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Make one batch of rows (each with `input_ids` and `lengths`), padded to the longest of them."""
    ids = [torch.tensor(row["input_ids"], dtype=torch.int64) for row in rows]
    positions = [torch.cat([torch.arange(length) for length in row["lengths"].tolist()]) for row in rows]
    labels = [torch.where(places > 0, tokens, IGNORE) for places, tokens in zip(positions, ids, strict=True)]
    pad = partial(pad_sequence, batch_first=True)
    return {"input_ids": pad(ids), "position_ids": pad(positions), "labels": pad(labels, padding_value=IGNORE)}
